"""The names on spans and metrics. Those of the semantic conventions are copied: the package that has them marks them as
incubating and may rename any of them with a minor version."""

from __future__ import annotations

from typing import Final

SCOPE: Final = "actorjobs"
"""The instrumentation scope of every span and metric."""

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.44.0"

# --- semantic conventions: attributes --------------------------------------------------------------------------------

MESSAGING_BATCH_MESSAGE_COUNT: Final = "messaging.batch.message_count"
MESSAGING_DESTINATION_NAME: Final = "messaging.destination.name"
MESSAGING_MESSAGE_ID: Final = "messaging.message.id"
MESSAGING_OPERATION_NAME: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_RABBITMQ_DESTINATION_ROUTING_KEY: Final = "messaging.rabbitmq.destination.routing_key"
MESSAGING_SYSTEM: Final = "messaging.system"
CODE_FUNCTION_NAME: Final = "code.function.name"
ERROR_TYPE: Final = "error.type"
EXCEPTION_MESSAGE: Final = "exception.message"
EXCEPTION_STACKTRACE: Final = "exception.stacktrace"
EXCEPTION_TYPE: Final = "exception.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
SERVICE_INSTANCE_ID: Final = "service.instance.id"
SERVICE_NAME: Final = "service.name"

# --- semantic conventions: values and the event of an exception ------------------------------------------------------

CREATE: Final = "create"
SEND: Final = "send"
PROCESS: Final = "process"
RABBITMQ: Final = "rabbitmq"
EXCEPTION: Final = "exception"

# --- semantic conventions: metrics -----------------------------------------------------------------------------------

MESSAGING_CLIENT_CONSUMED_MESSAGES: Final = "messaging.client.consumed.messages"
MESSAGING_CLIENT_OPERATION_DURATION: Final = "messaging.client.operation.duration"
MESSAGING_CLIENT_SENT_MESSAGES: Final = "messaging.client.sent.messages"
MESSAGING_PROCESS_DURATION: Final = "messaging.process.duration"

# --- our own ---------------------------------------------------------------------------------------------------------

EMBEDDED: Final = "actorjobs"
"""`messaging.system` where the store itself delivers."""

JOB_NAME: Final = "actorjobs.job.name"
QUEUE_NAME: Final = "actorjobs.queue.name"
QUEUE_WAIT: Final = "actorjobs.queue.wait_s"
"""Seconds between a run's being due and its claim."""
RUN_ID: Final = "actorjobs.run.id"
RUN_STATE: Final = "actorjobs.run.state"
"""What becomes of the run after the attempt."""
RUN_EXISTING: Final = "actorjobs.run.existing"
"""True on the span of a dispatch that was given the run that exists."""
PARENT_RUN_ID: Final = "actorjobs.parent_run.id"
REPLAY_OF: Final = "actorjobs.replay_of"
ATTEMPT_NUMBER: Final = "actorjobs.attempt.number"
ATTEMPT_MAX: Final = "actorjobs.attempt.max"
ATTEMPT_OUTCOME: Final = "actorjobs.attempt.outcome"
RETRY_DELAY: Final = "actorjobs.retry.delay_s"
PRIORITY: Final = "actorjobs.priority"
"""Where it is not the usual one."""
WORKER_ID: Final = "actorjobs.worker.id"
ACTOR_ID: Final = "actorjobs.actor.id"
TENANT_ID: Final = "actorjobs.tenant.id"
"""On spans only: there may be any number of tenants."""
PAYLOAD: Final = "actorjobs.payload."
"""What the name of a payload's field, marked for it, is put behind."""

LINK_TYPE: Final = "actorjobs.link.type"
LINK_CREATION: Final = "creation"
LINK_PREVIOUS_ATTEMPT: Final = "previous_attempt"
LINK_REPLAY_OF: Final = "replay_of"
LINK_PARENT_RUN: Final = "parent_run"
