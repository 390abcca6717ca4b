"""The web examples beside a real OTLP receiver: what a web process hands over, and when."""

from __future__ import annotations

import secrets
import signal
from pathlib import Path

import pytest

from tests.integrations.serving import serving
from tests.telemetry.receiver import program, receiving

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(program() is None, reason="the receiver has no wheel for this platform: pip install rotel"),
]


@pytest.mark.parametrize("framework", ["starlette", "fastapi", "aiohttp"])
async def test_a_web_process_exports_its_spans_after_it_has_drained(framework: str, tmp_path: Path) -> None:
    trace, parent = secrets.token_hex(16), secrets.token_hex(8)
    headers = {"x-tenant": "acme", "traceparent": f"00-{trace}-{parent}-01"}
    (web := tmp_path / "web").mkdir()
    with receiving(tmp_path) as receiver:
        # Nothing is sent before the end of the process.
        variables = {**receiver.variables("http/protobuf"), "OTEL_BSP_SCHEDULE_DELAY": "600000"}
        async with serving([str(EXAMPLES / f"web_{framework}.py")], web, variables) as served:
            order = {"number": 7, "seconds": 1.0}
            answer = await served.http.post("/orders", json=order, headers=headers)
            if framework != "fastapi":  # its worker would be another process
                await served.until(answer.json()["run"], "running")
            assert await served.stop() in (0, -signal.SIGTERM), served.said
        assert "Traceback" not in served.said
        spans = receiver.spans
    [send] = [span for span in spans if span.name == "send orders:confirm"]
    assert (send.service, send.trace_id) == ("orders-web", trace)
    # Between the caller's span and this one are those of the framework, if it makes some.
    parents = {span.span_id: span.parent_id for span in spans}
    above = send.parent_id
    while above in parents:
        above = parents[above]
    assert above == parent
    # What the runtime performed while it drained is there too.
    performed = [span.parent_id for span in spans if span.name == "process orders:confirm"]
    assert performed == ([] if framework == "fastapi" else [send.span_id])
