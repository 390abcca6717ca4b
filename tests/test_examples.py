"""Every example runs as a user would run it, and says what it promises to say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

PROMISES = {
    "welcome_mail": ("sent: succeeded", "refused before dispatch: payload.title", "without a mailer: run"),
    "reports_generate": ("made: pdf:16", "made: csv:0", "for good:", "too late:", "'dead_lettered'"),
    "process_user": ("email_sent=True user_id=1 language='de'", "attempt 3 by True: ValueError: unknown action: dance"),
    "deliver_webhook": (
        "one run for one key: True True",
        "conflict with: True",
        "delivered: 204 after 4 attempts",
        "canceled before it started: canceled",
        "replayed: 204 True",
    ),
    "send_digests": (
        "five requests, one run: True",
        "ada@x.org: 5 mentions, mail 1",
        "alan@x.org: 2 mentions, mail 2",
        "connections opened: 2",
    ),
    "resize_images": (
        "denied: the application's policy does not allow to enqueue",
        "cat.png for painters",
        "failed: ProcessDied: the child process was killed by SIGSEGV",
        "failed: AttemptTimedOut",
        "attempt 1 of images:resize is over",
        "explained: dead_lettered",
    ),
    "typed_inline": (
        "inline: ['Welcome -> ada@example.org'] ['mail:welcome: no address']",
        "recorded: [('mail:welcome', {'email': 'alan@example.org'})]",
        "called directly: grace@example.org ['Welcome -> grace@example.org']",
    ),
}


def test_every_example_is_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PROMISES)


@pytest.mark.parametrize("name", sorted(PROMISES))
def test_example(name: str, tmp_path: Path) -> None:
    path = EXAMPLES / f"{name}.py"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 80
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ACTORJOBS_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for promise in PROMISES[name]:
        assert promise in done.stdout, done.stdout
    assert "Traceback" not in done.stderr
