"""The limit that the log is held against: a loop of `write` calls in C, with and without fdatasync; in Python where there is no `cc`."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

SOURCE = """
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv) {
    size_t size = atol(argv[2]); long count = atol(argv[3]); int sync = atoi(argv[4]);
    char *data = calloc(1, size); struct timespec from, to;
    int fd = open(argv[1], O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (long i = 0; i < count; i++)
        if (write(fd, data, size) != (ssize_t)size || (sync && fdatasync(fd))) return 1;
    clock_gettime(CLOCK_MONOTONIC, &to);
    printf("%.9f", (to.tv_sec - from.tv_sec) + (to.tv_nsec - from.tv_nsec) / 1e9);
    return 0;
}
"""


class Writes:
    """Makes the program in this folder when it is made."""

    def __init__(self) -> None:
        self._compiler = shutil.which("cc")
        if self._compiler is not None:
            Path("writes.c").write_text(SOURCE)
            subprocess.run([self._compiler, "-O2", "-o", "writes", "writes.c"], check=True)

    def seconds(self, size: int, count: int, sync: bool = False) -> float:
        """For `count` writes of `size` bytes to a new file, which is removed again."""
        try:
            if self._compiler is None:
                return _in_python(size, count, sync)
            command = ["./writes", "raw", str(size), str(count), str(int(sync))]
            return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        finally:
            Path("raw").unlink(missing_ok=True)


def _in_python(size: int, count: int, sync: bool) -> float:
    data = bytes(size)
    with open("raw", "ab", buffering=0) as file:
        began = time.perf_counter()
        for _ in range(count):
            file.write(data)
            if sync:
                os.fdatasync(file.fileno())
        return time.perf_counter() - began
