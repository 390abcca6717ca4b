"""The conformance suite of stores: whoever writes a store subclasses `StoreSuite` and says how one is opened.

    class TestMyStore(StoreSuite):
        @pytest.fixture
        async def open_store(self, tmp_path):
            async with AsyncExitStack() as stack:
                async def open_store(namespace, clock, *, has_outbox=False):
                    store = MyStore(tmp_path, namespace=namespace, clock=clock, has_outbox=has_outbox)
                    stack.push_async_callback(store.close)
                    await store.open()
                    return store
                yield open_store

        async def hold(self, store, run_id, reason):
            ...  # write the run's `hold`, past the store

        async def outbox_of(self, store, run_id):
            return InOutbox(...)  # read what the run's row says of its hint, past the store

All stores of one test are on one database; several may be on the same namespace, like processes that share it. A second
class with `virtual_time=False` and a fixture `clock` that gives a `SystemClock` runs on the database's own time what
needs no passing of it. Needs pytest and pytest-asyncio; for readable failures also
`pytest.register_assert_rewrite("actorjobs.testing.store_suite")` before the import.
"""

from actorjobs.testing.store_suite.accepting import Accepting
from actorjobs.testing.store_suite.counting import Counting
from actorjobs.testing.store_suite.delivering import Delivering
from actorjobs.testing.store_suite.hinting import Hinting
from actorjobs.testing.store_suite.machine import Matching, StoreMachine
from actorjobs.testing.store_suite.managing import Managing
from actorjobs.testing.store_suite.owning import Owning
from actorjobs.testing.store_suite.reading import Reading
from actorjobs.testing.store_suite.setting import InOutbox, OpenStore, OpenTransaction
from actorjobs.testing.store_suite.settling import Settling
from actorjobs.testing.store_suite.sweeping import Sweeping
from actorjobs.testing.store_suite.transactions import Transactions
from actorjobs.testing.store_suite.uniqueness import Uniqueness
from actorjobs.testing.store_suite.wishing import Wishing


class StoreSuite(
    Accepting,
    Uniqueness,
    Transactions,
    Delivering,
    Hinting,
    Settling,
    Owning,
    Wishing,
    Counting,
    Sweeping,
    Reading,
    Managing,
    Matching,
):
    """Everything that a store must do. See the module for how to use it."""


__all__ = ["InOutbox", "OpenStore", "OpenTransaction", "StoreMachine", "StoreSuite"]
