"""Why a waiting run may not start: worked out when it is read, so that nothing has to be written and taken back."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from actorjobs.lifecycle import WAITING
from actorjobs.model import Run
from actorjobs.ports import Serves

PAUSED = "paused"
UNKNOWN_JOB = "unknown job"
NEWER_VERSION = "newer version"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standings:
    """The queues that are paused, and what the workers that live now serve."""

    paused: Collection[str] = ()
    fleet: Sequence[Serves] = ()

    def shown(self, run: Run) -> Run:
        """The run with the reason that holds it, if one does."""
        if run.state not in WAITING or run.hold is not None:
            return run
        hold = self._hold(run)
        return run if hold is None else replace(run, hold=hold)

    def _hold(self, run: Run) -> str | None:
        if run.queue in self.paused:
            return PAUSED
        serving = [worker for worker in self.fleet if run.queue in worker.queues]
        if not serving:
            return None  # nobody is there; that may change at any moment, and is not a reason that lies in the run
        if not any(run.version <= worker.jobs.get(run.job, 0) for worker in serving):
            return NEWER_VERSION if any(run.job in worker.jobs for worker in serving) else UNKNOWN_JOB
        reasons = [worker.holds.get(run.queue) for worker in serving]
        return reasons[0] if all(reasons) else None
