"""Supervisor: a tree of keepers. Children that crash are replaced, each for itself (one_for_one)."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from random import Random

from actorjobs.actors.keeper import ChildSpec, ChildState, Keeper, OnFailing, OnRecovered, Restarts
from actorjobs.actors.life import Life
from actorjobs.actors.service import StartInterrupted, TaskService, Watcher
from actorjobs.actors.tree import Tree, TreeStatistics
from actorjobs.clock import Clock
from actorjobs.errors import InvalidOption

logger = logging.getLogger("actorjobs.actors")


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorStatistics(TreeStatistics):
    """What a supervisor tells about itself and its children."""

    restarts: int
    failing: tuple[str, ...]
    """Names of the children that are given up for now."""


class Supervisor(Tree[Keeper]):
    """Starts its children in order, replaces those that crash, and stops them in reverse order.

    A child that crashes never fails the supervisor. `retire` retires all children at the same time.
    """

    def __init__(
        self,
        *,
        name: str,
        children: Sequence[ChildSpec] = (),
        restarts: Restarts | None = None,
        on_failing: OnFailing | None = None,
        on_recovered: OnRecovered | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
        on_exit: Watcher | None = None,
        context: contextvars.Context | None = None,
    ) -> None:
        self._keeper = partial(
            Keeper,
            restarts=restarts,
            on_failing=on_failing,
            on_recovered=on_recovered,
            clock=clock,
            random=random or Random(),
            context=context,
        )
        keepers = [self._keeper(spec=spec) for spec in children]
        super().__init__(name=name, children=keepers, on_exit=on_exit, context=context)
        self._leaving: list[Keeper] = []

    async def add(self, spec: ChildSpec) -> None:
        """Add a child; it starts with the supervisor, or now if that is running.

        Raises InvalidOption for a name in use. When the caller is cancelled the child is not added.
        """
        keeper = self._keeper(spec=spec)
        self._adopt(keeper)
        try:
            if self.is_running:
                with suppress(StartInterrupted):  # the supervisor stops: it starts with it the next time
                    await keeper.start()
        except BaseException:
            self._children.remove(keeper)
            raise

    async def remove(self, name: str) -> None:
        """Retire a child and forget it. Raises InvalidOption for an unknown name.

        A caller that is cancelled stops waiting, not the removal. Called from within that child it only asks.
        """
        keeper = next((keeper for keeper in self._children if keeper.name == name), None)
        if keeper is None:
            raise InvalidOption(f"{self.name} has no child named {name!r}")
        self._children.remove(keeper)
        if keeper.is_alive:
            self._leaving.append(keeper)
            keeper.watch(self._forget)
            await keeper.retire()

    def statistics(self) -> SupervisorStatistics:
        keepers = [keeper.statistics() for keeper in self._children]
        return SupervisorStatistics(
            name=self.name,
            is_running=self.is_running,
            starts=self._starts,
            children=tuple(keepers),
            restarts=sum(keeper.restarts for keeper in keepers),
            failing=tuple(keeper.name for keeper in keepers if keeper.state is ChildState.FAILING),
        )

    async def _wind_down(self, life: Life) -> None:
        ends = await asyncio.gather(*(self._end_one(keeper, Keeper.retire) for keeper in self._standing()))
        self._raise([error for error in ends if error is not None])

    def _standing(self) -> list[Keeper]:
        """Those that are being removed have to be stopped as well."""
        return [*self._children, *self._leaving]

    def _forget(self, keeper: TaskService, error: BaseException | None) -> None:
        self._leaving = [leaving for leaving in self._leaving if leaving is not keeper]
        if error is not None:
            logger.error("%s was removed, and did not stop cleanly", keeper.name, exc_info=error)
