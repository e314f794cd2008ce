"""Which messages must follow the dead letters of their key, in the plainest words: the simulation asks it at every job."""

from __future__ import annotations

from dataclasses import dataclass

from tests.simulation.broken import Broken

Where = tuple[int, int]  # cursor and position of a message


@dataclass
class Letter:
    """stored_at: when it was in the topic of dead letters. told_at: when the machine of this process heard of it, None: not yet."""

    key: bytes
    stored_at: float
    told_at: float | None = None
    by_copy: bool = False


class LetterModel:
    """letters: those that are not purged, by the place of their message. partitions: cursors that far apart are twins."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self.letters: dict[Where, Letter] = {}
        self._assigned_at: dict[int, float] = {}
        self._delivered_at: dict[Where, float] = {}

    def restart(self) -> None:
        """A new process has heard of nothing."""
        for letter in self.letters.values():
            letter.told_at, letter.by_copy = None, False

    def assigned(self, number: int, now: float) -> None:
        self._assigned_at[number] = now

    def delivered(self, number: int, position: int, now: float) -> None:
        self._delivered_at[number, position] = now

    def stored(self, where: Where, key: bytes | None, now: float) -> None:
        if key is not None and where not in self.letters:
            self.letters[where] = Letter(key, now)

    def told(self, where: Where, now: float, by_copy: bool = False) -> None:
        letter = self.letters.get(where)
        if letter is not None:
            letter.told_at = now if letter.told_at is None else letter.told_at
            letter.by_copy |= by_copy

    def given(self, number: int, position: int, key: bytes | None) -> None:
        """A message of the topic is about to run."""
        for (cursor, _), letter in self.letters.items():
            if letter.key != key or cursor % self._partitions != number:
                continue
            is_old = letter.stored_at < self._assigned_at[number]
            is_known = letter.told_at is not None and letter.told_at < self._delivered_at[number, position]
            if is_old or is_known or (letter.by_copy and cursor == number):
                raise Broken(f"{(number, position)} runs although its key has a dead letter that is known")
