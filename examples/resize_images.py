"""Native code that crashes, loops for ever or eats memory: in a child process it costs one attempt, nothing else.

Run it: python examples/resize_images.py
"""

import asyncio
import ctypes

from pydantic import BaseModel

import actorjobs as aj


class Image(BaseModel):
    path: str


@aj.job("images:resize", isolation=aj.Process(memory=1024**3), timeout=5, retry=aj.Retry(attempts=1))
def resize(image: Image, ctx: aj.JobContext) -> str:
    if "broken" in image.path:
        ctypes.string_at(0)  # a segmentation fault, as from a library in C
    if "endless" in image.path:
        while True:
            pass
    return f"{image.path} for {aj.current_tenant()}"


async def logged(ctx: aj.JobContext, call_next: aj.CallNext) -> object:
    try:
        return await call_next(ctx)
    finally:
        print(f"  attempt {ctx.attempt} of {ctx.job} is over")


class PaintersOnly:
    """Who may do what: only True allows, and an error denies."""

    async def allows(self, access: aj.Access) -> bool:
        return access.action != "enqueue" or access.tenant == "painters"


async def main() -> None:
    runtime = aj.Runtime(jobs=[resize], middleware=[logged], policy=PaintersOnly())
    async with runtime:
        try:
            await resize.dispatch(Image(path="cat.png"))
        except aj.PolicyDenied as denied:
            print("denied:", denied)
        with aj.tenant("painters"):
            good = await resize.dispatch(Image(path="cat.png"))
            broken = await resize.dispatch(Image(path="broken.png"))
            endless = await resize.dispatch(Image(path="endless.png"), timeout=2)
        print(await good.result(timeout=30))
        for handle in (broken, endless):
            try:
                await handle.result(timeout=30)
            except aj.RunFailed as failed:
                print("failed:", str(failed).partition(": ")[2])
        explanation = await runtime.runs.explain(broken.id)
        print("explained:", explanation.verdict)


if __name__ == "__main__":  # the child process imports this file
    asyncio.run(main())
