"""What operators do to queues: `runtime.queues`. A wish is a row; every process follows it within a second."""

from __future__ import annotations

from collections.abc import Sequence

from actorjobs.jobs import check_concurrency, check_queue_name
from actorjobs.ports import QueueInfo, Store


class Queues:
    """The queues of this runtime's namespace, wherever they are served."""

    def __init__(self, *, store: Store) -> None:
        self._store = store

    async def list(self) -> Sequence[QueueInfo]:
        """Every queue that was declared or has runs, with how many wait and run."""
        return await self._store.queues()

    async def pause(self, name: str, *, reason: str | None = None) -> QueueInfo:
        """Start nothing more of this queue; what runs goes on."""
        check_queue_name(name)
        return await self._store.set_queue(name, is_paused=True, reason=reason)

    async def resume(self, name: str) -> QueueInfo:
        check_queue_name(name)
        return await self._store.set_queue(name, is_paused=False)

    async def scale(self, name: str, concurrency: int) -> QueueInfo:
        """Let every process perform so many runs of this queue at once."""
        check_queue_name(name)
        check_concurrency(concurrency)
        return await self._store.set_queue(name, concurrency=concurrency)
