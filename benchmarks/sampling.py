"""Where a process spends its CPU time: samples of its main thread's stack, by the stage of a run that it was at.

A process that was given a file in BENCHMARK_SAMPLES takes a sample each few milliseconds of CPU time (the kernel's tick
decides how many), and writes at its end how many fell on each stage. The innermost frame that belongs to a stage
decides; where the driver of a database is at work in the loop, whose lane has asked it.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import signal
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

VARIABLE = "BENCHMARK_SAMPLES"
INTERVAL_SECONDS = 0.001

DISPATCH, INSERT, PUBLISH, CONSUME, CLAIM, PERFORM, SETTLE, ACK, LOOP = STAGES = (
    "dispatch",
    "insert",
    "publish",
    "consume",
    "claim",
    "perform",
    "settle",
    "ack",
    "loop",
)
"""The last one is the event loop itself, and what belongs to no stage."""

_FRAMES: tuple[tuple[str, frozenset[str], str], ...] = tuple(
    (path, frozenset(names.split()), stage)
    for path, names, stage in (
        ("actorjobs/brokers/rabbitmq/settling.py", "", ACK),
        ("actorjobs/brokers/rabbitmq/pipeline.py", "acknowledge", ACK),
        ("actorjobs/brokers/rabbitmq/pipeline.py", "", PUBLISH),
        ("actorjobs/brokers/rabbitmq/publisher.py", "", PUBLISH),
        ("actorjobs/brokers/rabbitmq/message.py", "encode", PUBLISH),
        ("actorjobs/brokers/rabbitmq/consumer.py", "_received _arrival", CONSUME),
        ("actorjobs/brokers/rabbitmq/consumer.py", "ended settled _look_after", ACK),
        ("actorjobs/brokers/rabbitmq/consumer.py", "", CLAIM),
        ("actorjobs/brokers/rabbitmq/hot.py", "publish_frames _publish_method _short _table", PUBLISH),
        ("actorjobs/brokers/rabbitmq/hot.py", "settle_frame", ACK),
        ("actorjobs/brokers/rabbitmq/hot.py", "", CONSUME),
        ("actorjobs/brokers/embedded.py", "", CLAIM),
        ("actorjobs/stores/", "insert _insert insert_all _insert_all _answers row_or_refusal insert_values", INSERT),
        ("actorjobs/stores/", "claim take claim_of", CLAIM),
        ("actorjobs/stores/", "settle _settle_row", SETTLE),
        ("actorjobs/stores/", "mark mark_published stage", PUBLISH),
        ("actorjobs/worker/recorder.py", "_settle settle _recorded", SETTLE),
        ("actorjobs/worker/recorder.py", "_claim claim _take take", CLAIM),
        ("actorjobs/worker/recorder.py", "insert _insert", INSERT),
        ("actorjobs/worker/performer.py", "", PERFORM),
        ("actorjobs/worker/pool.py", "_run", CLAIM),
        ("actorjobs/worker/pool.py", "", PERFORM),
        ("actorjobs/worker/handling.py", "", PERFORM),
        ("actorjobs/actors/", "", PERFORM),
        ("actorjobs/runtime/opened.py", "_settled", SETTLE),
        ("actorjobs/runtime/opened.py", "_announce", PUBLISH),
        ("actorjobs/runtime/", "", DISPATCH),
        ("actorjobs/jobs/dispatch.py", "", DISPATCH),
        ("actorjobs/jobs/function.py", "", DISPATCH),
    )
)
_TASKS = {
    "dispatches": INSERT,
    "keyed dispatches": INSERT,
    "claims": CLAIM,
    "claims of hints": CLAIM,
    "settles": SETTLE,
}


@dataclass(frozen=True, slots=True)
class Samples:
    """How many samples fell on each stage, and the CPU seconds that all of them stand for."""

    stages: dict[str, int]
    functions: dict[str, int]
    cpu: float

    @classmethod
    def read(cls, file: Path) -> Samples:
        return cls(**json.loads(file.read_text(encoding="utf-8")))

    def microseconds(self, runs: int) -> dict[str, float]:
        """By stage, CPU microseconds a run."""
        each = self.cpu / max(1, sum(self.stages.values())) / runs * 1e6
        return {stage: count * each for stage, count in self.stages.items()}


class Sampler:
    """Samples this process from the first `start` on, until it ends or `stop`."""

    def __init__(self) -> None:
        self._file = os.environ.get(VARIABLE)
        self._stages = Counter[str]()
        self._functions = Counter[str]()
        self._began: float | None = None

    @property
    def is_wanted(self) -> bool:
        return self._file is not None

    def start(self) -> None:
        if self._file is None or self._began is not None:
            return
        self._began = time.process_time()
        signal.signal(signal.SIGPROF, self._take)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_SECONDS, INTERVAL_SECONDS)
        atexit.register(self.stop)

    def stop(self) -> None:
        """Write what was found."""
        if self._file is None or self._began is None:
            return
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        functions = dict(self._functions.most_common(100))
        found = Samples(dict(self._stages), functions, time.process_time() - self._began)
        Path(f"{self._file}.{os.getpid()}").write_text(json.dumps(asdict(found)), encoding="utf-8")
        self._began = None

    def _take(self, _signal: int, frame: FrameType | None) -> None:
        if frame is not None:
            code = frame.f_code
            self._functions[f"{'/'.join(code.co_filename.split('/')[-2:])}:{code.co_name}"] += 1
        self._stages[_stage(frame)] += 1


def _stage(frame: FrameType | None) -> str:
    while frame is not None:
        name, file = frame.f_code.co_name, frame.f_code.co_filename
        if "actorjobs/" in file:
            for path, names, stage in _FRAMES:
                if path in file and (not names or name in names):
                    return stage
        frame = frame.f_back
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return LOOP
    return _TASKS.get("" if task is None else task.get_name(), LOOP)
