"""Adapters behind a whole server: each is picked as a model, over HTTP and gRPC alike, and stands beside its parent in the list."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from attendant_client import Client, ModelNotFoundError
from attendant_server.config import AdapterSettings, ModelSettings, Settings
from attendant_server.hosting.adapter_paths import assign_adapters
from attendant_server.hosting.local import StartError
from tests.e2e.checkpoints import write_adapter, write_bert_encoder
from tests.e2e.local_server import ServerThread

TEXTS = ["a cat sat", "the dog ran far", "no", "a long text about nothing at all"]


def settings(folder: Path, *, width: int = 32) -> Settings:
    model = ModelSettings(name="base", path=str(write_bert_encoder(folder / "base")))
    paths = [
        write_adapter(folder / "mood", ("sad", "glad"), seed=1, width=width),
        write_adapter(folder / "size", ("small", "middling", "large"), seed=2, width=width),
    ]
    named = [AdapterSettings(name=path.name, path=str(path)) for path in paths]
    return Settings(models=assign_adapters([model], named), http_port=0, grpc_port=0)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    with ServerThread(settings(tmp_path_factory.mktemp("adapters"))) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ServerThread) -> Iterator[Client]:
    with Client(f"127.0.0.1:{server.server.grpc_port}") as client:
        yield client


def post(server: ServerThread, route: str, body: dict[str, object]) -> httpx.Response:
    return httpx.post(server.url + route, json=body, timeout=60)


def test_adapters_are_listed_behind_their_parent(server: ServerThread, client: Client) -> None:
    cards = httpx.get(f"{server.url}/v1/models", timeout=60).json()["data"]
    assert [(card["id"], card["parent"], card["adapters"]) for card in cards] == [
        ("base", None, ["mood", "size"]),
        ("mood", "base", []),
        ("size", "base", []),
    ]
    assert [card["tasks"] for card in cards] == [["embedding"], ["classification"], ["classification"]]
    assert cards[1]["labels"] == ["sad", "glad"] and len({card["digest"] for card in cards}) == 3
    assert [(model.id, model.parent, model.adapters) for model in client.list_models()] == [
        ("base", None, ("mood", "size")),
        ("mood", "base", ()),
        ("size", "base", ()),
    ]


def test_each_adapter_answers_the_same_over_both_transports_alone_and_in_company(server: ServerThread, client: Client) -> None:
    for name, labels in (("mood", ["sad", "glad"]), ("size", ["small", "middling", "large"])):
        answer = post(server, "/v1/classify", {"model": name, "input": TEXTS}).json()
        together = [item["probs"] for item in answer["data"]]
        assert all(list(probs) == labels for probs in together) and answer["model"] == name
        for text, probs in zip(TEXTS, together, strict=True):
            (alone,) = client.classify(name, text).classifications
            assert alone.probs == probs


def test_the_model_itself_still_embeds_and_an_adapter_does_not(server: ServerThread) -> None:
    assert post(server, "/v1/embeddings", {"model": "base", "input": TEXTS}).status_code == 200
    refused = post(server, "/v1/embeddings", {"model": "mood", "input": TEXTS})
    assert refused.status_code == 400 and "does not do embedding; it does classification" in refused.json()["error"]["message"]


def test_an_unknown_adapter_is_not_found(server: ServerThread, client: Client) -> None:
    answer = post(server, "/v1/classify", {"model": "mod", "input": "x"})
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"
    assert "mood" in answer.json()["error"]["message"]
    with pytest.raises(ModelNotFoundError):
        client.classify("mod", "x")


def test_an_adapter_of_another_width_stops_the_start_with_a_sentence(tmp_path: Path) -> None:
    match = r"Adapter 'mood': .*has shape \[4, 48\]; r = 4 and this model call for \[4, 32\]"
    with pytest.raises(StartError, match=match), ServerThread(settings(tmp_path, width=48)):
        pass
