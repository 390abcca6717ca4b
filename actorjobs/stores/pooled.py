"""A pool of connections to a database server: transactions run as plain functions on one of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine

from actorjobs.stores.database import unavailable

T = TypeVar("T")

POOL_TIMEOUT_SECONDS = 10.0
RETRIES = 8


class PooledDatabase:
    """What every database server's store does alike. What its errors mean, each says for itself."""

    def __init__(self, url: URL, engine: AsyncEngine, *, timeout_seconds: float | None = None) -> None:
        self.url = url
        self._engine = engine
        self._timeout_seconds = timeout_seconds

    @property
    def engine(self) -> AsyncEngine:
        return self._engine

    async def write(self, work: Callable[[Connection], T]) -> T:
        async def in_transaction() -> T:
            async with self._engine.begin() as connection:
                return await connection.run_sync(work)

        return await self._written(in_transaction)

    async def write_at_once(self, work: Callable[[Connection], T]) -> T:
        return await self.write(work)

    async def _written(self, perform: Callable[[], Awaitable[T]]) -> T:
        for attempt in range(RETRIES):
            try:
                async with asyncio.timeout(self._timeout_seconds):
                    return await perform()
            except DBAPIError as error:
                if not self._is_to_be_tried_again(error) or attempt == RETRIES - 1:
                    raise self._translated(error) from error
                await asyncio.sleep(random.uniform(0.001, 0.01 * 2**attempt))
            except (TimeoutError, OSError, PoolTimeout) as error:
                raise unavailable(error, self.url) from error
        raise AssertionError("unreachable")

    async def read(self, work: Callable[[Connection], T]) -> T:
        try:
            async with asyncio.timeout(self._timeout_seconds), self._engine.connect() as connection:
                return await connection.run_sync(work)
        except DBAPIError as error:
            raise self._translated(error) from error
        except (TimeoutError, OSError, PoolTimeout) as error:
            raise unavailable(error, self.url) from error

    def _is_to_be_tried_again(self, error: DBAPIError) -> bool:
        """Whether it was a deadlock, or something of that kind."""
        raise NotImplementedError

    def _translated(self, error: DBAPIError) -> Exception:
        """`StoreUnavailable` if the error is about the server or the way to it, else the error itself."""
        raise NotImplementedError

    async def close(self) -> None:
        await self._engine.dispose()
