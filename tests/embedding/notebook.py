"""IPython's shell performs these cells, each as a task on a loop that always runs, as a notebook's kernel does."""

from __future__ import annotations

import asyncio

from IPython.core.interactiveshell import InteractiveShell

CELLS = [
    """
import actorjobs as aj

@aj.job("notebook:double")
async def double(n: int) -> int:
    return 2 * n

runtime = aj.Runtime(jobs=[double])
await runtime.open()
""",
    "run = await double.dispatch(21)",
    "print('result', await run.result(timeout=10))",
    # A cell that is performed again, with another handler.
    """
await runtime.close()

@aj.job("notebook:double")
async def double(n: int) -> int:
    return n + n + 1

runtime = aj.Runtime(jobs=[double])
await runtime.open()
""",
    "print('redefined', await (await double.dispatch(21)).result(timeout=10))",
    "await runtime.close()",
    # A block within one cell, and plain code in a cell after it.
    """
async with runtime.client():
    print('listed', len(await runtime.runs.list()))
""",
    "print('is open', runtime.is_open)",
]


async def main() -> None:
    shell = InteractiveShell.instance()
    for cell in CELLS:
        result = await asyncio.create_task(shell.run_cell_async(cell, transformed_cell=shell.transform_cell(cell)))
        result.raise_error()


if __name__ == "__main__":
    asyncio.run(main())
