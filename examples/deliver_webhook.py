"""Deliver webhooks: delays as the provider wants them, keys against doubles, cancel, delay, replay.

Run it: python examples/deliver_webhook.py
"""

import asyncio
from datetime import UTC, datetime, timedelta

from pydantic import BaseModel

import actorjobs as aj


class Webhook(BaseModel):
    url: str
    event: str


class Endpoint:
    """Somebody else's server: down at first."""

    calls = 0

    @classmethod
    async def post(cls, url: str, event: str) -> int:
        cls.calls += 1
        if cls.calls <= 3 or "broken" in url:
            raise ConnectionError("503 from the endpoint")
        return 204


# Delays of 10, 30, 120, 300, 900 s in earnest; here a hundred times faster. The last one repeats.
@aj.job("webhooks:deliver", retry=aj.Retry(attempts=8, backoff=aj.Custom(0.1, 0.3, 1.2, 3, 9)))
async def deliver(webhook: Webhook, ctx: aj.JobContext) -> int:
    return await Endpoint.post(webhook.url, webhook.event)


async def main() -> None:
    async with aj.Runtime(jobs=[deliver]) as runtime:
        hook = Webhook(url="https://example.org/hook", event="paid")
        first = await deliver.dispatch(hook, idempotency_key="evt_1")
        again = await deliver.dispatch(hook, idempotency_key="evt_1")
        print("one run for one key:", first.id == again.id, again.existing)
        try:
            await deliver.dispatch(Webhook(url=hook.url, event="refunded"), idempotency_key="evt_1")
        except aj.IdempotencyConflict as conflict:
            print("another payload under the key is a conflict with:", conflict.run_id == first.id)

        print("delivered:", await first.result(timeout=20), "after", (await first.run()).attempt, "attempts")
        for entry in await runtime.runs.history(first.id):
            print(f"  {entry.event:<10} {entry.state}")

        later = await deliver.dispatch(hook, run_at=datetime.now(UTC) + timedelta(hours=1))
        print("canceled before it started:", (await later.cancel(reason="not needed")).state)

        lost = await deliver.options(retry=aj.Retry(attempts=1)).dispatch(Webhook(url="https://broken", event="paid"))
        dead = await runtime.runs.wait(lost.id, timeout=10)
        print("dead letter:", dead.state, dead.errors[-1].message)
        fixed = Webhook(url="https://example.org/new", event="paid")
        replayed = await runtime.runs.replay(lost.id, reason="endpoint moved", payload=fixed)
        print("replayed:", await replayed.result(timeout=10), (await replayed.run()).replay_of == lost.id)


if __name__ == "__main__":
    asyncio.run(main())
