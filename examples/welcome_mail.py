"""A welcome mail after signup: a class job with its own context, and a clear error where the context is missing.

Run it: python examples/welcome_mail.py
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import BaseModel, Field

import actorjobs as aj


class Welcome(BaseModel):  # exported, so that producers can build it too
    email: str
    title: str = Field(min_length=3)


class Mailer:
    """What the jobs may use; the application opens and closes it."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def deliver(self, to: str, title: str) -> None:
        self.sent.append(f"{title} -> {to}")


class WelcomeMail(aj.Job[Welcome, None, Mailer | None]):
    name = "mail:welcome"
    queue = "mail"
    retries = 1  # besides the first try
    retry_delay = 0.1

    async def perform(self, payload: Welcome, ctx: aj.JobContext[Mailer | None]) -> None:
        if ctx.app is None:
            raise aj.ContextMissing("WelcomeMail needs a mailer: give the runtime context=...")
        await ctx.app.deliver(payload.email, payload.title)
        ctx.log.info("welcomed %s", payload.email)


@asynccontextmanager
async def mailing() -> AsyncIterator[Mailer]:
    yield Mailer()


async def main() -> None:
    async with aj.Runtime(jobs=[WelcomeMail], context=mailing) as runtime:
        run = await WelcomeMail.dispatch(Welcome(email="ada@example.org", title="Hello"))
        await run.result(timeout=10)
        print("sent:", (await runtime.runs.get(run.id)).state)

        envelope = WelcomeMail.schedule(Welcome(email="alan@example.org", title="Hello"), delay=0.2)
        print("not sent yet, but validated and traced:", envelope.trace_id is not None)
        print("sent later:", (await (await runtime.dispatch(envelope)).result(timeout=10)) is None)

        try:
            await WelcomeMail.dispatch(Welcome.model_construct(email="x@example.org", title="Hi"))
        except aj.PayloadInvalid as error:
            print("refused before dispatch:", error)

    async with aj.Runtime(jobs=[WelcomeMail], namespace="no-mailer"):
        run = await WelcomeMail.dispatch(Welcome(email="bob@example.org", title="Hello"))
        try:
            await run.result(timeout=10)
        except aj.RunFailed as error:
            print("without a mailer:", error)


if __name__ == "__main__":
    asyncio.run(main())
