"""Digests: one per reader however often she is mentioned, sent over connections that stay open, by payload version.

Run it: python examples/send_digests.py
"""

import asyncio
from typing import Any

from pydantic import BaseModel

import actorjobs as aj


class Digest(BaseModel):
    email: str
    mentions: int


class Mailer(aj.Actor):
    """Stands for an SMTP connection: each actor of the queue keeps one open between runs."""

    opened = 0

    async def on_start(self) -> None:
        type(self).opened += 1
        self.sent = 0

    async def send(self, to: str, mentions: int) -> int:
        self.sent += 1
        if mentions < 0:
            raise ConnectionError("421 the server closes the connection")
        return self.sent


def upcast(payload: dict[str, Any], version: int) -> dict[str, Any]:
    """Version 1 had the mentions themselves."""
    return {"email": payload["email"], "mentions": len(payload["mentions"])}


# Every mention asks for a digest; the last one within half a second counts.
@aj.job(
    "mail:digest",
    queue="smtp",
    unique=aj.Unique(("email",), while_="queued", on_conflict="replace"),
    version=2,
    upcast=upcast,
    retry=aj.Retry(attempts=2, backoff=aj.Fixed(0.1)),
)
async def send_digest(payload: Digest, ctx: aj.JobContext) -> str:
    mailer = ctx.actor(Mailer)
    try:
        number = await mailer.send(payload.email, payload.mentions if ctx.attempt == 1 else 0)
    except ConnectionError as error:
        raise aj.RestartActor("needs a new connection") from error
    return f"{payload.email}: {payload.mentions} mentions, mail {number} over this connection"


async def main() -> None:
    async with aj.Runtime(jobs=[send_digest], queues={"smtp": aj.Queue(concurrency=1, actor=Mailer)}) as runtime:
        asked = [await send_digest.dispatch(Digest(email="ada@x.org", mentions=n), delay=0.5) for n in range(1, 6)]
        print("five requests, one run:", len({handle.id for handle in asked}) == 1)
        print(await asked[-1].result(timeout=10))

        old = aj.Envelope(
            job="mail:digest", version=1, queue="smtp", payload={"email": "alan@x.org", "mentions": ["a", "b"]}
        )
        print(await (await runtime.dispatch(old)).result(timeout=10))

        print(await (await send_digest.dispatch(Digest(email="bob@x.org", mentions=-1))).result(timeout=10))
        print("connections opened:", Mailer.opened)


asyncio.run(main())
