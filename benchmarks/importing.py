"""What `import actorjobs` costs: seconds in a fresh interpreter, and which optional libraries it loads."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass

from benchmarks.plan import ROOT, bare_environment

OPTIONAL = (
    *("aio_pika", "aiormq", "asyncpg", "asyncmy", "aiosqlite", "starlette", "jinja2", "uvicorn", "uvloop"),
    *("opentelemetry.sdk", "watchfiles", "rich", "typer", "alembic"),
    *("fastapi", "aiohttp", "prometheus_client", "grpc"),
)
"""Not needed before something of theirs is used."""

TIMES = 5
_CODE = """
import json, sys, time
began = time.perf_counter()
import actorjobs
took = time.perf_counter() - began
print(json.dumps([took, [name for name in sys.argv[1:] if name in sys.modules]]))
"""


@dataclass(frozen=True, slots=True)
class Import:
    """Seconds of each try, and the optional libraries that were loaded."""

    seconds: tuple[float, ...]
    loaded: tuple[str, ...]

    def __str__(self) -> str:
        median, least, most = statistics.median(self.seconds), min(self.seconds), max(self.seconds)
        loaded = ", ".join(self.loaded) or "none"
        return f"import actorjobs: {median:.3f} s ({least:.3f}–{most:.3f}); optional libraries loaded: {loaded}"  # noqa: RUF001


def measure_import(times: int = TIMES) -> Import:
    _once()  # compiles what was not compiled yet
    tries = [_once() for _ in range(times)]
    return Import(tuple(seconds for seconds, _ in tries), tuple(tries[0][1]))


def _once() -> tuple[float, list[str]]:
    command = [sys.executable, "-c", _CODE, *OPTIONAL]
    done = subprocess.run(command, env=bare_environment(), cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, loaded = json.loads(done.stdout)
    return seconds, loaded
