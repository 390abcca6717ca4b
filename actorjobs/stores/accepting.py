"""Accepting: envelopes become rows, in groups or in a transaction of the caller's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from actorjobs.errors import DuplicateRun, IdempotencyConflict, InvalidOption, StoreUnavailable
from actorjobs.jobs.unique import Unique
from actorjobs.lifecycle import WAITING, advance
from actorjobs.model import Envelope, RunState, Transition
from actorjobs.ports import PUBLISH_GRACE_SECONDS, Accepted
from actorjobs.ports import Transaction as CallerTransaction
from actorjobs.stores.core import StoreCore
from actorjobs.stores.database import LockHeld
from actorjobs.stores.rows import New, Row, fingerprint, new_content, row_or_refusal, uniqueness
from actorjobs.stores.schema import runs

T = TypeVar("T")


KEY_WAIT_SECONDS = 5.0
"""How long a group of keyed dispatches waits for somebody else's open transaction that holds one of their keys."""

KEY_WAIT_ALONE_SECONDS = 0.1

CONFLICT_TRIES = 10
"""How often a dispatch is tried whose obstacle is gone by the time it is looked at."""


class Accepting(StoreCore):
    """Verbs that make runs."""

    async def insert(
        self, envelopes: Sequence[Envelope], *, publish_in: float = PUBLISH_GRACE_SECONDS
    ) -> Sequence[Accepted | Exception]:
        may_wait = any(one.idempotency_key is not None or one.unique is not None for one in envelopes)
        write = self._database.write if may_wait else self._database.write_at_once
        try:
            return await write(lambda c: self._insert(c, envelopes, publish_in=publish_in))
        except LockHeld:
            return [await self._insert_alone(envelope, publish_in) for envelope in envelopes]

    async def _insert_alone(self, envelope: Envelope, publish_in: float) -> Accepted | Exception:
        """One of a group that has waited long enough for a key which somebody's open transaction holds."""

        def work(connection: Connection) -> Accepted | Exception:
            wait = KEY_WAIT_ALONE_SECONDS
            return self._insert(connection, [envelope], publish_in=publish_in, key_wait_seconds=wait)[0]

        try:
            return await self._database.write(work)
        except LockHeld:
            return StoreUnavailable(
                f"somebody's open transaction holds the key or the place of run {envelope.id}: dispatch again later"
            )

    async def insert_all(
        self,
        envelopes: Sequence[Envelope],
        tx: CallerTransaction | None = None,
        *,
        publish_in: float = PUBLISH_GRACE_SECONDS,
    ) -> Sequence[Accepted]:
        if tx is None:
            return await self._database.write(lambda c: self._insert_all(c, envelopes, publish_in))
        return await self._in_caller(tx, lambda connection: self._insert_all_in(connection, envelopes))

    def _insert_all_in(self, connection: Connection, envelopes: Sequence[Envelope]) -> list[Accepted]:
        """The same as a part of the caller's transaction, whose own waiting for locks is not ours to limit."""
        if not connection.in_transaction():
            connection.begin()  # as its first statement would have done: ours go past the toolkit on SQLite
        with self._dialect.as_guest(connection):
            # Nobody is told when the caller commits: the hints are left to the relay.
            return self._insert_all(connection, envelopes, publish_in=0.0)

    def _insert_all(self, connection: Connection, envelopes: Sequence[Envelope], publish_in: float) -> list[Accepted]:
        replacing: list[Callable[[], None]] = []
        answers = self._insert(connection, envelopes, publish_in=publish_in, replacing=replacing)
        for index, answer in enumerate(answers):
            if isinstance(answer, Exception):
                # A transaction of the caller's may go on: none of the others is to stay in it.
                new = [other.run_id for other in answers if isinstance(other, Accepted) and not other.existing]
                self._delete(connection, new)
                if len(answers) > 1:
                    answer.args = (f"envelope {index}: {answer}",)
                raise answer
        for replace in replacing:
            replace()
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
        self,
        connection: Connection,
        envelopes: Sequence[Envelope],
        *,
        publish_in: float,
        key_wait_seconds: float | None = None,
        replacing: list[Callable[[], None]] | None = None,
    ) -> list[Accepted | Exception]:
        """The answers. Twins are replaced at once, or `replacing` collects what is to be done about them."""
        rows = [row_or_refusal(envelope) for envelope in envelopes]
        new = {i: (envelopes[i], row) for i, row in enumerate(rows) if not isinstance(row, Exception)}
        is_exclusive = any(one.idempotency_key is not None or one.unique is not None for one, _ in new.values())
        patience = self._dialect.waiting_at_most(connection, key_wait_seconds or KEY_WAIT_SECONDS)
        with patience if is_exclusive else nullcontext():
            answers = self._answers(connection, new, publish_in, replacing)
        gone = StoreUnavailable("what stood in the way of this dispatch is gone, time and again: dispatch again")
        return [row if isinstance(row, Exception) else answers.get(i, gone) for i, row in enumerate(rows)]

    def _answers(
        self,
        connection: Connection,
        new: Mapping[int, New],
        publish_in: float,
        replacing: list[Callable[[], None]] | None,
    ) -> dict[int, Accepted | Exception]:
        answers: dict[int, Accepted | Exception] = {}
        for _ in range(CONFLICT_TRIES):
            asked = [index for index in new if index not in answers]
            if not asked:
                break
            went_in = self._hot.insert(connection, self._namespace, [new[index] for index in asked], publish_in)
            for index, is_new in zip(asked, went_in, strict=True):
                answer = self._answer(connection, new[index][0], is_new=is_new, replacing=replacing)
                if answer is not None:
                    answers[index] = answer
        return answers

    def _answer(
        self,
        connection: Connection,
        envelope: Envelope,
        *,
        is_new: bool,
        replacing: list[Callable[[], None]] | None,
    ) -> Accepted | Exception | None:
        """What became of an envelope; None when what kept it out is gone by now."""
        if is_new:
            return Accepted(run_id=envelope.id, existing=False)
        return (
            self._same(connection, envelope)
            or (self._key_holder(connection, envelope) if envelope.idempotency_key is not None else None)
            or (self._twin(connection, envelope, replacing) if envelope.unique is not None else None)
        )

    def _same(self, connection: Connection, envelope: Envelope) -> Accepted | Exception | None:
        """The very run, dispatched before."""
        of_id = select(runs.c.namespace).where(runs.c.id == envelope.id)
        namespace = connection.execute(self._dialect.of_now(of_id)).scalar()
        if namespace is None:
            return None
        if namespace != self._namespace:
            return InvalidOption(f"run id {envelope.id} is taken in another namespace")
        return Accepted(run_id=envelope.id, existing=True)

    def _key_holder(self, connection: Connection, envelope: Envelope) -> Accepted | Exception | None:
        """The run that holds the envelope's idempotency key."""
        is_holder = runs.c.idempotency_key == envelope.idempotency_key
        of_key = select(runs.c.id, runs.c.fingerprint, runs.c.key_expires_at).where(*self._kin(envelope), is_holder)
        holder = connection.execute(self._dialect.of_now(of_key)).first()
        if holder is None or self._is_given_back(connection, holder):
            return None
        if holder.fingerprint != fingerprint(envelope):
            return IdempotencyConflict(
                f"the idempotency key was used for {envelope.job} with another payload, by run {holder.id}: "
                "use a new key for new work",
                run_id=holder.id,
            )
        return Accepted(run_id=holder.id, existing=True)

    def _is_given_back(self, connection: Connection, holder: Any) -> bool:
        """Whether the time of the holder's key is over: then it lets go of it here and now."""
        if holder.key_expires_at is None or holder.key_expires_at > self._now(connection):
            return False
        is_same = runs.c.key_expires_at == holder.key_expires_at
        free = {"idempotency_key": None, "key_expires_at": None}
        connection.execute(update(runs).where(runs.c.id == holder.id, is_same).values(**free))
        return True

    def _twin(
        self, connection: Connection, envelope: Envelope, replacing: list[Callable[[], None]] | None
    ) -> Accepted | Exception | None:
        """The run that takes the envelope's place, after what the envelope wants done about it."""
        unique = uniqueness(envelope)
        assert unique is not None
        digest, period = unique
        column = runs.c.unique_digest
        is_twin = column == digest if period is None else column.startswith(f"{digest}.")
        on_conflict = Unique.from_json(envelope.unique).on_conflict
        query = select(runs).where(*self._kin(envelope), is_twin).order_by(runs.c.id.desc()).limit(1)
        query = query.with_for_update() if on_conflict == "replace" else self._dialect.of_now(query)
        twin = connection.execute(query).mappings().first()
        if twin is None:
            return None
        if on_conflict == "raise":
            return DuplicateRun(
                f"run {twin['id']} of {envelope.job} is {twin['state']} and unique: wait for it, or cancel it",
                run_id=twin["id"],
            )
        if on_conflict != "replace" or twin["state"] not in WAITING:
            return Accepted(run_id=twin["id"], existing=True)
        if replacing is None:
            self._replace(connection, twin, envelope)
        else:
            replacing.append(partial(self._replace, connection, twin, envelope))
        return Accepted(run_id=twin["id"], existing=True, replaced=True)

    def _replace(self, connection: Connection, twin: Row, envelope: Envelope) -> None:
        """Give a run that waits the payload, options and due time of the envelope."""
        now = self._now(connection)
        state = advance(RunState(twin["state"]), Transition.RESCHEDULE)
        content = new_content(envelope, now)
        content |= self._to_publish(now, content["available_at"])
        self._change(connection, twin, state=state.value, seq=runs.c.seq + 1, **content)
        self._note(connection, [twin], "replaced", state, now)

    def _kin(self, envelope: Envelope) -> tuple[ColumnElement[bool], ...]:
        """Runs of the same job for the same tenant."""
        return (
            runs.c.namespace == self._namespace,
            runs.c.tenant == (envelope.tenant or ""),
            runs.c.job == envelope.job,
        )


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
