"""A fault in one request ends that request alone: bystanders get what a quiet server gives them, and every block is free again."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import pytest
import torch

from attendant_engine.engine import Engine
from attendant_engine.models.base import LoadedModel, ModelInputs, Trunk
from attendant_engine.parallel import loading
from attendant_engine.stats import StepOutput
from attendant_server.config import ModelSettings, Settings
from tests.e2e import checkpoints
from tests.e2e.callers import Answer, Caller, GrpcStream, GrpcUnary, Http, Sse
from tests.e2e.local_server import ServerThread
from tests.e2e.metrics import eventually, is_idle

RAISING_ID = 255
NUM_BYSTANDERS = 8
BYSTANDER_TOKENS = 60
_SECRET = "a secret of the model's insides"


class Bomb:
    """Stands before models' trunks; once armed, a step that reads ``RAISING_ID`` raises, but for the first ``num_spared``."""

    def __init__(self) -> None:
        self.is_armed = False
        self.num_spared = 0

    def load(self, *args: Any, **kwargs: Any) -> LoadedModel:
        """Load a model as ever, and stand before it."""
        model = loading.load_planned_model(*args, **kwargs)
        return replace(model, trunk=self._guard(model.trunk))

    def _guard(self, trunk: Trunk) -> Trunk:
        def guarded(inputs: ModelInputs) -> torch.Tensor:
            if self.is_armed and bool((inputs.token_ids == RAISING_ID).any()):
                if self.num_spared:
                    self.num_spared -= 1
                    return trunk(inputs)
                raise RuntimeError(_SECRET)
            return trunk(inputs)

        return guarded


def _settings(home: Path) -> Settings:
    decoder = checkpoints.write_llama(home / "llama", chat_template=checkpoints.LOOPING_TEMPLATE, max_len=512)
    encoder = checkpoints.write_gpt2(home / "gpt2", architectures=["GPT2Model"])
    models = (ModelSettings(name="talker", path=str(decoder)), ModelSettings(name="embedder", path=str(encoder)))
    # Two sequences' chunks do not fit into one step, so that faults meet prefills and decodes alike.
    return Settings(models=models, http_port=0, grpc_port=0, device="cpu", kv_cache_memory=8 * 2**20, max_batch_tokens=128, local=True)


@pytest.fixture(scope="module")
def bomb() -> Bomb:
    return Bomb()


@pytest.fixture(scope="module")
def server(bomb: Bomb, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attendant_engine.engine.load_planned_model", bomb.load)
        with ServerThread(_settings(tmp_path_factory.mktemp("faults"))) as server:
            bomb.is_armed = True
            yield server


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A request that goes wrong, and how it ends."""

    name: str
    path: str = "/v1/completions"
    body: dict[str, Any]
    status: int = 500
    code: str = "server_error"
    words: tuple[str, ...] = ()


def _completion(**fields: Any) -> dict[str, Any]:
    return {"model": "talker", "prompt": "hello", "max_tokens": 8} | fields


def _chat(text: str) -> dict[str, Any]:
    return {"model": "talker", "messages": [{"role": "user", "content": text}], "max_tokens": 8}


_POISON = checkpoints.POISON_ID
FAULTS = (
    Fault(name="the prompt has no finite logits", body=_completion(prompt=[1, _POISON]), words=("not finite",)),
    Fault(name="its last chunk has none", body=_completion(prompt=[*[1] * 300, _POISON]), words=("not finite",)),
    Fault(name="its first chunk has none", body=_completion(prompt=[_POISON, *[1] * 300]), words=("not finite",)),
    Fault(name="a generated token has none", body=_completion(logit_bias={str(_POISON): 100}), words=("not finite",)),
    Fault(name="one of several outputs has none", body=_completion(n=4, logit_bias={str(_POISON): 40}, max_tokens=40, seed=1)),
    Fault(name="a scored prompt has none", body=_completion(prompt=[1, _POISON, 2], echo=True, logprobs=2, max_tokens=0)),
    Fault(name="the model raises on the prompt", body=_completion(prompt=[1, RAISING_ID])),
    Fault(name="the model raises on a generated token", body=_completion(logit_bias={str(RAISING_ID): 100})),
    Fault(
        name="the model raises on an input", path="/v1/embeddings", body={"model": "embedder", "input": [1, RAISING_ID], "pooling": "mean"}
    ),
    Fault(name="the template loops", path="/v1/chat/completions", body=_chat("loop"), words=("chat template", "1 s")),
    Fault(
        name="the template refuses",
        path="/v1/chat/completions",
        body=_chat("refuse"),
        status=400,
        code="invalid_value",
        words=("no refusals are answered here",),
    ),
    Fault(
        name="the template fails",
        path="/v1/chat/completions",
        body=_chat("broken"),
        status=400,
        code="invalid_value",
        words=("cannot render",),
    ),
)


@asynccontextmanager
async def _clients(server: ServerThread) -> AsyncIterator[tuple[httpx.AsyncClient, list[Caller]]]:
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=60) as client,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.server.grpc_port}") as channel,
    ):
        yield client, [GrpcUnary(channel), GrpcStream(channel), Http(client), Sse(client)]


async def _bystanders(callers: list[Caller], client: httpx.AsyncClient, salt: str) -> list[Any]:
    """Ask eight different questions at once, two in each way, and for some vectors; return all answers.

    The last question begins as some faults do, and without a salt: it may find what they left in the prefix cache.
    """
    questions = [
        callers[i % 4].greedy([1 + i, *[2 + i] * (10 * i)], BYSTANDER_TOKENS, salt=salt, model="talker") for i in range(NUM_BYSTANDERS - 1)
    ]
    questions.append(callers[3].greedy([1] * 300, BYSTANDER_TOKENS, model="talker"))
    texts = {"model": "embedder", "input": ["one", "two", "three"], "pooling": "mean"}
    answered: list[Any] = await asyncio.gather(*questions, client.post("/v1/embeddings", json=texts))
    *answers, vectors = answered
    return [*(replace(answer, num_cached_tokens=0) for answer in answers), vectors.json()["data"]]


@pytest.fixture(scope="module")
def quiet_answers(server: ServerThread) -> list[Any]:
    """What the bystanders are told while nothing goes wrong."""

    async def ask() -> list[Any]:
        async with _clients(server) as (client, callers):
            return await _bystanders(callers, client, "quiet")

    answers = asyncio.run(ask())
    texts = [answer.text for answer in answers if isinstance(answer, Answer)]
    assert len(set(texts)) == len(texts) == NUM_BYSTANDERS
    return answers


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_fault_ends_its_request_alone(server: ServerThread, quiet_answers: list[Any], fault: Fault) -> None:
    async with _clients(server) as (client, callers):
        results: list[Any] = await asyncio.gather(
            _bystanders(callers, client, fault.name), *(client.post(fault.path, json=fault.body) for _ in range(3)), return_exceptions=True
        )
        answers, *responses = results
        assert answers == quiet_answers
        for response in responses:
            assert isinstance(response, httpx.Response), response
            error = response.json()["error"]
            assert (response.status_code, error["code"]) == (fault.status, fault.code), error
            assert all(word in error["message"] for word in fault.words), error
            assert _SECRET not in response.text and "RuntimeError" not in response.text
        await eventually(server.url, is_idle)
        # What the faults left in the cache must not be found by anyone.
        assert await _bystanders(callers, client, fault.name + ", again") == quiet_answers


async def test_a_fault_in_a_stream_ends_it_with_an_error_after_what_was_good(server: ServerThread, bomb: Bomb) -> None:
    bomb.num_spared = 20
    body = _completion(logit_bias={str(RAISING_ID): 100}, max_tokens=400, stream=True)
    async with _clients(server) as (client, _), client.stream("POST", "/v1/completions", json=body) as response:
        events = [line.removeprefix("data: ") async for line in response.aiter_lines() if line]
    assert bomb.num_spared == 0
    assert f'"token_ids":[{RAISING_ID}' in events[0]
    assert response.status_code == 200
    assert '"code":"server_error"' in events[-2] and events[-1] == "[DONE]", events[-3:]
    assert _SECRET not in events[-2]
    await eventually(server.url, is_idle)


async def test_an_engine_that_breaks_altogether_leaves_nobody_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, is_broken = Engine.step, False

    def breaking(self: Engine) -> StepOutput:
        if is_broken and self.info.name == "talker":
            raise RuntimeError(_SECRET)
        return step(self)

    monkeypatch.setattr(Engine, "step", breaking)
    with ServerThread(_settings(tmp_path)) as server:
        async with _clients(server) as (client, _):
            async with client.stream("POST", "/v1/completions", json=_completion(max_tokens=500, ignore_eos=True, stream=True)) as response:
                lines = response.aiter_lines()
                assert (await anext(lines)).startswith("data: ")
                is_broken = True
                events = [line async for line in lines if line]
            # With another replica to ask, this caller would have been served there.
            assert '"code":"not_ready"' in events[-2] and _SECRET not in events[-2]
            late = await client.post("/v1/completions", json=_completion())
            assert (late.status_code, late.json()["error"]["code"]) == (503, "not_ready")
            assert "retry-after" in late.headers
            assert (await client.get("/ready")).status_code == 503
            # The other model's engine is of its own.
            other = await client.post("/v1/embeddings", json={"model": "embedder", "input": "a", "pooling": "mean"})
            assert other.status_code == 200
