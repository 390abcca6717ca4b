"""F13: messages that are no hints, or hints of nothing. F12: one delivered too often. F23: no trace of its past."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import orjson
import pytest
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import DeliveryError
from pamqp import commands

from actorjobs.brokers.rabbitmq.message import encode
from actorjobs.brokers.rabbitmq.settling import LARGEST_KEPT
from actorjobs.ports import Hint, Refused
from tests.faults.app import Work
from tests.faults.bench import Bench, becomes, consumer_of, until

NOT_HINTS: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"\x00\xff\xfe",
    "no object": b"[1, 2]",
    "a deep one": b"[" * 2000 + b"]" * 2000,
    "an oversized one": b"x" * 3_000_000,
    "a newer version": orjson.dumps({"v": 99}),
    "another store's": orjson.dumps({"v": 1, "store": "\x00'; drop", "run": "a", "seq": 1, "job": "x"}),
    "a number for a run": orjson.dumps({"v": 1, "store": "STORE", "run": 7, "seq": 1, "job": "x"}),
    "a garbage id": orjson.dumps({"v": 1, "store": "STORE", "run": "\x00\n'", "seq": 1, "job": "x"}),
    "a long id": orjson.dumps({"v": 1, "store": "STORE", "run": "x" * 3000, "seq": 1, "job": "x"}),
    "an empty id": orjson.dumps({"v": 1, "store": "STORE", "run": "", "seq": 1, "job": "x"}),
    "no generation": orjson.dumps({"v": 1, "store": "STORE", "run": "a", "seq": True, "job": "x"}),
    "a huge generation": orjson.dumps({"v": 1, "store": "STORE", "run": "a", "seq": 2**40, "job": "x"}),
    "a lone surrogate": b'{"v": 1, "store": "\\ud800"}',
    "not a number": b'{"v": NaN}',
}
HINTS_OF_NOTHING: dict[str, dict[str, Any]] = {
    "an unknown run": {"run": "01900000-0000-7000-8000-000000000000", "seq": 1},
    "the largest generation": {"run": "01900000-0000-7000-8000-000000000000", "seq": 2**31 - 1},
}


async def put(bench: Bench, body: bytes, queue: str | None = None, **properties: Any) -> None:
    name = queue or bench.work_queue
    async with bench.channel() as channel:
        with suppress(DeliveryError):  # a queue made just now may have no leader yet
            await channel.basic_publish(body, routing_key=name, properties=commands.Basic.Properties(**properties))
            return
        await asyncio.sleep(0.5)
        await channel.basic_publish(body, routing_key=name, properties=commands.Basic.Properties(**properties))


async def test_what_is_no_hint_is_kept_as_it_came_and_harms_nobody(bench: Bench) -> None:
    store = (await bench.client.store.identity()).encode()
    bodies = [body.replace(b"STORE", store) for body in NOT_HINTS.values()]
    kept_of = {body[:LARGEST_KEPT] for body in bodies}
    worker = await bench.worker(at_once=2)
    odd = {"bytes": bytearray(b"\xff\x00"), "nested": {"a": [1, 2.5, None, {"b": "\x00"}]}, "x-death": []}
    for queue in (bench.work_queue, bench.topology.dead, bench.topology.unrouted):
        for body in bodies:
            await put(bench, body, queue, headers=odd, message_id="\x01", content_type="text/plain")
    for _ in range(20):
        await bench.dispatch()
    await bench.judge(most_attempts=1)

    async def are_kept() -> bool:
        return len({(one.queue, one.body) for one in await worker.quarantined(limit=200)}) >= 3 * len(kept_of)

    await becomes(are_kept)
    kept = await worker.quarantined(limit=200)
    assert {one.body for one in kept} == kept_of
    assert {one.queue for one in kept} == {bench.work_queue, bench.topology.dead, bench.topology.unrouted}
    assert not worker.health


async def test_what_no_database_takes_does_not_stop_the_others(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = await bench.worker(at_once=1)
    quarantine = worker.store.quarantine

    async def refusing(messages: Any) -> None:
        if any(one.body == b"too large" for one in messages):
            raise ValueError("the packet is larger than the server takes")
        await quarantine(messages)

    monkeypatch.setattr(worker.store, "quarantine", refusing)
    for queue in (bench.work_queue, bench.topology.dead):
        for _ in range(40):
            await put(bench, b"too large", queue)
        await put(bench, b"small", queue)
    await bench.dispatch_many(30)
    await bench.judge(most_attempts=1, empties=False)

    async def are_kept() -> bool:
        return len([one for one in await worker.quarantined(limit=100) if one.body == b"small"]) == 2

    await becomes(are_kept)


async def test_a_hint_of_nothing_is_done_with(bench: Bench) -> None:
    store = await bench.client.store.identity()
    worker = await bench.worker(at_once=2)
    for fields in HINTS_OF_NOTHING.values():
        for queue in (bench.work_queue, bench.topology.dead, bench.topology.unrouted):
            await put(bench, orjson.dumps({"v": 1, "store": store, "job": "faults:work", **fields}), queue)
    await until(lambda: consumer_of(worker).refusals[Refused.STALE] >= len(HINTS_OF_NOTHING))
    for _ in range(10):
        await bench.dispatch()
    await bench.judge(most_attempts=1)
    assert not await worker.quarantined()


async def test_a_hint_twice_or_early_or_late_starts_nothing_else(bench: Bench) -> None:
    store = await bench.client.store.identity()
    await bench.worker(at_once=4)
    due_later = await bench.dispatch(delay=1.5)
    failing = await bench.dispatch(Work(failures=2))
    plain = [await bench.dispatch(Work(seconds=0.3)) for _ in range(5)]
    for _ in range(4):
        for run_id in (due_later, failing, *plain):
            for seq in (0, 1, 2, 3):
                hint = Hint(run_id=run_id, seq=seq, job="faults:work", queue="work")
                await put(bench, encode(hint, store, 0.0))
    await bench.judge()
    assert (await bench.client.runs.get(failing)).attempt == 3
    assert (await bench.client.runs.get(due_later)).attempt == 1


async def test_a_hint_that_came_too_often_is_sent_anew(bench: Bench) -> None:
    """F12 and F23."""
    await bench.dispatch()
    await becomes(lambda: _has(bench, bench.work_queue, 1))
    async with bench.channel() as channel:
        for _ in range(21):
            await channel.basic_nack((await next_of(channel, bench.work_queue)).delivery_tag, requeue=True)
    await becomes(lambda: _has(bench, bench.topology.dead, 1))
    await bench.worker(queues={"b": 1}, only={"b": None})  # one that drains, and performs nothing of this queue
    async with bench.channel() as channel:
        again = await next_of(channel, bench.work_queue)
        assert not {"x-death", "x-first-death-queue"} & set(again.header.properties.headers or {})
        assert json.loads(again.body)["seq"] == 2
        await channel.basic_nack(again.delivery_tag, requeue=True)
    await bench.worker()
    await bench.judge(most_attempts=1)


async def next_of(channel: AbstractChannel, queue: str) -> DeliveredMessage:
    async with asyncio.timeout(20):
        while not isinstance((found := await channel.basic_get(queue)).delivery, commands.Basic.GetOk):
            await asyncio.sleep(0.05)
        return found


async def _has(bench: Bench, queue: str, number: int) -> bool:
    return (await bench.ready()).get(queue) == number
