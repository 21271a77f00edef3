"""The checks that every way of hosting must pass, on Ray Serve with two replicas."""

import json
import subprocess
from typing import Any

import pytest

from tests.e2e.callers import MODEL
from tests.e2e.cancellation_checks import CancellationChecks
from tests.e2e.error_checks import ErrorChecks
from tests.e2e.greedy_checks import GreedyChecks
from tests.e2e.server_process import ServerProcess
from tests.external_tools import find_buf

_TEXT = ", there was a little girl"

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def server(ray_server: ServerProcess) -> ServerProcess:
    return ray_server


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("Complete", {"model": MODEL, "prompts": [{"text": "Once upon a time"}], "sampling": {"maxTokens": 8, "temperature": 0}}),
        (
            "StreamComplete",
            {"request": {"model": MODEL, "prompts": [{"text": "Once upon a time"}], "sampling": {"maxTokens": 8, "temperature": 0}}},
        ),
    ],
)
def test_buf_curl_finds_the_service_by_reflection_and_calls_it(server: ServerProcess, method: str, message: dict[str, Any]) -> None:
    url = f"http://{server.grpc_address}/attendant.v1.InferenceService/{method}"
    command = [str(find_buf()), "curl", "--http2-prior-knowledge", "--protocol", "grpc", "--data", json.dumps(message), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    messages = _documents(done.stdout)
    if method == "Complete":
        (answer,) = messages
        assert answer["completions"][0]["text"] == _TEXT
    else:
        # How many pieces there are depends on how fast the caller reads: those that wait are sent as one.
        *pieces, last = messages
        assert "".join(piece["delta"].get("text", "") for piece in pieces) == _TEXT
        assert "delta" not in last and last["receipt"]


def _documents(text: str) -> list[dict[str, Any]]:
    """Return the JSON documents that are written one after another."""
    documents, decoder = [], json.JSONDecoder()
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        documents.append(document)
        text = text[end:]
    return documents


class TestRayGreedy(GreedyChecks):
    pass


class TestRayErrors(ErrorChecks):
    pass


class TestRayCancellation(CancellationChecks):
    pass
