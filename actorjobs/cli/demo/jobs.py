"""The application of the demo: two jobs, the services they use, and the runtime."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from email.message import EmailMessage
from http import HTTPStatus
from typing import Literal

import aiosmtplib
import httpx
from pydantic import BaseModel, EmailStr, Field

import actorjobs as aj

Plan = Literal["free", "team"]


class Signup(BaseModel):
    """One row of the signup file."""

    email: EmailStr
    name: str = Field(min_length=1, max_length=200)
    plan: Plan
    signed_up: date


class Notice(BaseModel):
    """What the team's own system is told of a signup."""

    email: EmailStr
    plan: Plan


@dataclass(frozen=True)
class Services:
    """What the jobs use: where mail goes, and where webhooks go."""

    smtp_port: int
    web: httpx.AsyncClient


# A mail server that greylists says "later" for a while: four tries within some seconds get past it.
@aj.job("signup:welcome", queue="mail", retry=aj.Retry(attempts=6, backoff=aj.Exponential(0.5, cap=4)), timeout=20)
async def welcome(signup: Signup, ctx: aj.JobContext[Services]) -> str:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "hello@example.org", signup.email, "Welcome"
    mail.set_content(f"Welcome, {signup.name}.\n")
    _, answer = await aiosmtplib.send(mail, hostname="127.0.0.1", port=ctx.app.smtp_port, start_tls=False)
    if signup.plan == "team":
        await ctx.dispatch(deliver, Notice(email=signup.email, plan=signup.plan))
    return answer


# In production Custom(10, 30, 120, 300, 900); here a hundred times faster.
@aj.job(
    "webhook:deliver", queue="webhooks", retry=aj.Retry(attempts=8, backoff=aj.Custom(0.1, 0.3, 1.2, 3, 9)), timeout=20
)
async def deliver(notice: Notice, ctx: aj.JobContext[Services]) -> int:
    once = {"Idempotency-Key": ctx.run_id}
    response = await ctx.app.web.post("/hooks/signup", json=notice.model_dump(), headers=once)
    if response.status_code == HTTPStatus.GONE:
        raise aj.Fail(f"{notice.email} has unsubscribed: the endpoint answered 410")
    if response.is_error:
        raise ConnectionError(f"the endpoint answered {response.status_code}")
    return response.status_code


def make_runtime(*, namespace: str, store: str | None, smtp_port: int, web_port: int) -> aj.Runtime:
    """The runtime of the demo; `store` None leaves it to the environment."""

    @asynccontextmanager
    async def services() -> AsyncGenerator[Services]:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{web_port}", timeout=10, trust_env=False) as web:
            yield Services(smtp_port=smtp_port, web=web)

    return aj.Runtime(
        store=store,
        namespace=namespace,
        jobs=[welcome, deliver],
        queues={"mail": 20, "webhooks": 10},
        context=services,
    )
