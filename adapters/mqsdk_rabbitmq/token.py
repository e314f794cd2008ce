"""The token of a partition: one message in the partition's owner queue. Who holds it, unacknowledged, owns the partition.

The queue has a single active consumer, so one connection at a time can hold it, and the server hands it on by itself when that connection
is gone. Whoever takes it writes a newer one first and acknowledges the older ones then: at a crash between the two both are there, and the
newest counts. That also makes it safe to add one where one may be missing (`SEED`).
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Token:
    """epoch: of the ownership it stands for. clean: the owner handed the partition back in order. nonce: tells one writing from another.

    gap: the queue of the partition was found missing and declared anew: unread messages are gone.
    """

    epoch: int = 0
    clean: bool = True
    nonce: str = ""
    gap: bool = False

    @classmethod
    def parse(cls, body: bytes) -> Token:
        """What cannot be read counts as the oldest: an owner's clock makes the epochs rise then."""
        try:
            found = json.loads(body)
            return cls(int(found["epoch"]), found["clean"] is True, str(found["nonce"]), found["gap"] is True)
        except (ValueError, KeyError, TypeError):
            return cls(clean=False)

    def encode(self) -> bytes:
        return json.dumps({"epoch": self.epoch, "clean": self.clean, "nonce": self.nonce, "gap": self.gap}).encode()

    def claimed(self) -> Token:
        """The next ownership: above the last epoch, and above the clock, so that epochs rise even where the token itself was lost."""
        return Token(max(self.epoch + 1, time.time_ns() // 1_000_000), False, secrets.token_hex(8))

    def handed_back(self) -> Token:
        return replace(self, clean=True, nonce=secrets.token_hex(8))

    @property
    def rank(self) -> tuple[int, bool]:
        return self.epoch, self.clean


SEED = Token()
