"""Process a user: a job with constructor arguments, a stored result, and the errors of every failed attempt.

Run it: python examples/process_user.py
"""

import asyncio

from pydantic import BaseModel

import actorjobs as aj

USERS = {1: "ada@example.org"}


class Order(BaseModel):
    user_id: int
    action: str


class Outcome(BaseModel):
    email_sent: bool
    user_id: int
    language: str


class ProcessUser(aj.Job[Order, Outcome]):
    name = "users:process"
    retry = aj.Retry(attempts=3, backoff=aj.Exponential(base=0.1, factor=2, jitter=0.1))
    language: str = "en"  # a constructor argument: kept on the run

    async def perform(self, payload: Order, ctx: aj.JobContext) -> Outcome:
        if payload.action == "send_welcome_email":
            return Outcome(email_sent=payload.user_id in USERS, user_id=payload.user_id, language=self.language)
        raise ValueError(f"unknown action: {payload.action}")


async def main() -> None:
    async with aj.Runtime(jobs=[ProcessUser]) as runtime:
        good = await ProcessUser.build(language="de").dispatch(Order(user_id=1, action="send_welcome_email"))
        print("result:", await good.result(timeout=10))
        run = await good.run()
        print("constructor arguments:", dict(run.constructor_args), "attempt:", run.attempt)

        bad = await ProcessUser.dispatch(Order(user_id=1, action="dance"))
        try:
            await bad.result(timeout=10)
        except aj.RunFailed as error:
            print("failed:", error)
        run = await bad.run()
        for kept in run.errors:
            print(f"  attempt {kept.attempt} by {kept.attempt_by is not None}: {kept.name}: {kept.message}")
        print("attempts:", [str(attempt.outcome) for attempt in await runtime.runs.attempts(bad.id)])
        print("script:", run.script)


if __name__ == "__main__":
    asyncio.run(main())
