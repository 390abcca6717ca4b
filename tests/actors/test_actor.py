"""Actor: one task, one mailbox, one message at a time; start and stop in any order."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import Any

import pytest

from actorjobs.actors import Actor, Cancelled, Mailbox, RestartActor, Service, StartInterrupted, TaskService
from actorjobs.errors import ActorJobsError
from tests.actors.probes import Ledger, Probe
from tests.actors.stress import loop_turns

pytestmark = pytest.mark.usefixtures("nothing_left")

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nobody's")

Exits = list[tuple[TaskService, BaseException | None]]


class Exitus:
    """Collects what watchers are told."""

    def __init__(self) -> None:
        self.seen: Exits = []

    def __call__(self, service: TaskService, error: BaseException | None) -> None:
        self.seen.append((service, error))

    @property
    def errors(self) -> list[type[BaseException] | None]:
        return [None if error is None else type(error) for _, error in self.seen]


def put(actor: Probe, *messages: str) -> None:
    for message in messages:
        actor.mailbox.put_nowait(message)


async def started(**options: Any) -> Probe:
    actor = Probe(**options)
    await actor.start()
    return actor


def test_an_actor_is_a_service() -> None:
    service: Service = Probe()
    assert service.name == "probe"


def test_restart_actor_is_in_the_one_tree() -> None:
    assert issubclass(RestartActor, ActorJobsError)


class TestMessages:
    async def test_are_received_one_after_the_other(self) -> None:
        actor = await started()
        put(actor, "turns", "a", "b")
        await loop_turns(20)
        await actor.stop()
        assert actor.ledger.events == ["on_start", "turns", "turns done", "a", "a done", "b", "b done", "on_stop"]

    async def test_wait_until_the_actor_starts(self) -> None:
        actor = Probe()
        put(actor, "a")
        await loop_turns(5)
        assert actor.ledger.events == []
        await actor.start()
        await loop_turns(5)
        assert actor.ledger.events == ["on_start", "a", "a done"]
        await actor.stop()

    async def test_of_a_shared_mailbox_go_to_whoever_is_free(self) -> None:
        mailbox = Mailbox[str]()
        one, other = await started(name="one", mailbox=mailbox), await started(name="other", mailbox=mailbox)
        mailbox.put_nowait("wait")
        mailbox.put_nowait("a")
        await loop_turns(5)
        assert "one wait" in one.ledger.events
        assert "other a" in other.ledger.events
        await one.stop()
        await other.stop()

    async def test_that_never_wait_leave_turns_to_others(self) -> None:
        actor = await started()

        async def feed() -> None:
            if actor.statistics().received < 100_000:
                put(actor, "call")

        actor.on_receive = feed
        put(actor, "call")
        await loop_turns(10)
        await actor.stop()
        assert 100 < actor.statistics().received < 100_000

    async def test_that_never_wait_leave_turns_to_others_when_draining(self) -> None:
        actor = await started()

        async def feed() -> None:
            if actor.statistics().received < 100_000:
                put(actor, "call")

        actor.on_receive = feed
        put(actor, "wait", "call")
        await loop_turns(3)
        draining = asyncio.create_task(actor.stop(drain=True))
        await loop_turns(2)
        actor.gate.set()
        await loop_turns(10)
        await actor.stop()
        await draining
        assert len(actor.mailbox) > 0


class TestStart:
    async def test_returns_when_on_start_has_succeeded(self) -> None:
        actor = Probe(start_turns=5)
        start = asyncio.create_task(actor.start())
        await loop_turns(3)
        seen = [actor.is_running]
        await start
        seen.append(actor.is_running)
        assert seen == [False, True]
        assert actor.ledger.events == ["on_start"]
        await actor.stop()

    async def test_raises_what_on_start_raised_to_all_who_wait(self, caplog: pytest.LogCaptureFixture) -> None:
        exits = Exitus()
        actor = Probe(start_error=ValueError("no"), start_turns=2, on_exit=exits)
        ends = await asyncio.gather(actor.start(), actor.start(), return_exceptions=True)
        assert all(end is actor.start_error for end in ends)
        assert not actor.is_running
        assert exits.seen == []
        assert actor.ledger.events == []
        assert caplog.records == []

    async def test_can_be_tried_again(self) -> None:
        actor = Probe(start_error=ValueError("no"))
        with pytest.raises(ValueError, match="no"):
            await actor.start()
        actor.start_error = None
        await actor.start()
        assert actor.is_running
        await actor.stop()

    async def test_twice_is_once(self) -> None:
        actor = Probe(start_turns=3)
        await asyncio.gather(actor.start(), actor.start())
        await actor.start()
        await actor.stop()
        assert actor.ledger.events == ["on_start", "on_stop"]

    async def test_after_stop_is_a_fresh_task(self) -> None:
        actor = Probe()
        tasks: list[asyncio.Task[Any] | None] = []

        async def note_task() -> None:
            tasks.append(asyncio.current_task())

        actor.on_receive = note_task
        for _ in range(2):
            await actor.start()
            put(actor, "call")
            await loop_turns(5)
            await actor.stop()
        assert actor.ledger.started == actor.ledger.stopped == 2
        assert tasks[0] is not tasks[1]
        assert actor.statistics().starts == 2

    async def test_while_stopping_waits_for_the_end_and_starts_again(self) -> None:
        actor = await started(stop_turns=5)
        stop = asyncio.create_task(actor.stop())
        await loop_turns(2)
        await actor.start()
        await stop
        assert actor.is_running
        assert actor.ledger.events == ["on_start", "on_stop", "on_start"]
        await actor.stop()

    async def test_while_the_present_message_ignores_a_stop_waits_for_the_end_too(self) -> None:
        actor = await started()
        put(actor, "stubborn")
        await loop_turns(3)
        stop = asyncio.create_task(actor.stop())
        await loop_turns(1)
        await actor.start()
        assert stop.done()
        assert actor.is_running
        assert actor.ledger.events == ["on_start", "stubborn", "stubborn done", "on_stop", "on_start"]
        await actor.stop()

    async def test_while_a_crash_is_being_cleaned_up_waits_for_the_end_too(self) -> None:
        actor = await started(stop_turns=5, on_exit=Exitus())
        put(actor, "crash")
        await loop_turns(4)
        await actor.start()
        assert actor.is_running
        assert actor.ledger.events == ["on_start", "crash", "on_stop", "on_start"]
        await actor.stop()

    async def test_is_superseded_by_a_later_stop(self) -> None:
        actor = await started(stop_turns=5)
        first_stop = asyncio.create_task(actor.stop())
        await loop_turns(2)
        start = asyncio.create_task(actor.start())
        await loop_turns(2)
        await actor.stop()
        await first_stop
        with pytest.raises(StartInterrupted):
            await start
        assert not actor.is_running

    async def test_when_its_caller_is_cancelled_is_undone(self) -> None:
        actor = Probe(start_turns=10)
        start = asyncio.create_task(actor.start())
        await loop_turns(5)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert not actor.is_alive

    async def test_when_its_caller_is_cancelled_in_the_turn_it_succeeds_is_undone(self) -> None:
        actor = Probe()
        start = asyncio.create_task(actor.start())
        while not actor.is_running:
            await loop_turns(1)
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert actor.ledger.events == ["on_start", "on_stop"]
        assert not actor.is_alive

    async def test_goes_on_for_the_other_caller_when_one_is_cancelled(self) -> None:
        actor = Probe(start_turns=10)
        start, other = asyncio.create_task(actor.start()), asyncio.create_task(actor.start())
        await loop_turns(5)
        start.cancel()
        await other
        assert actor.is_running
        await actor.stop()

    async def test_a_late_caller_who_is_cancelled_undoes_nothing(self) -> None:
        actor = await started()
        late = asyncio.create_task(actor.start())
        late.cancel()
        await loop_turns(3)
        assert actor.is_running
        await actor.stop()

    async def test_that_leaks_a_cancellation_has_failed(self) -> None:
        class Leaking(Probe):
            async def on_start(self) -> None:
                raise asyncio.CancelledError

        with pytest.raises(Cancelled):
            await Leaking().start()

    async def test_that_fails_when_nobody_waits_any_more_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        class Clumsy(Probe):
            async def on_start(self) -> None:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    raise ValueError("while cleaning up") from None

        start = asyncio.create_task(Clumsy().start())
        await loop_turns(3)
        start.cancel()
        await asyncio.wait({start})
        assert "while cleaning up" in caplog.text

    @pytest.mark.parametrize("hook", ["on_start", "on_stop"])
    async def test_from_within_a_hook_is_refused_and_does_not_hang(self, hook: str) -> None:
        class Eager(Probe):
            async def on_start(self) -> None:
                if hook == "on_start":
                    await self.start()

            async def on_stop(self) -> None:
                if hook == "on_stop":
                    await self.start()

        actor = Eager()
        (start,) = await asyncio.gather(actor.start(), return_exceptions=True)
        (stop,) = await asyncio.gather(actor.stop(), return_exceptions=True)
        error = start or stop
        assert isinstance(error, StartInterrupted)
        assert "from within" in str(error)

    async def test_from_within_receive_has_nothing_to_do(self) -> None:
        actor = await started()
        actor.on_receive = actor.start
        put(actor, "call")
        await loop_turns(3)
        assert "call done" in actor.ledger.events
        await actor.stop()


class TestStop:
    async def test_before_start_does_nothing(self) -> None:
        actor = Probe()
        await actor.stop()
        await actor.retire()
        assert actor.ledger.events == []

    async def test_right_after_the_call_of_start_interrupts_it(self) -> None:
        actor = Probe()
        start = asyncio.create_task(actor.start())
        await loop_turns(1)  # the actor's own task has not run yet
        await actor.stop()
        with pytest.raises(StartInterrupted):
            await start
        assert actor.ledger.events == []

    @pytest.mark.parametrize("end", ["stop", "retire", "drain"])
    async def test_during_start_interrupts_it(self, end: str) -> None:
        exits = Exitus()
        actor = Probe(start_turns=1000, on_exit=exits)
        start = asyncio.create_task(actor.start())
        await loop_turns(5)
        await (actor.retire() if end == "retire" else actor.stop(drain=end == "drain"))
        with pytest.raises(StartInterrupted):
            await start
        assert exits.seen == []
        assert actor.ledger.events == []

    async def test_during_an_on_start_that_swallows_it_still_ends_the_actor(self) -> None:
        class Stubborn(Probe):
            async def on_start(self) -> None:
                await self._ignore_cancellation()
                await super().on_start()

        actor = Stubborn()
        start = asyncio.create_task(actor.start())
        await loop_turns(5)
        await actor.stop()
        await start
        assert actor.ledger.events == ["on_start", "on_stop"]

    async def test_cancels_the_present_message(self) -> None:
        exits = Exitus()
        actor = await started(on_exit=exits)
        put(actor, "wait", "a")
        await loop_turns(3)
        await actor.stop()
        assert actor.ledger.events == ["on_start", "wait", "on_stop"]
        assert actor.mailbox.drain() == ["a"]
        assert exits.seen == [(actor, None)]

    async def test_ends_an_actor_whose_message_ignores_it_after_that_message(self) -> None:
        actor = await started()
        put(actor, "stubborn", "a")
        await loop_turns(3)
        await actor.stop()
        assert actor.ledger.events == ["on_start", "stubborn", "stubborn done", "on_stop"]

    async def test_leaves_nothing_in_the_log(self, caplog: pytest.LogCaptureFixture) -> None:
        actor = await started()
        await actor.stop()
        start = asyncio.create_task(actor.start())
        await loop_turns(1)
        start.cancel()
        await asyncio.wait({start})
        assert caplog.records == []

    async def test_concurrent_callers_wait_for_the_same_end(self) -> None:
        actor = await started(stop_turns=5)
        stops = [asyncio.create_task(actor.stop()) for _ in range(3)]
        await loop_turns(4)
        assert not any(stop.done() for stop in stops)
        await asyncio.gather(*stops)
        assert actor.ledger.events == ["on_start", "on_stop"]

    async def test_raises_what_on_stop_raised_to_all_who_wait_then_no_more(self) -> None:
        exits = Exitus()
        actor = await started(stop_error=ValueError("no"), stop_turns=2, on_exit=exits)
        ends = await asyncio.gather(actor.stop(), actor.stop(), return_exceptions=True)
        assert all(end is actor.stop_error for end in ends)
        assert exits.seen == [(actor, actor.stop_error)]
        await actor.stop()

    async def test_goes_on_when_its_caller_is_cancelled(self) -> None:
        actor = await started(stop_turns=5)
        stop = asyncio.create_task(actor.stop())
        await loop_turns(3)
        stop.cancel()
        await asyncio.wait({stop})
        assert stop.cancelled()
        await loop_turns(10)
        assert not actor.is_alive
        assert actor.ledger.events == ["on_start", "on_stop"]

    async def test_whose_caller_is_cancelled_at_once_goes_on_too(self) -> None:
        actor = await started()
        put(actor, "wait")
        await loop_turns(3)
        stop = asyncio.create_task(actor.stop())
        await loop_turns(1)
        stop.cancel()
        await loop_turns(10)
        assert not actor.is_alive

    async def test_does_not_cancel_on_stop(self) -> None:
        class Careful(Probe):
            async def on_stop(self) -> None:
                await loop_turns(5)
                await super().on_stop()

        actor = await started_careful(Careful())
        stop = asyncio.create_task(actor.stop())
        await loop_turns(3)
        await actor.stop()
        await stop
        assert actor.ledger.is_balanced()

    async def test_on_stop_sees_no_cancellation_of_ours(self) -> None:
        class Timed(Probe):
            async def on_stop(self) -> None:
                task = asyncio.current_task()
                assert task is not None
                self._note(f"cancelling {task.cancelling()}")
                await super().on_stop()

        actor = await started_careful(Timed())
        put(actor, "stubborn")
        await loop_turns(3)
        await actor.stop()
        assert "cancelling 0" in actor.ledger.events

    async def test_from_within_ends_it_after_the_present_message(self) -> None:
        exits = Exitus()
        actor = await started(on_exit=exits)
        put(actor, "stop", "a")
        await loop_turns(10)
        assert actor.ledger.events == ["on_start", "stop", "stop done", "on_stop"]
        assert exits.seen == [(actor, None)]

    async def test_from_outside_cuts_short_one_from_within(self) -> None:
        actor = await started()

        async def stop_and_linger() -> None:
            await actor.stop()
            await actor.gate.wait()

        actor.on_receive = stop_and_linger
        put(actor, "call")
        await loop_turns(5)
        assert actor.is_running
        await actor.stop()
        assert actor.ledger.events == ["on_start", "call", "on_stop"]

    async def test_from_within_on_start_ends_it_after_the_start(self) -> None:
        class Brief(Probe):
            async def on_start(self) -> None:
                await self.stop()
                await super().on_start()

        actor = await started_careful(Brief(start_turns=2, stop_turns=2))
        await loop_turns(10)
        assert actor.ledger.events == ["on_start", "on_stop"]
        assert not actor.is_alive

    async def test_from_within_on_stop_does_not_hang(self) -> None:
        class Twice(Probe):
            async def on_stop(self) -> None:
                await self.stop()
                await super().on_stop()

        actor = await started_careful(Twice())
        await actor.stop()
        assert actor.ledger.is_balanced()


async def started_careful(actor: Probe) -> Probe:
    await actor.start()
    return actor


class TestDrain:
    async def test_receives_everything_first(self) -> None:
        actor = await started()
        put(actor, "turns", "a", "b")
        await loop_turns(3)
        await actor.stop(drain=True)
        assert [event for event in actor.ledger.events if "done" in event] == ["turns done", "a done", "b done"]
        assert actor.ledger.events[-1] == "on_stop"

    async def test_of_an_idle_actor_ends_at_once(self) -> None:
        actor = await started()
        await loop_turns(3)
        await actor.stop(drain=True)
        assert actor.ledger.events == ["on_start", "on_stop"]

    async def test_receives_a_message_of_the_same_turn(self) -> None:
        actor = await started()
        await loop_turns(3)
        put(actor, "a")
        await actor.stop(drain=True)
        assert actor.ledger.events == ["on_start", "a", "a done", "on_stop"]

    async def test_is_cut_short_by_stop(self) -> None:
        exits = Exitus()
        actor = await started(on_exit=exits)
        put(actor, "wait", "wait", "a")
        await loop_turns(3)
        draining = asyncio.create_task(actor.stop(drain=True))
        await loop_turns(3)
        actor.gate.set()
        actor.gate = asyncio.Event()
        await loop_turns(5)
        assert actor.ledger.events[-1] == "wait"
        await actor.stop()
        await draining
        assert actor.ledger.events[-2:] == ["wait", "on_stop"]
        assert actor.mailbox.drain() == ["a"]
        assert exits.errors == [None]
        assert actor.statistics().received == 2

    async def test_is_cut_short_by_retire_after_the_present_message(self) -> None:
        actor = await started()
        put(actor, "wait", "turns", "a")
        await loop_turns(3)
        draining = asyncio.create_task(actor.stop(drain=True))
        await loop_turns(3)
        actor.gate.set()
        await loop_turns(3)
        await actor.retire()
        await draining
        assert actor.ledger.events[-2:] == ["turns done", "on_stop"]
        assert actor.mailbox.drain() == ["a"]

    async def test_is_not_interrupted_by_retire_in_its_first_message(self) -> None:
        actor = await started()

        async def retire_meanwhile() -> None:
            await loop_turns(4)
            assert actor.ledger.events[-1] == "turns"
            await actor.retire()

        await loop_turns(3)
        retiring = asyncio.create_task(retire_meanwhile())
        put(actor, "turns", "a")
        await actor.stop(drain=True)  # in the turn of the hand-over
        await retiring
        assert actor.ledger.events == ["on_start", "turns", "turns done", "on_stop"]

    async def test_of_an_on_start_that_ignored_it_can_be_cut_short(self) -> None:
        class Stubborn(Probe):
            async def on_start(self) -> None:
                await self._ignore_cancellation()
                await super().on_start()

        actor = Stubborn()
        put(actor, "wait")
        start = asyncio.create_task(actor.start())
        await loop_turns(3)
        draining = asyncio.create_task(actor.stop(drain=True))
        await loop_turns(10)
        assert actor.ledger.events == ["on_start", "wait"]
        await actor.stop()
        await asyncio.gather(start, draining)
        assert actor.ledger.events == ["on_start", "wait", "on_stop"]

    async def test_that_crashes_raises_to_those_who_wait(self) -> None:
        exits = Exitus()
        actor = await started(on_exit=exits)
        put(actor, "turns", "crash", "a")
        await loop_turns(3)
        with pytest.raises(ValueError, match="probe"):
            await actor.stop(drain=True)
        assert exits.errors == [ValueError]
        assert actor.ledger.is_balanced()


class TestRetire:
    async def test_finishes_the_present_message_and_takes_no_other(self) -> None:
        mailbox, exits = Mailbox[str](), Exitus()
        actor = await started(mailbox=mailbox, on_exit=exits)
        put(actor, "wait", "a")
        await loop_turns(3)
        retiring = asyncio.create_task(actor.retire())
        await loop_turns(3)
        assert not retiring.done()
        actor.gate.set()
        await retiring
        assert actor.ledger.events == ["on_start", "wait", "wait done", "on_stop"]
        assert mailbox.drain() == ["a"]
        assert exits.seen == [(actor, None)]

    async def test_of_an_idle_actor_ends_it_and_wakes_nobody_else(self) -> None:
        mailbox = Mailbox[str]()
        actor, other = await started(mailbox=mailbox), await started(name="other", mailbox=mailbox)
        await loop_turns(3)
        await actor.retire()
        assert mailbox.waiting == 1
        mailbox.put_nowait("a")
        await loop_turns(5)
        assert "other a done" in other.ledger.events
        await other.stop()

    async def test_in_the_turn_of_a_hand_over_leaves_the_message_to_the_others(self) -> None:
        mailbox = Mailbox[str]()
        actor, other = await started(mailbox=mailbox), await started(name="other", mailbox=mailbox)
        await loop_turns(3)
        mailbox.put_nowait("a")  # wakes the first
        await actor.retire()
        await loop_turns(5)
        assert actor.ledger.events == ["on_start", "on_stop"]
        assert "other a done" in other.ledger.events
        await other.stop()

    async def test_is_cut_short_by_stop(self) -> None:
        actor = await started()
        put(actor, "wait")
        await loop_turns(3)
        retiring = asyncio.create_task(actor.retire())
        await loop_turns(3)
        await actor.stop()
        await retiring
        assert actor.ledger.events == ["on_start", "wait", "on_stop"]

    async def test_from_within_ends_it_after_the_present_message(self) -> None:
        actor = await started()
        put(actor, "retire", "a")
        await loop_turns(10)
        assert actor.ledger.events == ["on_start", "retire", "retire done", "on_stop"]


class TestCrash:
    async def test_ends_the_actor_and_tells_its_watchers(self, caplog: pytest.LogCaptureFixture) -> None:
        exits, more = Exitus(), Exitus()
        actor = await started(on_exit=exits)
        actor.watch(more)
        put(actor, "crash", "a")
        await loop_turns(10)
        assert not actor.is_alive
        assert actor.ledger.events == ["on_start", "crash", "on_stop"]
        assert exits.errors == more.errors == [ValueError]
        assert exits.seen[0][0] is actor
        assert actor.mailbox.drain() == ["a"]
        assert caplog.records == []

    async def test_without_a_watcher_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        actor = await started()
        put(actor, "crash")
        await loop_turns(10)
        assert "probe crashed" in caplog.text
        assert "ValueError" in caplog.text

    async def test_a_failing_watcher_hides_nothing_from_the_next(self, caplog: pytest.LogCaptureFixture) -> None:
        def bad(service: TaskService, error: BaseException | None) -> None:
            raise KeyError("watcher")

        exits = Exitus()
        actor = await started(on_exit=bad)
        actor.watch(exits)
        await actor.stop()
        assert exits.errors == [None]
        assert "a watcher of probe failed" in caplog.text

    async def test_is_not_raised_by_stop(self) -> None:
        exits = Exitus()
        actor = await started(stop_turns=5, on_exit=exits)
        put(actor, "crash")
        await loop_turns(4)
        await actor.stop()
        assert exits.errors == [ValueError]

    async def test_that_fails_to_stop_tells_both(self) -> None:
        exits = Exitus()
        actor = await started(stop_error=KeyError("stop"), on_exit=exits)
        put(actor, "crash")
        await loop_turns(10)
        ((_, error),) = exits.seen
        assert error is actor.stop_error
        assert error is not None and isinstance(error.__context__, ValueError)  # noqa: PT018

    async def test_asking_for_a_restart_says_so(self) -> None:
        exits = Exitus()
        actor = await started(on_exit=exits)
        put(actor, "restart")
        await loop_turns(10)
        assert exits.errors == [RestartActor]
        assert actor.ledger.is_balanced()

    async def test_can_start_again_from_its_watcher(self) -> None:
        actor = await started()
        again: list[asyncio.Task[None]] = []
        actor.watch(lambda _, error: again.append(asyncio.create_task(actor.start())) if error else None)
        put(actor, "crash")
        await loop_turns(10)
        assert actor.is_running
        await actor.stop()
        assert actor.ledger.started == actor.ledger.stopped == 2

    async def test_cancelled_by_a_stranger_is_a_crash_with_its_on_stop(self) -> None:
        exits = Exitus()
        actor = Probe(on_exit=exits)
        own: list[asyncio.Task[Any] | None] = []

        async def note_task_and_wait() -> None:
            own.append(asyncio.current_task())
            await actor.gate.wait()

        actor.on_receive = note_task_and_wait
        await actor.start()
        put(actor, "call")
        await loop_turns(5)
        assert own[0] is not None
        own[0].cancel()
        await loop_turns(10)
        assert exits.errors == [Cancelled]
        assert actor.ledger.is_balanced()

    async def test_cancelled_by_a_stranger_and_stopped_ends_all_the_same(self) -> None:
        exits = Exitus()
        actor = await started(on_exit=exits)
        await loop_turns(2)
        (own,) = [task for task in asyncio.all_tasks() if task.get_name() == "probe"]
        own.cancel()
        await actor.stop()
        assert exits.errors == [Cancelled]
        assert actor.ledger.is_balanced()

    async def test_a_leaked_cancellation_is_a_crash(self) -> None:
        exits = Exitus()
        actor = await started(on_exit=exits)

        async def leak() -> None:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.cancel()
            await future

        actor.on_receive = leak
        put(actor, "call")
        await loop_turns(10)
        assert exits.errors == [Cancelled]


class TestClosedMailbox:
    async def test_ends_the_actor_normally_once_it_is_empty(self) -> None:
        exits = Exitus()
        actor = await started(on_exit=exits)
        put(actor, "turns", "a")
        actor.mailbox.close()
        await loop_turns(20)
        assert actor.ledger.events[-2:] == ["a done", "on_stop"]
        assert exits.errors == [None]

    async def test_of_somebody_else_is_an_error_like_another(self) -> None:
        exits = Exitus()
        actor = await started(on_exit=exits)
        other = Mailbox[str]()
        other.close()
        actor.on_receive = other.get
        put(actor, "call")
        await loop_turns(10)
        assert [error.__name__ if error else None for error in exits.errors] == ["MailboxClosed"]


class TestContext:
    async def test_is_not_inherited_from_the_caller(self) -> None:
        variable.set("the caller's")
        seen: list[str] = []

        def note_exit(service: TaskService, error: BaseException | None) -> None:
            seen.append(variable.get())

        actor = Probe(on_exit=note_exit)
        actor.on_receive = lambda: _note(seen)
        await actor.start()
        put(actor, "call")
        await loop_turns(5)
        await actor.stop()
        assert seen == ["nobody's", "nobody's"]

    async def test_may_be_given_and_is_the_same_for_each_life(self) -> None:
        context = contextvars.Context()
        context.run(variable.set, "given")
        seen: list[str] = []
        actor = Probe(context=context)

        async def note_and_change() -> None:
            await _note(seen)
            variable.set("changed")

        actor.on_receive = note_and_change
        for _ in range(2):
            await actor.start()
            put(actor, "call")
            await loop_turns(5)
            await actor.stop()
        assert seen == ["given", "given"]
        assert context[variable] == "given"


async def _note(seen: list[str]) -> None:
    seen.append(variable.get())


class TestAsSeen:
    async def test_statistics(self) -> None:
        actor = await started()
        put(actor, "a", "wait", "b")
        await loop_turns(5)
        statistics = actor.statistics()
        assert (statistics.name, statistics.is_running, statistics.starts) == ("probe", True, 1)
        assert (statistics.received, statistics.mailbox_size) == (2, 1)
        await actor.stop()
        assert not actor.statistics().is_running

    async def test_repr(self) -> None:
        actor = Probe()
        assert repr(actor) == "Probe('probe', not running, received=0, Mailbox(0/∞, waiting=0))"
        await actor.start()
        await loop_turns(2)
        assert repr(actor) == "Probe('probe', running, received=0, Mailbox(0/∞, waiting=1))"
        await actor.stop()

    async def test_is_running_from_on_start_until_on_stop(self) -> None:
        actor = await started(stop_turns=5)
        seen = [(actor.is_alive, actor.is_running)]
        stop = asyncio.create_task(actor.stop())
        await loop_turns(4)
        seen.append((actor.is_alive, actor.is_running))
        await stop
        seen.append((actor.is_alive, actor.is_running))
        assert seen == [(True, True), (True, False), (False, False)]


async def test_a_task_service_without_a_run_of_its_own_rests() -> None:
    service = TaskService(name="rest")
    await service.start()
    await loop_turns(5)
    assert repr(service) == "TaskService('rest', running)"
    await service.retire()
    assert not service.is_alive


def test_two_loops_one_after_the_other() -> None:
    actor = Probe()

    async def live() -> None:
        await actor.start()
        await loop_turns(3)
        await actor.stop()

    asyncio.run(live())
    asyncio.run(live())
    assert actor.ledger.events == ["on_start", "on_stop"] * 2


def test_the_end_of_the_loop_is_an_end_with_its_on_stop(caplog: pytest.LogCaptureFixture) -> None:
    actor = Probe(ledger=(ledger := Ledger()))
    asyncio.run(actor.start())
    assert ledger.events == ["on_start", "on_stop"]
    assert not actor.is_alive
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_an_actor_must_say_what_it_does() -> None:
    with pytest.raises(TypeError, match="receive"):
        Actor(name="nobody")  # type: ignore[abstract]  # pyright: ignore[reportAbstractUsage]
