"""One driver per workspace in a bucket: an object with host, pid and heartbeat.

It is written only where nobody else's is (a conditional write), and renewed only in place of its
own last version. A driver that was thought dead and comes back cannot renew it, and so knows.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime

from results.lock import (
    HEARTBEAT_SECONDS,
    LOCK_FILE,
    TIMEOUT_SECONDS,
    TRIES,
    Holder,
    LockError,
    beating,
    in_use,
    is_stale,
    parsed_holder,
    taken_over,
)
from results.object_store import ConflictError, ObjectStore, StoreError


class StoredLock:
    """A held lock; ``confirm`` raises once another driver has taken it over."""

    def __init__(self, store: ObjectStore, holder: Holder, tag: str) -> None:
        self.store, self.holder = store, holder
        self.lost = False
        self._tag = tag
        self._beats = 0
        self._one_at_a_time = threading.Lock()

    def beat(self) -> bool:
        """Renew the object; False if it is no longer ours.

        A bucket that cannot be reached for a moment does not lose the lock.
        """
        with self._one_at_a_time, suppress(StoreError):
            if self.lost:
                return False
            self._beats += 1
            try:
                self._tag = self.store.replace(
                    LOCK_FILE, _content(self.holder, self._beats), tag=self._tag
                )
            except ConflictError:
                self.lost = not self._adopt_own()
        return not self.lost

    def _adopt_own(self) -> bool:
        """A renewal whose answer was lost has changed the tag; the object still names us."""
        found = self.store.read(LOCK_FILE)
        if found is None or _holder(found.content) != self.holder:
            return False
        self._tag = found.tag
        return True

    def confirm(self) -> None:
        """Look now whether the lock is still ours, before a write that must not be another's.

        Raises:
            LockError: it is not.
        """
        if not self.beat():
            raise LockError(taken_over(self.store.uri))

    def release(self) -> None:
        """Remove the object if it is still ours."""
        with suppress(StoreError), self._one_at_a_time:
            if not self.lost and self._adopt_own():
                self.store.remove([LOCK_FILE])


@contextmanager
def stored_lock(
    store: ObjectStore,
    *,
    heartbeat_seconds: float = HEARTBEAT_SECONDS,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Iterator[StoredLock]:
    """Hold the lock of a workspace in a bucket inside the block.

    Raises:
        LockError: another driver holds it.
        StoreError: the bucket cannot be read or written.
    """
    lock = acquire(store, timeout_seconds=timeout_seconds)
    with beating(lock, every_seconds=heartbeat_seconds):
        yield lock


def acquire(store: ObjectStore, *, timeout_seconds: float = TIMEOUT_SECONDS) -> StoredLock:
    """Take the lock without a heartbeat of its own; see ``stored_lock``."""
    mine = Holder(
        socket.gethostname(), os.getpid(), secrets.token_hex(8),
        datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip
    for _ in range(TRIES):
        found = store.read(LOCK_FILE)
        holder = None if found is None else _holder(found.content)
        if found is not None and holder is not None:
            alive = not is_stale(
                holder, found.age_seconds, locked=False, timeout_seconds=timeout_seconds
            )
            if alive:
                raise LockError(in_use(store.uri, holder))
        try:
            tag = store.replace(
                LOCK_FILE, _content(mine, 0), tag=None if found is None else found.tag
            )
        except ConflictError:
            continue
        return StoredLock(store, mine, tag)
    raise LockError(f"{store.uri}/{LOCK_FILE} changes hands too fast; try again")


def _content(holder: Holder, beats: int) -> bytes:
    return (json.dumps(asdict(holder) | {"beats": beats}) + "\n").encode()


def _holder(content: bytes) -> Holder | None:
    return parsed_holder(content.decode("utf-8", "replace"))
