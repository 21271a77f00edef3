"""Models that come and go at a gateway: who may ask, what each state answers, and that a change touches one model alone."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from attendant_engine.errors import CheckpointError
from attendant_engine.tokenizers import Tokenizer
from attendant_server.auth import ApiKeys
from attendant_server.errors import ServingError
from attendant_server.gateway.gateway import Gateway
from attendant_server.gateway.requests import CompletionRequest, LoadModelRequest, UnloadModelRequest
from attendant_server.gateway.results import ModelCard
from attendant_server.gateway.served_model import ServedModel
from tests.server.fakes import FakeLink, call, model_info, says

KEYS = ApiKeys.parse("ops: ops-key-1 admin\nops: ops-key-2\n")


class FakeHost:
    """Opens fakes: the link of ``late`` loads when ``loaded`` is set, that of ``broken`` never does; ``missing`` is not there."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.loaded = asyncio.Event()
        self.links: dict[str, FakeLink] = {}
        self.closed: list[str] = []
        self.num_opened = 0

    async def open(self, name: str, directory: str) -> Mapping[str, ServedModel]:
        if directory == "missing":
            raise CheckpointError("The model directory has no config.json.")
        self.num_opened += 1
        link = self.links[name] = FakeLink(model_info(name=name), replica_id=f"{name}-0", answer=says("late"))
        link.is_up = False
        model = ServedModel(name, tokenizer=self._tokenizer, links=[link])
        return {name: model, **({"tiny": model.adapted("tiny")} if directory == "adapted" else {})}

    async def wait_loaded(self, model: ServedModel) -> None:
        await self.loaded.wait()
        self.links[model.name].is_up = not model.name.startswith("broken")

    async def close(self, model: ServedModel) -> None:
        self.closed.append(model.name)
        for link in model.replicas.links:
            await link.close()


@pytest.fixture
async def host(tokenizer: Tokenizer) -> FakeHost:
    return FakeHost(tokenizer)


@pytest.fixture
async def changing(model: ServedModel, link: FakeLink, host: FakeHost) -> AsyncIterator[Gateway]:
    link.answer = says("hello")
    gateway = Gateway({"tiny": model}, host=host, trusts_all=True, drain_timeout_s=5.0)
    yield gateway
    await gateway.stop_changes()
    gateway.close()


async def _load(gateway: Gateway, model: str, directory: str | None = None, **context: Any) -> ModelCard:
    return await gateway.load_model(LoadModelRequest(model=model, directory=directory), call(**context))


async def _unload(gateway: Gateway, model: str) -> ModelCard:
    return await gateway.unload_model(UnloadModelRequest(model=model), call())


async def _says(gateway: Gateway, model: str) -> str:
    answer = await gateway.complete(CompletionRequest(model=model, prompt="x", max_tokens=9), call())
    return answer.choices[0].text


async def _until(gateway: Gateway, model: str, state: str) -> None:
    async with asyncio.timeout(10):
        while model not in {card.id for card in gateway.list_models()} or gateway.get_model(model).state != state:
            await asyncio.sleep(0)


async def _refused(gateway: Gateway, model: str) -> str:
    with pytest.raises(ServingError) as refusal:
        await _says(gateway, model)
    return refusal.value.code


async def test_a_model_comes_is_asked_and_goes_while_another_answers(changing: Gateway, host: FakeHost) -> None:
    loading = asyncio.ensure_future(_load(changing, "late"))
    await _until(changing, "late", "loading")
    assert await _refused(changing, "late") == "not_ready"
    assert changing.is_ready() and await _says(changing, "tiny") == "hello"
    host.loaded.set()
    card = await loading
    assert (card.id, card.state, card.is_ready) == ("late", "ready", True)
    assert await _says(changing, "late") == "late"
    assert [model.id for model in changing.list_models()] == ["tiny", "late"]
    assert (await _unload(changing, "late")).id == "late"
    assert await _refused(changing, "late") == "model_not_found"
    assert host.closed == ["late"]
    assert await _says(changing, "tiny") == "hello"


async def test_a_model_that_is_there_since_the_start_goes_too(changing: Gateway) -> None:
    await _unload(changing, "tiny")
    assert changing.list_models() == () and changing.is_ready()


async def test_once_it_was_ready_a_model_counts_for_the_servers_readiness(changing: Gateway, host: FakeHost) -> None:
    host.loaded.set()
    await _load(changing, "late")
    host.links["late"].is_up = False
    assert not changing.is_ready()
    assert changing.get_model("late").state == "not_ready"


async def test_a_load_that_fails_says_why_stays_in_the_list_and_may_be_tried_again(changing: Gateway, host: FakeHost) -> None:
    host.loaded.set()
    for _ in range(2):
        with pytest.raises(ServingError) as refusal:
            await _load(changing, "broken")
        assert refusal.value.code == "invalid_value" and "'broken' cannot be served: the model is still loading" in refusal.value.message
        assert changing.get_model("broken").state == "failed"
        assert changing.is_ready() and await _says(changing, "tiny") == "hello"
    assert (host.num_opened, host.closed) == (2, ["broken"])
    await _unload(changing, "broken")
    assert [model.id for model in changing.list_models()] == ["tiny"]


async def test_what_cannot_be_opened_leaves_no_trace(changing: Gateway, host: FakeHost) -> None:
    with pytest.raises(ServingError, match=r"config\.json") as refusal:
        await _load(changing, "late", "missing")
    assert (refusal.value.code, refusal.value.param) == ("invalid_value", "directory")
    with pytest.raises(ServingError, match="its adapter would be called 'tiny'"):
        await _load(changing, "late", "adapted")
    assert host.closed == ["late"]
    assert [model.id for model in changing.list_models()] == ["tiny"]


async def test_names_that_are_taken_and_names_that_are_not_there_are_refused(changing: Gateway, host: FakeHost) -> None:
    with pytest.raises(ServingError, match="served already"):
        await _load(changing, "tiny")
    with pytest.raises(ServingError) as refusal:
        await _unload(changing, "tinny")
    assert refusal.value.code == "model_not_found"
    loading = asyncio.ensure_future(_load(changing, "late"))
    await _until(changing, "late", "loading")
    with pytest.raises(ServingError) as busy:
        await _unload(changing, "late")
    assert busy.value.code == "not_ready"
    host.loaded.set()
    await loading


async def test_unloading_waits_for_the_calls_that_run_and_takes_no_new_ones(changing: Gateway, link: FakeLink, host: FakeHost) -> None:
    link.answer = None
    running = asyncio.ensure_future(_says(changing, "tiny"))
    while not link.generations:
        await asyncio.sleep(0)
    unloading = asyncio.ensure_future(_unload(changing, "tiny"))
    await _until(changing, "tiny", "draining")
    assert await _refused(changing, "tiny") == "model_not_found"
    assert not unloading.done() and not host.closed
    for output in says("to the end")(link.generations[0]):
        link.emit(output)
    assert await running == "to the en"
    await unloading
    assert host.closed == ["tiny"]


async def test_a_change_goes_on_when_its_caller_has_left_or_has_no_more_time(changing: Gateway, host: FakeHost) -> None:
    loading = asyncio.ensure_future(_load(changing, "late"))
    await _until(changing, "late", "loading")
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)
    host.loaded.set()
    await _until(changing, "late", "ready")
    assert await _says(changing, "late") == "late"


async def test_models_are_loaded_one_after_another(changing: Gateway, host: FakeHost) -> None:
    loads = [asyncio.ensure_future(_load(changing, f"late-{number}")) for number in range(3)]
    await _until(changing, "late-0", "loading")
    assert host.num_opened == 1
    host.loaded.set()
    await asyncio.gather(*loads)
    assert host.num_opened == 3


@pytest.mark.parametrize(
    ("keys", "trusts_all", "header", "code"),
    [
        (KEYS, False, "Bearer ops-key-1", None),
        (KEYS, True, "Bearer ops-key-2", "permission_denied"),
        (KEYS, True, None, "invalid_api_key"),
        (KEYS, True, "Bearer ops-key-3", "invalid_api_key"),
        (ApiKeys(), True, None, None),
        (ApiKeys(), False, None, "permission_denied"),
    ],
)
async def test_administrators_alone_may_and_without_keys_only_who_is_on_the_machine(
    host: FakeHost, keys: ApiKeys, trusts_all: bool, header: str | None, code: str | None
) -> None:
    gateway = Gateway({}, host=host, api_keys=keys, trusts_all=trusts_all)
    if code is None:
        gateway.require_admin(header)
    else:
        with pytest.raises(ServingError) as refusal:
            gateway.require_admin(header)
        assert refusal.value.code == code
    gateway.close()


def test_without_a_model_directory_nobody_may(gateway: Gateway) -> None:
    with pytest.raises(ServingError, match="--model-directory") as refusal:
        gateway.require_admin("Bearer ops-key-1")
    assert refusal.value.code == "not_found"


@pytest.mark.parametrize("model", ["", "../x", "/x", "a b", "x" * 129, "ä", ".x"])
def test_a_name_is_plain(model: str) -> None:
    with pytest.raises(ValueError, match="model"):
        LoadModelRequest(model=model)
