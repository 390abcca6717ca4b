"""A typed job, dispatched through a port: inline in development, recorded in tests, durable in production.

Run it: python examples/typed_inline.py
"""

import asyncio
from dataclasses import dataclass, field

from pydantic import BaseModel

import actorjobs as aj
from actorjobs.testing import InlineDispatcher, RecordingDispatcher


class NewUser(BaseModel):
    email: str


@dataclass
class App:
    """The application's own context: its ports."""

    outbox: list[str] = field(default_factory=list)


@aj.job("mail:welcome", retry=aj.Retry(attempts=3))
async def send_welcome(user: NewUser, ctx: aj.JobContext[App]) -> str:
    if "@" not in user.email:
        raise ValueError("no address")
    ctx.app.outbox.append(f"Welcome -> {user.email}")
    return user.email


async def sign_up(email: str) -> None:
    """A use case. It knows the job, not who performs it."""
    await send_welcome.dispatch(NewUser(email=email))


async def main() -> None:
    app = App()
    failures: list[str] = []
    with InlineDispatcher(app=app, on_error=lambda error, job: failures.append(f"{job}: {error}")):
        await sign_up("ada@example.org")
        await sign_up("nowhere")
    print("inline:", app.outbox, failures)

    with RecordingDispatcher() as recorded:
        await sign_up("alan@example.org")
    recorded.assert_dispatched(send_welcome, NewUser(email="alan@example.org"), times=1)
    print("recorded:", [(one.job, one.payload) for one in recorded.dispatches])

    ctx = aj.JobContext.fake(app=App())
    print("called directly:", await send_welcome(NewUser(email="grace@example.org"), ctx), ctx.app.outbox)


if __name__ == "__main__":
    asyncio.run(main())
