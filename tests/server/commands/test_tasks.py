"""The commands that call a server: what they send, what they print, and how each kind of failure ends them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import attendant_client
from attendant_server.commands import terminal
from attendant_server.errors import ServingError
from tests.clients.conftest import RunningServer
from tests.server.commands.conftest import Run
from tests.server.grpc_api.fakes import FakeGateway


def test_complete_streams_to_the_terminal(ask: Run, gateway: FakeGateway) -> None:
    outcome = ask("complete", "Once", "--max-tokens", "3", "-t", "0", "--stop", "a", "--stop", "b", "--seed", "4", "--ignore-eos")
    assert (outcome.code, outcome.out, outcome.err) == (0, "piece0piece1\n", "")
    request, call = gateway.calls[0]
    assert call.endpoint == "StreamComplete"
    assert (request.model, request.prompts, request.max_tokens, request.temperature) == ("tiny", ["Once"], 3, 0.0)
    assert (request.stop_texts, request.seed, request.ignore_eos, request.n) == (("a", "b"), 4, True, 1)


def test_complete_for_programs_is_json_of_the_whole_answer(ask: Run) -> None:
    answer = json.loads(ask("complete", "Once ü", "--json").out)
    assert answer["completions"][0]["text"] == "echo:Once ü"
    assert answer["usage"]["total_tokens"] == 5
    assert answer["receipt"]["seed"] == 7


def test_several_outputs_are_printed_one_after_the_other(ask: Run, gateway: FakeGateway) -> None:
    assert "--- 0\necho:Once" in ask("complete", "Once", "--n", "2").out
    assert gateway.calls[0][0].n == 2
    assert "re:hi" in ask("chat", "hi", "--n", "2").out


def test_text_comes_from_an_argument_a_file_or_standard_input(ask: Run, gateway: FakeGateway, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("from a file\n\n", encoding="utf-8")
    assert ask("complete", "--file", str(file)).code == 0
    assert ask("complete", stdin="from stdin\n").code == 0
    assert ask("complete", "-", stdin="also\n").code == 0
    assert [request.prompts for request, _ in gateway.calls] == [["from a file\n"], ["from stdin"], ["also"]]
    both = ask("complete", "text", "--file", str(file))
    assert both.code == 2 and "not both" in both.err
    missing = ask("complete", "--file", str(tmp_path / "missing"))
    assert missing.code == 2 and "does not exist" in missing.err
    file.write_bytes(b"\xff\xfe")
    assert ask("complete", "--file", str(file)).code == 2


def test_chat_sends_the_system_turn_first(ask: Run, gateway: FakeGateway) -> None:
    assert ask("chat", "hi", "--system", "be brief").out == "piece0piece1\n"
    assert [(turn.role, turn.content) for turn in gateway.calls[0][0].messages] == [("system", "be brief"), ("user", "hi")]
    assert json.loads(ask("chat", "hi", "--json").out)["choices"][0]["content"] == "re:hi"


def test_embed_and_classify_pick_the_model_that_can(ask: Run, gateway: FakeGateway) -> None:
    outcome = ask("embed", "a", "b", "--pooling", "cls", "--no-normalize")
    assert outcome.out.splitlines() == ["2 values: +0.0000 +0.5000", "2 values: +1.0000 +0.5000"]
    request = gateway.calls[0][0]
    assert (request.model, request.pooling, request.normalize) == ("encoder", "cls", False)
    assert json.loads(ask("embed", "--json", stdin="a\n\nb\n").out)["vectors"] == [[0.0, 0.5], [1.0, 0.5]]
    assert ask("classify", "a").out == "good\t0.7500\t(bad 0.2500, good 0.7500)\n"
    ask("classify", "a", "--pair", "b", "--multi-label")
    assert gateway.calls[-1][0].pairs == [["a", "b"]]
    assert gateway.calls[-1][0].multi_label is True
    assert json.loads(ask("classify", "a", "--json").out)["classifications"][0]["probs"] == {"bad": 0.25, "good": 0.75}


def test_few_shot_reads_examples_from_flags_and_from_a_file(ask: Run, gateway: FakeGateway, tmp_path: Path) -> None:
    file = tmp_path / "examples.jsonl"
    file.write_text('{"input": "3", "output": "4", "reasoning": "add"}\n\n', encoding="utf-8")
    outcome = ask("few-shot", "q", "-e", "1 => 2", "--examples-file", str(file), "-l", "yes", "-l", "no", "--instruction", "Add.")
    assert outcome.out == "yes\t0.9000\t(yes 0.9000, no 0.1000)\n"
    request = gateway.calls[0][0]
    assert [(example.input, example.output, example.reasoning) for example in request.examples] == [("1", "2", None), ("3", "4", "add")]
    assert (request.instruction, request.labels) == ("Add.", ["yes", "no"])
    assert ask("few-shot", "q").out == "free\n"
    assert json.loads(ask("few-shot", "q", "--json").out)["answers"][0]["text"] == "free"
    assert ask("few-shot", "q", "-e", "no separator").code == 2
    file.write_text('{"question": "3"}\n', encoding="utf-8")
    broken = ask("few-shot", "q", "--examples-file", str(file))
    assert broken.code == 2 and "Line 1" in broken.err


def test_models_are_shown_as_a_table_and_as_json(ask: Run) -> None:
    outcome = ask("models")
    assert outcome.out.splitlines()[1].split()[:2] == ["tiny", "decoder"]
    assert "completion, chat, few-shot" in outcome.out
    assert [model["id"] for model in json.loads(ask("models", "--json").out)] == ["tiny", "encoder"]


def test_an_error_of_the_server_is_one_sentence_and_exit_code_1(ask: Run, gateway: FakeGateway) -> None:
    for command in ("complete", "chat"):
        outcome = ask(command, "hi", "--temperature", "9")
        assert (outcome.code, outcome.out) == (1, "")
        assert outcome.err == "attendant: 'temperature' is 9.0; it must be at most 2.\n"
    gateway.error = ServingError("queue_full", "The queue is full.")
    outcome = ask("embed", "a")
    assert (outcome.code, outcome.err) == (1, "attendant: The queue is full.\n")


def test_a_stream_that_breaks_off_is_exit_code_1_although_text_was_printed(ask: Run, gateway: FakeGateway) -> None:
    gateway.is_cut_short = True
    outcome = ask("complete", "hi")
    assert outcome.code == 1
    assert outcome.out.startswith("piece0piece1") and "without its last message" in outcome.err


def test_no_server_is_exit_code_3(run: Run, unused_port: int) -> None:
    outcome = run("complete", "hi", "--url", f"127.0.0.1:{unused_port}")
    assert outcome.code == 3
    assert str(unused_port) in outcome.err and len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("complete", "hi", "--url", "http://127.0.0.1:8000"),
        ("complete", "hi", "--max-tokens", "many"),
        ("complete", "hi", "there"),
        ("embed", "hi", "--pooling", "max"),
        ("bench", "--concurrency", "0"),
        ("bench", "--rate", "0"),
        ("nonsense",),
    ],
)
def test_a_wrong_call_is_one_sentence_and_exit_code_2(run: Run, arguments: tuple[str, ...]) -> None:
    outcome = run(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("attendant: ") and len(outcome.err.splitlines()) == 1


def test_a_value_the_wire_cannot_carry_is_a_wrong_call(ask: Run, gateway: FakeGateway) -> None:
    assert ask("complete", "hi", "--top-k", "-1").code == 2
    assert gateway.calls == []


def test_a_misspelt_option_or_command_gets_a_suggestion(run: Run) -> None:
    assert run("complete", "hi", "--max-token", "3").err == (
        "attendant: --max-token is not an option of this command; did you mean --max-tokens?\n"
    )
    assert "--help lists them" in run("complete", "hi", "--xyzzy").err
    assert "complete" in run("complet").err


def test_a_task_that_no_model_does_names_what_is_served(ask: Run, gateway: FakeGateway) -> None:
    gateway.cards = gateway.cards[1:]
    outcome = ask("complete", "hi")
    assert outcome.code == 1 and "encoder" in outcome.err


def test_address_and_key_come_from_the_environment(run: Run, running: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    running.gateway.key = "sesame"
    monkeypatch.setenv("ATTENDANT_URL", running.url)
    assert run("models").code == 1
    monkeypatch.setenv("ATTENDANT_API_KEY", "sesame")
    assert run("models").code == 0
    assert run("models", "--api-key", "wrong").code == 1


def test_a_timeout_is_an_error_of_the_server(ask: Run, gateway: FakeGateway) -> None:
    gateway.is_holding = True
    outcome = ask("complete", "hi", "--timeout-s", "0.2")
    assert outcome.code == 1 and "deadline" in outcome.err


def test_the_version_and_the_help_are_there_without_a_command(run: Run) -> None:
    assert run("--version").out.startswith("attendant 0.")
    assert "few-shot" in run().out
    assert run("complete", "--help").code == 0


def test_what_the_client_alone_lacks_is_said_in_a_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "attendant_server.commands.settings_sources", raising=False)
    monkeypatch.setitem(sys.modules, "yaml", None)
    outcome = run("serve", "stories260k")
    assert outcome.code == 2
    assert outcome.err == "attendant: This command needs yaml, which is not installed; pip install 'attendant[server]' brings it.\n"


def test_the_default_address_is_the_clients() -> None:
    assert terminal.DEFAULT_URL == attendant_client.DEFAULT_URL


def test_a_reader_that_leaves_ends_the_command_quietly(running: RunningServer) -> None:
    running.gateway.num_pieces, running.gateway.piece_text = 2000, "x" * 500
    command = [sys.executable, "-m", "attendant_server.cli", "complete", "hi", "--url", running.url]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert (process.wait(30), process.stderr.read()) == (1, "")
    process.stderr.close()
