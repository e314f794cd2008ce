"""How much the backend may deliver: the in-flight limits of a consumer, shared among its partitions.

In flight = received and not finished. At any time in flight + credit given out stays within the limit, over all partitions (bytes: one
record of a partition may pass its share, else a record larger than that could never be delivered).
"""

from __future__ import annotations

from collections.abc import Iterable

from mqsdk.core.actions import Credit, Tuning
from mqsdk.spi.events import Partition

# A partition that delivered nothing for so long lends its share to the others; producers without keys fill one partition at a time.
IDLE_S = 1.0
# Share of an idle partition in relation to an equal one: enough for its first batch.
IDLE_PART = 4
# How long a partition may keep its turn where there are more partitions than records allowed in flight.
TURN_S = 0.05


class Account:
    """records, bytes: in flight. credit_*: given out and not used. room: further records that the partition's span allows.

    is_open False: nothing more may be delivered, whatever the limits say. is_active: it delivered something lately.
    """

    __slots__ = (
        "bytes",
        "credit_bytes",
        "credit_records",
        "is_active",
        "is_open",
        "partition",
        "received_at",
        "records",
        "room",
        "touched",
    )

    def __init__(self, partition: Partition) -> None:
        self.partition = partition
        self.records = 0
        self.bytes = 0
        self.credit_records = 0
        self.credit_bytes = 0
        self.room = 1 << 62
        self.is_open = True
        self.received_at = float("-inf")
        self.is_active = False
        self.touched = True

    def receive(self, records: int, size: int) -> None:
        """Records came in and will be handled."""
        self.records += records
        self.bytes += size
        self.touched = True

    def end(self, records: int, size: int) -> None:
        """Records are finished, or no longer count as in flight."""
        self.records -= records
        # An adapter may count sizes in its own way; the difference must not add up over time.
        self.bytes = self.bytes - size if self.records else 0
        self.touched = True

    def use(self, now: float, records: int, size: int) -> None:
        """The backend delivered so much of its credit, repeats included."""
        self.credit_records = max(0, self.credit_records - records)
        self.credit_bytes = max(0, self.credit_bytes - size)
        self.received_at = now
        self.touched = True


class Credits:
    """Accounts of one consumer. `refresh` after each feed says what changed enough to be told."""

    def __init__(self, tuning: Tuning) -> None:
        self._accounts: dict[Partition, Account] = {}
        self._shares: dict[Partition, tuple[int, int]] = {}
        self._turn = 0
        self._next_look: float | None = None
        self._is_stale = False
        self.retune(tuning)

    def retune(self, tuning: Tuning) -> None:
        """New limits, from the next refresh on."""
        self._max_records = tuning.in_flight_records
        self._max_bytes = tuning.in_flight_bytes
        self._workers = tuning.concurrency
        self._is_stale = True

    def open(self, partition: Partition) -> Account:
        """The account of a new ownership; replaces that of an older one."""
        self.close(partition)
        account = self._accounts[partition] = Account(partition)
        self._shares[partition] = (0, 0)
        self._is_stale = True
        return account

    def close(self, partition: Partition) -> None:
        """What was in flight in it is not ours any more."""
        if self._accounts.pop(partition, None) is not None:
            del self._shares[partition]
            self._is_stale = True

    def next(self) -> float | None:
        """When `refresh` wants to be called again although nothing happens; monotonic seconds."""
        return self._next_look

    def refresh(self, now: float) -> list[Credit]:
        """Credits that changed meaningfully: lowered ones first, so that their share is free before it is given to others."""
        self._follow_activity(now)
        touched = list(self._accounts.values()) if self._is_stale else [one for one in self._accounts.values() if one.touched]
        if self._is_stale:
            self._divide()
        self._is_stale = False
        changed: list[Credit] = []
        for account in touched:
            account.touched = False
            self._lower(account, changed)
        for account in touched:
            self._raise(account, changed)
        return changed

    # --- shares -----------------------------------------------------------------------------------------------------------------

    def _follow_activity(self, now: float) -> None:
        for account in self._accounts.values():
            if account.received_at == now and not account.is_active:
                account.is_active = self._is_stale = True
        if self._next_look is None:
            if self._is_stale and len(self._accounts) > 1:
                self._plan(now)
        elif now >= self._next_look:
            for account in self._accounts.values():
                if account.is_active and now - account.received_at >= IDLE_S and not account.records:
                    account.is_active, self._is_stale = False, True
            if len(self._accounts) > self._max_records:
                self._turn += self._max_records
                self._is_stale = True
            self._plan(now)

    def _plan(self, now: float) -> None:
        if len(self._accounts) > self._max_records:
            self._next_look = now + TURN_S
        elif len(self._accounts) > 1 and any(account.is_active for account in self._accounts.values()):
            self._next_look = now + IDLE_S
        else:
            self._next_look = None

    def _divide(self) -> None:
        accounts, most = list(self._accounts.values()), self._max_records
        count = len(accounts)
        if count > most:
            chosen = {(self._turn + step) % count for step in range(most)}
            size = max(1, self._max_bytes // most)
            self._shares = {one.partition: ((1, size) if index in chosen else (0, 0)) for index, one in enumerate(accounts)}
            return
        active = sum(1 for one in accounts if one.is_active)
        idle = count - active
        if not active or not idle:
            share = (most // max(1, count), max(1, self._max_bytes // max(1, count)))
            self._shares = {one.partition: share for one in accounts}
            return
        low = (max(1, most // (IDLE_PART * count)), max(1, self._max_bytes // (IDLE_PART * count)))
        high = ((most - low[0] * idle) // active, max(1, (self._max_bytes - low[1] * idle) // active))
        self._shares = {one.partition: (high if one.is_active else low) for one in accounts}

    # --- credit -----------------------------------------------------------------------------------------------------------------

    def _wanted(self, account: Account) -> tuple[int, int]:
        records, size = self._shares[account.partition]
        records = min(records - account.records, account.room)
        size -= account.bytes
        if not account.is_open or records <= 0 or size <= 0:
            return 0, 0
        return records, size

    def _lower(self, account: Account, changed: list[Credit]) -> None:
        records, size = self._wanted(account)
        if not records and not account.credit_records:
            account.credit_bytes = 0  # without records the bytes are of no use, and none are to be told
        elif records < account.credit_records or size < account.credit_bytes:
            self._give(account, min(records, account.credit_records), min(size, account.credit_bytes), changed)

    def _raise(self, account: Account, changed: list[Credit]) -> None:
        records, size = self._wanted(account)
        if not records or (records <= account.credit_records and size <= account.credit_bytes):
            return
        share, share_size = self._shares[account.partition]
        step = max(1, min(share // 2, share - 4 * self._workers))
        is_due = records - account.credit_records >= step or size - account.credit_bytes >= max(1, share_size // 2)
        if not is_due and account.records:
            return
        free_records, free_bytes = self._free(self._accounts.values())
        records = min(records, account.credit_records + max(0, free_records))
        size = min(size, account.credit_bytes + max(0, free_bytes))
        if size and (records > account.credit_records or size > account.credit_bytes):
            self._give(account, max(records, account.credit_records), max(size, account.credit_bytes), changed)

    def _free(self, accounts: Iterable[Account]) -> tuple[int, int]:
        records, size = self._max_records, self._max_bytes
        for account in accounts:
            records -= account.records + account.credit_records
            size -= account.bytes + account.credit_bytes
        return records, size

    def _give(self, account: Account, records: int, size: int, changed: list[Credit]) -> None:
        account.credit_records, account.credit_bytes = records, size
        changed.append(Credit(account.partition, records, size))
