"""Which calls on files are to fail, and how."""

from __future__ import annotations

import errno
from dataclasses import dataclass


@dataclass
class Fault:
    """The call to break.

    calls: by name. where: how the name of the file ends. after: so many of them are left alone. times: how many then fail, with the error
    `number`. short: a write does a part and says so, in place of an error.
    """

    calls: tuple[str, ...]
    after: int = 0
    times: int = 1
    number: int = errno.ENOSPC
    short: bool = False
    where: str = ""

    def strikes(self, call: str, what: str) -> bool:
        if call not in self.calls or self.times <= 0 or not what.endswith(self.where):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        self.times -= 1
        return True
