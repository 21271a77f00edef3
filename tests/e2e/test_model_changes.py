"""Models loaded into and unloaded from a whole server: the answers are those of a server that had them from the start."""

import json
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from attendant_client import Client, InvalidRequestError, ModelNotFoundError, PermissionDeniedError
from attendant_server.config import ModelSettings, Settings
from attendant_server.hosting.garbage import spare_what_is_loaded
from tests.e2e.checkpoints import write_bert_classifier, write_gpt2, write_llama
from tests.e2e.local_server import ServerThread

PROMPTS = ["the dog ran", "a cat", "no", "a long text about nothing at all"]
ADMIN, TENANT = "ops-key-1234", "someone-else-1"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    write_llama(root / "first")
    write_gpt2(root / "second", seed=1)
    write_bert_classifier(root / "judge")
    broken = write_llama(root / "broken", seed=2)
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:-64])
    (root / "keys").write_text(f"ops: {ADMIN} admin\nsomeone: {TENANT}\n")
    return root


def _settings(models: Path, *names: str, **values: Any) -> Settings:
    served = tuple(ModelSettings(name=name, path=str(models / name)) for name in names)
    ports: dict[str, Any] = {"http_port": 0, "grpc_port": 0, "kv_cache_memory": "4MiB", "drain_timeout_s": 20}
    return Settings(models=served, **ports, **values)


def _answers(client: Client) -> list[Any]:
    said = [client.complete(model, PROMPTS, max_tokens=12, temperature=0).completions for model in ("first", "second")]
    return [
        [[choice.token_ids for choice in choices] for choices in said],
        [label.probs for label in client.classify("judge", PROMPTS).classifications],
    ]


@pytest.fixture(scope="module")
def expected(models: Path) -> list[Any]:
    """What a server says that has all models from the start."""
    with ServerThread(_settings(models, "first", "second", "judge")) as server, _client(server) as client:
        return _answers(client)


@pytest.fixture
def server(models: Path) -> Iterator[ServerThread]:
    with ServerThread(_settings(models, "first", model_directory=str(models))) as server:
        yield server


def _client(server: ServerThread, **options: Any) -> Client:
    return Client(f"127.0.0.1:{server.server.grpc_port}", **options)


def _models(server: ServerThread) -> dict[str, str]:
    return {card["id"]: card["state"] for card in httpx.get(f"{server.url}/v1/models").json()["data"]}


def test_models_that_came_later_answer_as_those_of_the_start(server: ServerThread, expected: list[Any]) -> None:
    with _client(server) as client:
        assert client.load_model("second").state == "ready"
        loaded = httpx.post(f"{server.url}/v1/models/load", json={"model": "judge"}, timeout=30)
        assert (loaded.status_code, loaded.json()["state"]) == (200, "ready")
        assert _answers(client) == expected
        assert _models(server) == {"first": "ready", "second": "ready", "judge": "ready"}
        assert client.is_ready("second")
        assert 'model="second"' in httpx.get(f"{server.url}/metrics").text
        assert httpx.post(f"{server.url}/v1/models/unload", json={"model": "second"}, timeout=30).status_code == 200
        client.unload_model("judge")
        assert _models(server) == {"first": "ready"}
        assert 'model="second"' not in httpx.get(f"{server.url}/metrics").text
        with pytest.raises(ModelNotFoundError):
            client.complete("second", "x")
        client.load_model("second", "second")
        client.load_model("judge")
        assert _answers(client) == expected


def test_the_memory_of_a_model_goes_with_it(server: ServerThread) -> None:
    with _client(server) as client:
        client.load_model("second")
        (link,) = server.call(lambda: server.server.gateway._models["second"].replicas.links)
        engine = weakref.ref(link._worker.engine)
        assert engine() is not None
        del link
        server.call(spare_what_is_loaded)  # as at the start: no collection looks at it again
        client.unload_model("second")
        assert engine() is None


def test_a_model_that_cannot_be_loaded_says_why_and_leaves_the_others_alone(server: ServerThread, expected: list[Any]) -> None:
    with _client(server) as client:
        with pytest.raises(InvalidRequestError, match=r"model\.safetensors should have"):
            client.load_model("broken")
        assert _models(server) == {"first": "ready", "broken": "failed"}
        (card,) = [card for card in client.list_models() if card.id == "broken"]
        assert "model.safetensors should have" in card.status
        assert httpx.get(f"{server.url}/ready").status_code == 200
        assert not client.is_ready("broken")
        for directory in ("nowhere", "../first", "/etc"):
            refused = httpx.post(f"{server.url}/v1/models/load", json={"model": "x", "directory": directory}, timeout=30)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, "directory")
        assert client.complete("first", PROMPTS[0], max_tokens=12, temperature=0).completions[0].token_ids == expected[0][0][0]


def test_unloading_under_load_loses_nothing_that_was_let_in(server: ServerThread, expected: list[Any]) -> None:
    with _client(server) as client, ThreadPoolExecutor(17) as pool:
        client.load_model("second")
        whole = client.complete("second", PROMPTS[1], max_tokens=120, temperature=0, ignore_eos=True).completions[0].token_ids

        def stream() -> list[int] | str:
            token_ids: list[int] = []
            try:
                for piece in client.stream_complete("second", PROMPTS[1], max_tokens=120, temperature=0, ignore_eos=True):
                    token_ids += piece.token_ids
            except ModelNotFoundError as error:
                assert not token_ids, "a stream was cut off"
                return error.code
            return token_ids

        first = [pool.submit(stream) for _ in range(16)]
        deadline_s = time.monotonic() + 30
        while server.call(lambda: server.server.gateway._models["second"].admission.num_held) < 8:
            assert time.monotonic() < deadline_s
        unloading = pool.submit(client.unload_model, "second")
        others = [client.complete("first", PROMPTS[0], max_tokens=12, temperature=0) for _ in range(3)]
        unloading.result(60)
        said = [future.result(60) for future in first]
        assert said.count(list(whole)) >= 8
        assert {str(answer) for answer in said} <= {str(list(whole)), "model_not_found"}
        assert {answer.completions[0].token_ids for answer in others} == {expected[0][0][0]}
        assert _models(server) == {"first": "ready"}


def test_an_administrators_key_is_needed_where_there_are_keys(models: Path) -> None:
    settings = _settings(models, "first", model_directory=str(models), api_key_file=str(models / "keys"))
    with ServerThread(settings) as server, _client(server, api_key=ADMIN) as admin, _client(server, api_key=TENANT) as tenant:
        body = json.dumps({"model": "second"})
        for path in ("/v1/models/load", "/v1/models/unload"):
            for key, status, code in ((None, 401, "invalid_api_key"), (TENANT, 403, "permission_denied")):
                headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
                for content in (body, "not json"):
                    refused = httpx.post(server.url + path, content=content, headers=headers)
                    assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
        for change in (tenant.load_model, tenant.unload_model):
            with pytest.raises(PermissionDeniedError):
                change("second")
        assert admin.load_model("second").state == "ready"
        assert tenant.complete("second", "x", max_tokens=1).completions
        admin.unload_model("second")


def test_without_a_model_directory_models_stay(models: Path) -> None:
    with ServerThread(_settings(models, "first")) as server:
        refused = httpx.post(f"{server.url}/v1/models/unload", json={"model": "first"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
        assert _models(server) == {"first": "ready"}
