"""Delivering: runs are taken for an attempt and settled, fenced by the number of the attempt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Connection, select, update

from actorjobs.model import RunState
from actorjobs.ports import Bid, Claim, Demand, Fence, Refusal, Settlement, Taken
from actorjobs.stores.bids import Answers, answered, first_bids
from actorjobs.stores.core import StoreCore, holds
from actorjobs.stores.rows import CLAIM_COLUMNS, claim_of
from actorjobs.stores.schema import attempts, runs

_End: TypeAlias = tuple[str, int, str, str]


class Delivering(StoreCore):
    """Verbs of workers on the runs they perform."""

    async def take(self, demands: Sequence[Demand], owner: str) -> Sequence[Taken]:
        write = self._database.write_at_once if len(demands) == 1 else self._database.write
        return await write(
            lambda connection: [self._hot.take(connection, self._namespace, demand, owner) for demand in demands]
        )

    async def claim(self, bids: Sequence[Bid], jobs: Mapping[str, int], owner: str) -> Sequence[Claim | Refusal]:
        wanted = first_bids(bids)

        def work(connection: Connection) -> Answers:
            return self._hot.claim(connection, self._namespace, wanted, jobs, owner)

        return answered(bids, await self._database.write_at_once(work) if wanted else {})

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[RunState | None]:
        # Of two ends of one attempt in a group the first one counts.
        first = {settlement.fence: settlement for settlement in reversed(settlements)}

        def work(connection: Connection) -> list[RunState | None]:
            states = dict(zip(first, self._hot.settle(connection, list(first.values())), strict=True))
            answers = [states[s.fence] if s is first[s.fence] else None for s in settlements]
            refused = [s for s, state in zip(settlements, answers, strict=True) if state is None]
            if not refused:
                return answers
            recorded = self._recorded(connection, refused)
            return [recorded.get(_end_of(s), state) for s, state in zip(settlements, answers, strict=True)]

        return await self._database.write_at_once(work)

    def _recorded(self, connection: Connection, refused: Sequence[Settlement]) -> dict[_End, RunState]:
        """Of settlements that the fence refuses, those that an earlier commit of unknown end had recorded already."""
        found = connection.execute(
            select(attempts).where(attempts.c.run_id.in_([settlement.fence.run_id for settlement in refused]))
        )
        return {(row.run_id, row.number, row.worker, row.outcome): RunState(row.led_to) for row in found}

    async def save_progress(self, fence: Fence, progress: str) -> bool:
        return await self._fenced(fence, {"progress": progress})

    async def save_checkpoint(self, fence: Fence, checkpoint: str) -> bool:
        return await self._fenced(fence, {"checkpoint": checkpoint})

    async def _fenced(self, fence: Fence, values: Mapping[str, Any]) -> bool:
        statement = update(runs).where(*holds(fence)).values(**values)
        return await self._database.write(lambda connection: connection.execute(statement).rowcount == 1)

    async def running(self, owner: str) -> Sequence[Claim]:
        columns = [runs.c[name] for name in CLAIM_COLUMNS]
        query = select(*columns).where(runs.c.claimed_by == owner, runs.c.state == RunState.RUNNING.value)
        return await self._database.read(lambda connection: [claim_of(row, owner) for row in connection.execute(query)])


def _end_of(settlement: Settlement) -> _End:
    fence = settlement.fence
    return (fence.run_id, fence.attempt, fence.owner, settlement.outcome.value)
