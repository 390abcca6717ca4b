"""Accepting: envelopes become rows, in groups or in a transaction of the caller's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TypeVar

from sqlalchemy import Connection, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from actorjobs.errors import IdempotencyConflict, InvalidOption, StoreUnavailable
from actorjobs.model import Envelope
from actorjobs.ports import Accepted
from actorjobs.ports import Transaction as CallerTransaction
from actorjobs.stores.core import StoreCore
from actorjobs.stores.database import LockHeld
from actorjobs.stores.rows import fingerprint, row_or_refusal
from actorjobs.stores.schema import runs

T = TypeVar("T")


KEY_WAIT_SECONDS = 5.0
"""How long a group of keyed dispatches waits for somebody else's open transaction that holds one of their keys."""

KEY_WAIT_ALONE_SECONDS = 0.1


class Accepting(StoreCore):
    """Verbs that make runs."""

    async def insert(self, envelopes: Sequence[Envelope]) -> Sequence[Accepted | Exception]:
        try:
            return await self._database.write(lambda connection: self._insert(connection, envelopes))
        except LockHeld:
            return [await self._insert_alone(envelope) for envelope in envelopes]

    async def _insert_alone(self, envelope: Envelope) -> Accepted | Exception:
        """One of a group that has waited long enough for a key which somebody's open transaction holds."""

        def work(connection: Connection) -> Accepted | Exception:
            return self._insert(connection, [envelope], key_wait_seconds=KEY_WAIT_ALONE_SECONDS)[0]

        try:
            return await self._database.write(work)
        except LockHeld:
            return StoreUnavailable(
                f"somebody's open transaction holds the idempotency key of run {envelope.id}: dispatch again later"
            )

    async def insert_all(
        self, envelopes: Sequence[Envelope], tx: CallerTransaction | None = None
    ) -> Sequence[Accepted]:
        if tx is None:
            return await self._database.write(lambda connection: self._insert_all(connection, envelopes))
        return await self._in_caller(tx, lambda connection: self._insert_all_in(connection, envelopes))

    def _insert_all_in(self, connection: Connection, envelopes: Sequence[Envelope]) -> list[Accepted]:
        """The same as a part of the caller's transaction, whose own waiting for locks is not ours to limit."""
        if not connection.in_transaction():
            connection.begin()  # as its first statement would have done: ours go past the toolkit on SQLite
        with self._dialect.as_guest(connection):
            return self._insert_all(connection, envelopes)

    def _insert_all(self, connection: Connection, envelopes: Sequence[Envelope]) -> list[Accepted]:
        answers = self._insert(connection, envelopes)
        for index, answer in enumerate(answers):
            if isinstance(answer, Exception):
                # A transaction of the caller's may go on: none of the others is to stay in it.
                new = [other.run_id for other in answers if isinstance(other, Accepted) and not other.existing]
                self._delete(connection, new)
                if len(answers) > 1:
                    answer.args = (f"envelope {index}: {answer}",)
                raise answer
        return [answer for answer in answers if isinstance(answer, Accepted)]

    def insert_in(self, envelopes: Sequence[Envelope], tx: CallerTransaction) -> Sequence[Accepted]:
        """All or none inside a synchronous transaction of the caller's, in the caller's thread."""
        match tx:
            case Session():
                connection = tx.connection()
            case Connection():
                connection = tx
            case _:
                raise InvalidOption("outside the event loop tx= takes a SQLAlchemy Session or Connection")
        self._check_backend(connection)
        return self._insert_all_in(connection, envelopes)

    async def _in_caller(self, tx: CallerTransaction, work: Callable[[Connection], T]) -> T:
        connection = await _caller_connection(tx)
        self._check_backend(connection)
        if isinstance(connection, AsyncConnection):
            return await connection.run_sync(work)
        return work(connection)

    def _check_backend(self, connection: Connection | AsyncConnection) -> None:
        backend = connection.engine.url.get_backend_name()
        if backend not in self._dialect.backends:
            raise InvalidOption(f"tx= is a transaction on {backend}, the runs are in {self.url}")

    def _insert(
        self, connection: Connection, envelopes: Sequence[Envelope], *, key_wait_seconds: float | None = None
    ) -> list[Accepted | Exception]:
        rows = [row_or_refusal(envelope) for envelope in envelopes]
        new = [(one, row) for one, row in zip(envelopes, rows, strict=True) if not isinstance(row, Exception)]
        is_keyed = any(envelope.idempotency_key is not None for envelope, _ in new)
        patience = self._dialect.waiting_at_most(connection, key_wait_seconds or KEY_WAIT_SECONDS)
        with patience if is_keyed else nullcontext():
            went_in = iter(self._hot.insert(connection, self._namespace, new) if new else ())
        return [
            row if isinstance(row, Exception) else self._answer(connection, envelope, is_new=next(went_in))
            for envelope, row in zip(envelopes, rows, strict=True)
        ]

    def _answer(self, connection: Connection, envelope: Envelope, *, is_new: bool) -> Accepted | Exception:
        return Accepted(run_id=envelope.id, existing=False) if is_new else self._winner(connection, envelope)

    def _winner(self, connection: Connection, envelope: Envelope) -> Accepted | Exception:
        """The run that stands in the way of `envelope`: itself dispatched before, or the holder of its key."""
        by_id = connection.execute(
            self._dialect.of_now(select(runs.c.namespace).where(runs.c.id == envelope.id))
        ).scalar()
        if by_id is not None:
            if by_id != self._namespace:
                return InvalidOption(f"run id {envelope.id} is taken in another namespace")
            return Accepted(run_id=envelope.id, existing=True)
        of_key = select(runs.c.id, runs.c.fingerprint).where(
            runs.c.namespace == self._namespace,
            runs.c.tenant == (envelope.tenant or ""),
            runs.c.job == envelope.job,
            runs.c.idempotency_key == envelope.idempotency_key,
        )
        holder = connection.execute(self._dialect.of_now(of_key)).first()
        if holder is None:
            return StoreUnavailable("the run that held this idempotency key was deleted just now: dispatch again")
        if holder.fingerprint != fingerprint(envelope):
            return IdempotencyConflict(
                f"the idempotency key was used for {envelope.job} with another payload, by run {holder.id}: "
                "use a new key for new work",
                run_id=holder.id,
            )
        return Accepted(run_id=holder.id, existing=True)


async def _caller_connection(tx: CallerTransaction) -> Connection | AsyncConnection:
    match tx:
        case AsyncSession():
            return await tx.connection()
        case Session():
            return tx.connection()
        case AsyncConnection() | Connection():
            return tx
        case _:
            raise InvalidOption("tx= takes a SQLAlchemy Session, AsyncSession, Connection or AsyncConnection")
