import json
import shlex
from typing import Any

import pytest

from attendant_server.gateway.results import ModelCard
from attendant_server.hosting.banner import example_lines, ready_text


def _card(name: str, *tasks: str) -> ModelCard:
    return ModelCard(
        id=name,
        kind="decoder",
        tasks=tasks,
        family="llama",
        max_model_len=512,
        vocab_size=512,
        digest="d",
        dtype="float32",
        device_kind="cpu",
    )


def _lines(*cards: ModelCard, asks_keys: bool = False) -> tuple[str, ...]:
    return example_lines(cards, http="http://127.0.0.1:8000", grpc="127.0.0.1:9000", asks_keys=asks_keys)


def _python_of(line: str) -> str:
    interpreter, flag, code = shlex.split(line)
    assert (flag, bool(interpreter)) == ("-c", True)
    return code


@pytest.mark.parametrize("name", ["stories260k", 'it\'s "quoted"', "$HOME `id` \\ !"])
def test_the_lines_are_a_shell_command_and_two_programs_whatever_the_name(name: str) -> None:
    curl, client, bare = _lines(_card(name, "completion"))
    words = shlex.split(curl)
    body: dict[str, Any] = json.loads(words[words.index("-d") + 1])
    assert body["model"] == name
    for line in (client, bare):
        code = _python_of(line)
        compile(code, "<line>", "exec")
        assert repr(name) in code


def test_a_model_that_completes_is_shown_before_encoders() -> None:
    curl, _, _ = _lines(_card("encoder", "embedding"), _card("writer", "completion", "few-shot"))
    assert "/v1/completions" in curl
    assert "writer" in curl


@pytest.mark.parametrize(
    ("task", "path", "rpc"), [("embedding", "/v1/embeddings", "Embed"), ("classification", "/v1/classify", "Classify")]
)
def test_without_a_decoder_the_lines_show_what_is_served(task: str, path: str, rpc: str) -> None:
    curl, client, bare = _lines(_card("bert", task))
    assert path in curl
    assert f".{rpc.lower()}('bert'" in client
    assert f".{rpc}(" in bare


def test_with_keys_every_line_reads_the_key_from_the_environment() -> None:
    assert all("ATTENDANT_API_KEY" in line for line in _lines(_card("writer", "completion"), asks_keys=True))


def test_the_text_has_both_addresses_every_model_and_a_host_that_can_be_reached() -> None:
    text = ready_text([_card("a", "completion"), _card("b", "embedding")], host="0.0.0.0", http_port=8123, grpc_port=9123, asks_keys=False)
    assert "http://127.0.0.1:8123" in text
    assert "127.0.0.1:9123" in text
    assert "  a  llama, completion" in text
    assert "  b  llama, embedding" in text
