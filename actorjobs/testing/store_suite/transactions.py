"""Accepting as a part of the application's own transaction."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TypeAlias

import pytest

from actorjobs.errors import IdempotencyConflict, InvalidOption, RunNotFound
from actorjobs.ports import Accepted, Store
from actorjobs.testing.store_suite.setting import (
    EVERYTHING,
    OpenTransaction,
    StoreSetting,
    accepted,
    envelope,
    take,
)

Begin: TypeAlias = Callable[[], AbstractAsyncContextManager[OpenTransaction]]


class NoTransaction:
    """Looks like one and is none."""

    def in_transaction(self) -> bool:
        return True


class Transactions(StoreSetting):
    async def test_what_is_no_transaction_of_the_stores_is_refused(self, store: Store) -> None:
        with pytest.raises(InvalidOption):
            await store.insert_all([envelope()], NoTransaction())
        assert len(await store.list(EVERYTHING, limit=10, cursor=None)) == 0

    async def test_a_run_exists_once_the_caller_commits(self, store: Store, twin: Store) -> None:
        for kind, begin in self.transactions(store).items():
            async with begin() as transaction:
                group = [envelope(queue=kind), envelope(queue=kind)]
                answers = await store.insert_all(group, transaction.tx)
                assert answers == [Accepted(run_id=one.id, existing=False) for one in group], kind
                with pytest.raises(RunNotFound):
                    await twin.get(group[0].id)
                await transaction.commit()
            assert [run.id for run in reversed(await twin.list(EVERYTHING, limit=2, cursor=None))] == [
                one.id for one in group
            ]
            assert len(await take(twin, queue=kind)) == 2

    async def test_a_run_never_existed_if_the_caller_rolls_back(self, store: Store, twin: Store) -> None:
        for kind, begin in self.transactions(store).items():
            async with begin() as transaction:
                await store.insert_all([envelope(queue=kind), envelope(queue=kind)], transaction.tx)
                await transaction.rollback()
            assert len(await twin.list(EVERYTHING, limit=10, cursor=None)) == 0, kind

    async def test_a_transaction_sees_its_own_key(self, store: Store) -> None:
        for kind, begin in self.transactions(store).items():
            async with begin() as transaction:
                one, same = (envelope(idempotency_key=kind) for _ in range(2))
                await store.insert_all([one], transaction.tx)
                assert await store.insert_all([same], transaction.tx) == [Accepted(run_id=one.id, existing=True)], kind
                await transaction.commit()
            assert await store.insert([same]) == [Accepted(run_id=one.id, existing=True)], kind

    async def test_a_conflict_leaves_the_transaction_usable(self, store: Store) -> None:
        [holder] = await accepted(store, envelope(idempotency_key="k", payload=1))
        for kind, begin in self.transactions(store).items():
            async with begin() as transaction:
                group = [envelope(), envelope(idempotency_key="k", payload=2)]
                with pytest.raises(IdempotencyConflict) as refusal:
                    await store.insert_all(group, transaction.tx)
                assert refusal.value.run_id == holder
                [kept] = await store.insert_all([envelope()], transaction.tx)
                await transaction.commit()
            assert (await store.get(kept.run_id)).id == kept.run_id, kind
            with pytest.raises(RunNotFound):
                await store.get(group[0].id)
