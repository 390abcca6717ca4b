"""The protocol holds whatever happens in whatever order, and each of its rules is there for a reason."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from actorjobs.lifecycle import TABLE
from actorjobs.model import RunState
from tests.model import invariants as broken
from tests.model.explore import Findings, explore
from tests.model.protocol import Flaws, Left, World

NO_SWEEP = Flaws(no_sweep=True)
"""The sweep is the last resort: minutes late, it mends nearly everything that keeps a hint from being published. What
the rules before it are good for shows without it."""

WORLDS = {
    "processes die": (World(left=Left(renewals=1, crashes=2)), 80_000),
    "processes die, hints get lost": (World(left=Left(renewals=1, crashes=1, lost_hints=1)), 20_000),
    "processes die, nobody sweeps": (World(left=Left(crashes=2), is_punctual=True, flaws=NO_SWEEP), 40_000),
    "hints are doubled and lost": (World(left=Left(renewals=1, lost_hints=1, doubled_hints=1)), 4_000),
    "the living are taken for dead": (World(left=Left(false_deaths=1, disconnects=1)), 50_000),
    "the last attempt dies": (World(left=Left(crashes=2, disconnects=1), max_attempts=1), 15_000),
    "the run kills its workers": (World(left=Left(crashes=1, reopenings=1), losses_before=4, max_attempts=1), 5_000),
    "dispatched for later, moved": (World(left=Left(crashes=1, reschedulings=1, renewals=1), is_delayed=True), 100_000),
    "dispatched for later, nobody sweeps": (
        World(left=Left(crashes=1), is_delayed=True, is_punctual=True, flaws=NO_SWEEP),
        5_000,
    ),
    "canceled": (World(left=Left(cancels=1, crashes=1, disconnects=1)), 50_000),
    "canceled and taken for dead": (World(left=Left(cancels=1, false_deaths=1)), 30_000),
    "canceled and reopened twice": (World(left=Left(cancels=2, reopenings=2), max_attempts=1), 40_000),
    "paused": (World(left=Left(pauses=2, disconnects=1)), 10_000),
    "snoozed": (World(left=Left(renewals=1, snoozes=1, cancels=1)), 10_000),
    "released": (World(left=Left(releases=1, reschedulings=1), max_attempts=1), 5_000),
    "expired": (World(left=Left(expiries=1, reopenings=1, lost_hints=1, renewals=1), is_delayed=True), 15_000),
}


@cache
def explored(world: World) -> Findings:
    return explore(world)


@pytest.mark.parametrize(("world", "at_least"), WORLDS.values(), ids=WORLDS)
def test_the_protocol_holds_when(world: World, at_least: int) -> None:
    findings = explored(world)
    print(findings)
    assert not findings.broken, str(findings)
    # Fewer would mean that something no longer happens at all.
    assert findings.states >= at_least


def test_every_transition_is_among_it() -> None:
    ways = set[tuple[RunState, RunState]]().union(*(explored(world).ways for world, _ in WORLDS.values()))
    assert {(before, after) for (before, _), after in TABLE.items()} <= ways


FLAWED = {
    "nobody relays": (World(left=Left(crashes=1), flaws=Flaws(no_relay=True)), broken.STUCK),
    "nobody sweeps": (World(left=Left(lost_hints=1), flaws=NO_SWEEP), broken.STUCK),
    "nobody rescues": (World(left=Left(crashes=1), flaws=Flaws(no_rescue=True)), broken.STUCK),
    "the claim is no compare-and-set: it takes what runs": (
        World(left=Left(disconnects=1), flaws=Flaws(claim_is_no_compare_and_set=True)),
        broken.STARTED_TWICE,
    ),
    "the claim is no compare-and-set: it takes what is over": (
        World(left=Left(crashes=1), flaws=Flaws(claim_is_no_compare_and_set=True)),
        broken.STARTED_OVER,
    ),
    "the claim ignores the due time": (
        World(is_delayed=True, flaws=Flaws(claim_ignores_due_time=True)),
        broken.STARTED_EARLY,
    ),
    "the claim ignores that the queue is paused": (
        World(left=Left(pauses=1), flaws=Flaws(claim_ignores_pause=True)),
        broken.STARTED_PAUSED,
    ),
    "a zombie's settle is not refused": (
        World(left=Left(false_deaths=1), flaws=Flaws(settle_is_not_fenced=True)),
        broken.LEFT_THE_TABLE,
    ),
    "a zombie's success is not refused": (
        World(left=Left(false_deaths=1), flaws=Flaws(settle_is_not_fenced=True)),
        broken.TWO_SUCCESSES,
    ),
    "a cancel request is ignored at the settle": (
        World(left=Left(cancels=1), flaws=Flaws(settle_ignores_cancel=True)),
        broken.CANCEL_IGNORED,
    ),
    "the cancel of a waiting run leaves it claimable": (
        World(left=Left(cancels=1), flaws=Flaws(cancel_only_asks=True, claim_ignores_cancel=True)),
        broken.STARTED_CANCELED,
    ),
    # With the claim's own look at the request it is not started, and not ended either.
    "the cancel of a waiting run only asks": (
        World(left=Left(cancels=1), flaws=Flaws(cancel_only_asks=True)),
        broken.STUCK,
    ),
    "a succeeded run can be reopened": (
        World(left=Left(reopenings=1), flaws=Flaws(reopens_succeeded=True)),
        broken.LEFT_THE_TABLE,
    ),
    "an interrupted attempt's number is given out again": (
        World(left=Left(releases=1), flaws=Flaws(attempt_is_refunded=True)),
        broken.LOST_COUNT,
    ),
}


@pytest.mark.parametrize(("world", "what"), FLAWED.values(), ids=FLAWED)
def test_a_flaw_is_found(world: World, what: str) -> None:
    findings = explore(world, until=what)
    print(findings)
    assert what in findings.broken, str(findings)


@pytest.mark.parametrize("world", dict.fromkeys(replace(world, flaws=Flaws()) for world, _ in FLAWED.values()))
def test_it_is_the_flaw_and_not_the_world_that_breaks_it(world: World) -> None:
    assert not explore(world).broken


# What the sweep for lost hints would mend, minutes late: without these rules it would be needed every day.
MENDED = {
    "published before the commit": (World(is_punctual=True), Flaws(publishes_before_commit=True)),
    "the mark is not fenced by seq": (
        World(left=Left(crashes=1), is_punctual=True),
        Flaws(mark_is_not_fenced=True),
    ),
    # The mark that the broker's confirm of the first hint left to do then passes for the mark of the second.
    "the rescue keeps seq": (
        World(left=Left(crashes=2), max_attempts=1, is_punctual=True),
        Flaws(rescue_keeps_seq=True),
    ),
    "the snooze keeps published_at and sets no publish_after": (
        World(left=Left(snoozes=1, crashes=1), max_attempts=1, is_punctual=True),
        Flaws(snooze_keeps_mark=True),
    ),
    "acknowledged before the claim": (
        World(left=Left(crashes=1), is_punctual=True),
        Flaws(acks_before_claim=True),
    ),
    "early hints are refused like others": (
        World(left=Left(renewals=2), is_delayed=True),
        Flaws(drops_early_hints=True),
    ),
    # The mark of a hint that arrived early may be written after the hint was left to the relay.
    "an early hint left to the relay keeps its seq": (
        World(left=Left(renewals=2), is_delayed=True),
        Flaws(early_hints_keep_seq=True),
    ),
}


@pytest.mark.parametrize(("world", "flaws"), MENDED.values(), ids=MENDED)
def test_a_flaw_that_the_sweep_mends_is_found_without_it(world: World, flaws: Flaws) -> None:
    mended = explore(replace(world, flaws=flaws))
    assert not mended.broken, str(mended)
    findings = explore(replace(world, flaws=replace(flaws, no_sweep=True)))
    print(findings)
    assert list(findings.broken) == [broken.STUCK], str(findings)
    sound = explore(replace(world, flaws=NO_SWEEP))
    assert not sound.broken, str(sound)


def test_seq_and_the_due_time_cover_each_other_at_the_claim() -> None:
    """A stale hint finds a run that is not due, or one that may be started anyhow: as long as the claim looks at the
    due time, ignoring seq breaks nothing. Where a broker is never early, it is seq alone that a backoff is kept by."""
    world = World(left=Left(disconnects=1), is_punctual=True)
    for either in (Flaws(claim_ignores_seq=True), Flaws(claim_ignores_due_time=True)):
        findings = explore(replace(world, flaws=either))
        assert not findings.broken, str(findings)
    neither = Flaws(claim_ignores_seq=True, claim_ignores_due_time=True)
    assert broken.STARTED_EARLY in explore(replace(world, flaws=neither), until=broken.STARTED_EARLY).broken


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.faults
@pytest.mark.parametrize(
    ("world", "at_least"),
    [
        (World(left=Left(crashes=2), most_copies=3), 200_000),
        (World(left=Left(crashes=2, lost_hints=1, disconnects=1)), 400_000),
        (World(left=Left(false_deaths=1, crashes=1, cancels=1)), 400_000),
        (World(left=Left(cancels=1, reopenings=1, pauses=1, crashes=1)), 600_000),
        (World(left=Left(snoozes=1, releases=1, crashes=1)), 300_000),
        (World(left=Left(crashes=1, false_deaths=1), workers=3), 300_000),
    ],
    ids=["copies", "faults", "zombies", "operators", "waiting", "workers"],
)
def test_the_protocol_holds_in_a_larger_world(world: World, at_least: int) -> None:
    findings = explore(world)
    print(findings)
    assert not findings.broken, str(findings)
    assert findings.states >= at_least
