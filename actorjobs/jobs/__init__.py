"""Defining jobs, asking for runs of them, and what a handler sees while it performs one."""

from __future__ import annotations

from actorjobs.jobs.actor import Actor
from actorjobs.jobs.classes import Job
from actorjobs.jobs.collect import definition_of, definitions_in
from actorjobs.jobs.context import JobContext, JobLogger
from actorjobs.jobs.current import bind_context, current_context, running_context
from actorjobs.jobs.defaults import JobDefaults
from actorjobs.jobs.definition import Contract, Definition
from actorjobs.jobs.dispatch import ArgsDispatchable, Dispatchable, Order, order_for
from actorjobs.jobs.fake import FakeContext
from actorjobs.jobs.function import ArgsJob, PayloadJob, job
from actorjobs.jobs.handle import RunHandle
from actorjobs.jobs.hooks import CallNext, DispatchMiddleware, DispatchNext, Hooks, Middleware, Observer
from actorjobs.jobs.isolation import Isolation, Process
from actorjobs.jobs.options import (
    DEFAULT_PRIORITY,
    DEFAULT_QUEUE,
    EnvelopeOptions,
    Options,
    check_job_name,
    check_options,
    check_queue_name,
    check_tenant,
)
from actorjobs.jobs.queue import DEFAULT_CONCURRENCY, Queue, check_concurrency
from actorjobs.jobs.ref import JobRef
from actorjobs.jobs.traced import Traced
from actorjobs.jobs.unique import Unique, unique_digest

__all__ = [
    "DEFAULT_CONCURRENCY",
    "DEFAULT_PRIORITY",
    "DEFAULT_QUEUE",
    "Actor",
    "ArgsDispatchable",
    "ArgsJob",
    "CallNext",
    "Contract",
    "Definition",
    "DispatchMiddleware",
    "DispatchNext",
    "Dispatchable",
    "EnvelopeOptions",
    "FakeContext",
    "Hooks",
    "Isolation",
    "Job",
    "JobContext",
    "JobDefaults",
    "JobLogger",
    "JobRef",
    "Middleware",
    "Observer",
    "Options",
    "Order",
    "PayloadJob",
    "Process",
    "Queue",
    "RunHandle",
    "Traced",
    "Unique",
    "bind_context",
    "check_concurrency",
    "check_job_name",
    "check_options",
    "check_queue_name",
    "check_tenant",
    "current_context",
    "definition_of",
    "definitions_in",
    "job",
    "order_for",
    "running_context",
    "unique_digest",
]
