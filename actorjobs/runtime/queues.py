"""What operators do to queues: `runtime.queues`. A wish is a row; every process follows it within a second."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from actorjobs.errors import UnknownQueue
from actorjobs.jobs import check_concurrency, check_queue_name
from actorjobs.policy import Guard
from actorjobs.ports import QueueInfo, Store
from actorjobs.runtime.filtering import check_words
from actorjobs.runtime.registry import nearest


class Queues:
    """The queues of this runtime's namespace, wherever they are served."""

    def __init__(
        self,
        *,
        store: Store,
        declared: Callable[[], Iterable[str]],
        guard: Guard,
        observe: Callable[..., None],
        signal: Callable[[], None],
    ) -> None:
        """`signal()` has every process look at once at what was wished."""
        self._signal = signal
        self._store = store
        self._declared = declared
        self._guard = guard
        self._observe = observe

    async def _check(self, name: str) -> None:
        """`UnknownQueue` for a name that nobody declared: a slip of the pen must not look like a paused queue.
        `PolicyDenied` unless that may be done here."""
        check_queue_name(name)
        await self._guard.queue(name)
        if name in self._declared():
            return
        known = [queue.name for queue in await self._store.queues()]
        if name not in known:
            raise UnknownQueue(f"nobody declared a queue {name!r}{nearest(name, [*known, *self._declared()])}")

    async def list(self) -> Sequence[QueueInfo]:
        """Every queue that was declared or has runs, with how many wait and run."""
        await self._guard.runs()
        return await self._store.queues()

    async def pause(self, name: str, *, reason: str | None = None) -> QueueInfo:
        """Start nothing more of this queue; what runs goes on."""
        check_words(reason=reason)
        await self._check(name)
        await self._store.set_queue(name, is_paused=True, reason=reason)
        self._signal()
        self._observe("queue_paused", queue=name, detail={} if reason is None else {"reason": reason})
        return await self._counted(name)

    async def resume(self, name: str) -> QueueInfo:
        """Go on with this queue."""
        await self._check(name)
        await self._store.set_queue(name, is_paused=False)
        self._signal()
        self._observe("queue_resumed", queue=name)
        return await self._counted(name)

    async def scale(self, name: str, concurrency: int) -> QueueInfo:
        """Let every process perform so many runs of this queue at once."""
        await self._check(name)
        check_concurrency(concurrency)
        await self._store.set_queue(name, concurrency=concurrency)
        self._signal()
        self._observe("queue_scaled", queue=name, detail={"concurrency": concurrency})
        return await self._counted(name)

    async def _counted(self, name: str) -> QueueInfo:
        """The queue as a list shows it: with what waits and runs."""
        return next(queue for queue in await self._store.queues() if queue.name == name)
