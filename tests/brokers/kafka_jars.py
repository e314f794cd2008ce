"""The jars of a Kafka broker, in a folder of the user's cache: fetched once by Maven, compared with the sums in `kafka.sha256`.

Run as a script to fetch them ahead. Maven's own settings (`settings.xml`, mirrors, proxies) count; nothing here names a repository.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
POM, SUMS = HERE / "kafka.xml", HERE / "kafka.sha256"
FETCH_S = 600.0
HINT = "`{}` is not installed: apt-get install -y default-jre-headless maven (Debian, Ubuntu), as `make test` does when it runs as root"


def kafka_jars() -> Path:
    """The folder with exactly the jars that are listed. Its name changes with the list, so that an old folder is never taken for it."""
    sums = SUMS.read_text()
    folder = _cache() / f"kafka-{hashlib.sha256(sums.encode()).hexdigest()[:16]}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        _fetch(folder, sums)
    return folder


def java() -> str:
    return _program("java")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mqsdk"


def _program(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, HINT.format(name)
    return found


def _fetch(folder: Path, sums: str) -> None:
    """Into a folder beside it and renamed: two test runs that begin at once do not see each other's halves."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        target = Path(made) / "jars"
        command = [_program("mvn"), "-q", "-B", "-C", "-f", str(POM), "dependency:copy-dependencies"]
        command += [f"-DoutputDirectory={target}", "-DincludeScope=runtime"]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_S, check=False)
        assert ran.returncode == 0, f"the jars of Kafka cannot be fetched: {(ran.stdout + ran.stderr)[-2000:]}"
        _compare(target, sums)
        try:
            target.rename(folder)
        except OSError:
            assert folder.is_dir(), f"{folder} cannot be made"  # another run was faster


def _compare(folder: Path, sums: str) -> None:
    expected = {name: digest for digest, name in (line.split() for line in sums.splitlines())}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert found == expected, f"other files than listed: {sorted(set(found.items()) ^ set(expected.items()))}"


if __name__ == "__main__":
    print(kafka_jars())
