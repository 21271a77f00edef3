"""The official OpenAI client against a real local server: every task it knows, every row of the error table."""

import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import httpx
import openai
import pytest

from attendant_server.config import ModelSettings, Settings
from tests.e2e.checkpoints import CHAT_TEMPLATE, POISON_ID, write_bert_classifier, write_bert_encoder, write_llama
from tests.e2e.local_server import ServerThread

ROOT = Path(__file__).parents[2]
STORIES = "stories260k"
EXPECTED_IDS: list[int] = json.loads((ROOT / "tests/data/stories260k/expected_greedy_ids.json").read_text())
MAX_BODY_BYTES = 100_000


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoints")
    write_llama(directory / "chat", chat_template=CHAT_TEMPLATE)
    write_bert_encoder(directory / "encoder")
    write_bert_classifier(directory / "classifier")
    return directory


@pytest.fixture(scope="module")
def server(checkpoints: Path) -> Iterator[ServerThread]:
    models = (
        ModelSettings(name=STORIES, path=str(ROOT / "models" / STORIES)),
        *(ModelSettings(name=name, path=str(checkpoints / name)) for name in ("chat", "encoder", "classifier")),
    )
    settings = Settings(models=models, http_port=0, grpc_port=0, max_body_bytes=MAX_BODY_BYTES, device="cpu", log_level="error")
    with ServerThread(settings) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ServerThread) -> Iterator[openai.OpenAI]:
    with connect(server) as client:
        yield client


def connect(server: ServerThread, *, key: str = "none") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=60)


def test_models_are_listed_and_described(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [STORIES, "chat", "encoder", "classifier"]
    model = client.models.retrieve(STORIES)
    assert (model.id, model.object, model.owned_by) == (STORIES, "model", "attendant")
    assert model.model_extra is not None
    assert (model.model_extra["kind"], model.model_extra["max_model_len"]) == ("decoder", 512)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nope")


def test_a_completion_tells_the_known_story(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=STORIES, prompt="", max_tokens=len(EXPECTED_IDS), temperature=0)
    choice = answer.choices[0]
    assert choice.model_extra is not None
    assert choice.model_extra["token_ids"] == EXPECTED_IDS
    assert answer.usage is not None
    assert answer.usage.completion_tokens == len(EXPECTED_IDS)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_list_of_prompts_is_answered_in_order_n_times_each(client: openai.OpenAI) -> None:
    prompts = ["Once upon a time", "The dog"]
    answer = client.completions.create(model=STORIES, prompt=prompts, max_tokens=8, n=2, temperature=0)
    alone = [client.completions.create(model=STORIES, prompt=prompt, max_tokens=8, temperature=0).choices[0].text for prompt in prompts]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in answer.choices] == [alone[0], alone[0], alone[1], alone[1]]


def test_the_prompt_may_be_token_ids(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=STORIES, prompt=[[1], [1, EXPECTED_IDS[0]]], max_tokens=4, temperature=0)
    texts = [choice.model_extra["token_ids"] for choice in answer.choices if choice.model_extra is not None]
    assert texts == [EXPECTED_IDS[:4], EXPECTED_IDS[1:5]]


def test_echo_with_logprobs_scores_the_prompt_as_lm_eval_reads_it(client: openai.OpenAI) -> None:
    prompt = [1, *EXPECTED_IDS[:20]]
    for max_tokens in (0, 1):
        answer = client.completions.create(
            model=STORIES, prompt=[prompt, prompt], echo=True, logprobs=1, max_tokens=max_tokens, temperature=0, seed=1234
        )
        for choice in answer.choices:
            logprobs = choice.logprobs
            assert logprobs is not None
            assert logprobs.token_logprobs is not None
            assert logprobs.top_logprobs is not None
            assert logprobs.tokens is not None
            assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == len(prompt) + max_tokens
            numbers = cast(list[float | None], logprobs.token_logprobs)
            assert numbers[0] is None
            # The story is greedy, so every token is the best one, and as the very same number.
            for chosen, best in zip(numbers[1:], logprobs.top_logprobs[1:], strict=True):
                assert chosen == max(best.values())


def test_a_score_is_that_of_the_same_token_generated(client: openai.OpenAI) -> None:
    generated = client.completions.create(model=STORIES, prompt=[1], logprobs=2, max_tokens=10, temperature=0).choices[0].logprobs
    scored = client.completions.create(
        model=STORIES, prompt=[1, *EXPECTED_IDS[:10]], logprobs=2, echo=True, max_tokens=0, temperature=0
    ).choices[0]
    assert generated is not None
    assert scored.logprobs is not None
    assert generated.token_logprobs is not None
    assert scored.logprobs.token_logprobs is not None
    assert scored.logprobs.token_logprobs[1:] == pytest.approx(generated.token_logprobs, abs=1e-4)


def test_a_seed_fixes_the_draw(client: openai.OpenAI) -> None:
    def draw(seed: int) -> list[str]:
        answer = client.completions.create(model=STORIES, prompt="Once", max_tokens=24, temperature=1.0, seed=seed, n=3)
        return [choice.text for choice in answer.choices]

    assert draw(7) == draw(7)
    assert len({*draw(7), *draw(8)}) > 3


def test_a_stop_text_ends_the_output_before_it(client: openai.OpenAI) -> None:
    whole = client.completions.create(model=STORIES, prompt="Once upon a time", max_tokens=40, temperature=0).choices[0].text
    stop = whole.split()[5]
    choice = client.completions.create(model=STORIES, prompt="Once upon a time", max_tokens=40, temperature=0, stop=[stop, "\x00"]).choices[
        0
    ]
    assert choice.finish_reason == "stop"
    assert choice.text == whole[: whole.index(stop)]


def test_a_stream_says_the_same_and_ends_with_usage(client: openai.OpenAI) -> None:
    whole = client.completions.create(model=STORIES, prompt="Once upon a time", max_tokens=40, temperature=0)
    text, usages = "", []
    for chunk in client.completions.create(
        model=STORIES, prompt="Once upon a time", max_tokens=40, temperature=0, stream=True, stream_options={"include_usage": True}
    ):
        text += "".join(choice.text for choice in chunk.choices)
        usages.append(chunk.usage)
    assert text == whole.choices[0].text
    assert all(usage is None for usage in usages[:-1])
    assert whole.usage is not None
    assert usages[-1] is not None
    assert usages[-1].completion_tokens == whole.usage.completion_tokens


def test_chat_writes_the_next_turn_whole_and_streamed(client: openai.OpenAI) -> None:
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo!"}]},
    ]
    answer = client.chat.completions.create(
        model="chat", messages=messages, max_completion_tokens=8, temperature=0, logprobs=True, top_logprobs=2
    )
    choice = answer.choices[0]
    assert choice.message.role == "assistant"
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert answer.usage is not None
    assert len(choice.logprobs.content) == answer.usage.completion_tokens
    assert all(len(entry.top_logprobs) == 2 and entry.bytes is not None for entry in choice.logprobs.content)
    text, roles, last = "", [], None
    for chunk in client.chat.completions.create(
        model="chat", messages=messages, max_tokens=8, temperature=0, stream=True, stream_options={"include_usage": True}
    ):
        for piece in chunk.choices:
            text += piece.delta.content or ""
            roles += [piece.delta.role] if piece.delta.role else []
        last = chunk
    assert (text, roles) == (choice.message.content, ["assistant"])
    assert last is not None
    assert last.usage is not None
    assert last.usage.prompt_tokens == answer.usage.prompt_tokens


def test_embeddings_are_the_same_in_both_encodings(client: openai.OpenAI) -> None:
    texts = ["a cat", "dogs"]
    floats = client.embeddings.create(model="encoder", input=texts, encoding_format="float")
    # Without an encoding the client asks for base64 and unpacks it itself.
    unpacked = client.embeddings.create(model="encoder", input=texts)
    packed = client.embeddings.with_raw_response.create(model="encoder", input=texts, encoding_format="base64")
    by_hand = [base64.b64decode(entry["embedding"]) for entry in packed.http_response.json()["data"]]
    assert [entry.index for entry in floats.data] == [0, 1]
    for entry, other, raw in zip(floats.data, unpacked.data, by_hand, strict=True):
        assert list(entry.embedding) == list(other.embedding) == list(struct.unpack(f"<{len(raw) // 4}f", raw))
        assert sum(value * value for value in entry.embedding) == pytest.approx(1, abs=1e-5)
    assert floats.usage.prompt_tokens > 0


def test_the_request_id_is_the_answers(client: openai.OpenAI) -> None:
    raw = client.completions.with_raw_response.create(model=STORIES, prompt="x", max_tokens=1, extra_headers={"x-request-id": "mine"})
    assert raw.headers["x-request-id"] == "mine"
    assert raw.parse().id == "mine"


BAD: list[tuple[dict[str, object], str, str | None]] = [
    ({"temperature": 3}, "invalid_value", "temperature"),
    ({"n": 0}, "invalid_value", "n"),
    ({"prompt": [999_999]}, "invalid_value", "prompt"),
    ({"suffix": "end"}, "unsupported_parameter", "suffix"),
    ({"extra_body": {"temprature": 0}}, "unsupported_parameter", "temprature"),
    ({"prompt": [1] * 600}, "context_length_exceeded", "prompt"),
]


@pytest.mark.parametrize(("arguments", "code", "param"), BAD)
def test_a_bad_request_raises_bad_request(client: openai.OpenAI, arguments: dict[str, object], code: str, param: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(**{"model": STORIES, "prompt": "x", "max_tokens": 1, **arguments})  # type: ignore[call-overload]
    assert (caught.value.code, caught.value.param, caught.value.type) == (code, param, "invalid_request_error")
    assert client.completions.create(model=STORIES, prompt="x", max_tokens=1).choices


def test_chat_without_a_template_raises_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="chat template"):
        client.chat.completions.create(model=STORIES, messages=[{"role": "user", "content": "hi"}])


def test_a_model_that_is_not_there_raises_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="nope", prompt="x")
    assert caught.value.code == "model_not_found"


def test_a_body_too_large_raises_status_413(client: openai.OpenAI) -> None:
    for factor in (2, 100):
        with pytest.raises(openai.APIStatusError) as caught:
            client.completions.create(model=STORIES, prompt="x" * (factor * MAX_BODY_BYTES))
        assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")
    assert client.completions.create(model=STORIES, prompt="x", max_tokens=1).choices


@pytest.mark.parametrize("streams", [False, True])
def test_a_deadline_raises_internal_server_error_504_that_is_not_retried(server: ServerThread, streams: bool) -> None:
    with connect(server).with_options(max_retries=2) as client, pytest.raises(openai.InternalServerError) as caught:
        client.completions.create(model=STORIES, prompt="x", max_tokens=500, stream=streams, extra_headers={"x-request-timeout-s": "1e-6"})
    assert (caught.value.status_code, caught.value.code) == (504, "deadline_exceeded")
    assert caught.value.response.request.headers["x-stainless-retry-count"] == "0"


def test_a_fault_of_ours_raises_internal_server_error_without_internals(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        client.completions.create(model="chat", prompt=[POISON_ID, 65], max_tokens=4, extra_headers={"x-request-id": "poisoned"})
    assert (caught.value.status_code, caught.value.code) == (500, "server_error")
    assert caught.value.request_id == "poisoned"
    assert client.completions.create(model="chat", prompt=[65], max_tokens=1).choices


@pytest.fixture
def small_server(checkpoints: Path, tmp_path: Path) -> Iterator[ServerThread]:
    keys = tmp_path / "keys"
    keys.write_text("someone: a-secret-key\n")
    settings = Settings(
        models=(ModelSettings(name="chat", path=str(checkpoints / "chat")),),
        http_port=0,
        grpc_port=0,
        max_queue=1,
        api_key_file=str(keys),
        device="cpu",
        log_level="error",
    )
    with ServerThread(settings) as server:
        yield server


def test_keys_queues_and_drains_raise_what_they_should(small_server: ServerThread) -> None:
    with connect(small_server, key="wrong") as stranger, pytest.raises(openai.AuthenticationError) as refused:
        stranger.models.list()
    assert refused.value.code == "invalid_api_key"
    with connect(small_server, key="a-secret-key") as client:
        # Sixty-four long outputs, so that the one permit is surely out for a while.
        held = client.completions.create(model="chat", prompt="x", max_tokens=250, n=64, extra_body={"ignore_eos": True}, stream=True)
        assert next(held).choices
        with pytest.raises(openai.RateLimitError) as full:
            client.completions.create(model="chat", prompt="x", max_tokens=1)
        assert (full.value.code, full.value.response.headers["retry-after"]) == ("queue_full", "1")
        held.close()
        small_server.call(small_server.server.gateway.start_draining)
        with pytest.raises(openai.InternalServerError) as draining:
            client.completions.create(model="chat", prompt="x", max_tokens=1)
        assert (draining.value.status_code, draining.value.code) == (503, "not_ready")
        assert "retry-after" in draining.value.response.headers
    assert httpx.get(f"{small_server.url}/ready").status_code == 503
    assert httpx.get(f"{small_server.url}/health").status_code == 200


def test_a_stream_that_fails_midway_raises_api_error(client: openai.OpenAI) -> None:
    stream = client.completions.create(
        model=STORIES,
        prompt="x",
        max_tokens=500,
        n=64,
        stream=True,
        extra_body={"ignore_eos": True},
        extra_headers={"x-request-timeout-s": "1"},
    )
    with pytest.raises(openai.APIError) as caught:
        for _ in stream:
            pass
    assert caught.value.code == "deadline_exceeded"
