"""Control is level-triggered: what operators wish is in rows, read twice a second. A lost signal does no harm."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actorjobs.model import CancelReason
from actorjobs.ports import Store
from actorjobs.worker.lease import Lease
from actorjobs.worker.pool import Pool

CONTROL_SECONDS = 0.4

CancelRun = Callable[[str, CancelReason], None]


async def follow_wishes(store: Store, lease: Lease, pools: Sequence[Pool], cancel: CancelRun) -> None:
    """Read the rows and act on them: pause, resume, scale, cancel."""
    wishes = await store.wishes(lease.owner or "")
    for pool in pools:
        row = wishes.queues.get(pool.queue)
        await pool.follow(
            is_paused=row is not None and row.is_paused, concurrency=None if row is None else row.concurrency
        )
    for run_id in wishes.cancel:
        cancel(run_id, CancelReason.CANCELED)
