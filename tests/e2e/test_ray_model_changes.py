"""On Ray a model comes and goes while the application runs: no process of another model is touched, and no call fails."""

import asyncio
from pathlib import Path

import pytest

from attendant_client import AsyncClient, Client, InvalidRequestError, ModelNotFoundError
from attendant_server.config import ModelSettings, Settings
from attendant_server.hosting.adapter_paths import assign_adapters
from tests.e2e.conftest import write_judge
from tests.e2e.local_server import ServerThread
from tests.e2e.processes import serve_replicas
from tests.e2e.server_process import ServerProcess
from tests.e2e.steady_calls import steady_calls

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(180)]

TEXTS = ["the dog ran", "a cat", "no"]
NAMES = ("judge", "judge-mood")
"""The model and its adapter."""


async def test_a_model_is_loaded_asked_and_unloaded_while_another_answers(ray_server: ServerProcess, tmp_path: Path) -> None:
    expected = await asyncio.to_thread(_judged_from_the_start, tmp_path)
    before = await _three_replicas(ray_server)
    async with steady_calls(ray_server), AsyncClient(ray_server.grpc_address, timeout_s=90) as client:
        with pytest.raises(InvalidRequestError, match=r"model\.safetensors should have"):
            await client.load_model("broken")
        assert {model.id: model.state for model in await client.list_models()}["broken"] == "failed"
        await client.unload_model("broken")
        assert (await client.load_model("judge")).state == "ready"
        for name in NAMES:
            assert [answer.probs for answer in (await client.classify(name, TEXTS)).classifications] == expected[name]
        await client.unload_model("judge")
        for name in NAMES:
            with pytest.raises(ModelNotFoundError):
                await client.classify(name, TEXTS)
        assert len(await client.list_models()) == 1
    assert await _three_replicas(ray_server) == before


def _judged_from_the_start(folder: Path) -> dict[str, list[dict[str, float]]]:
    """What a server says that has had the model from the start, with its adapter and without."""
    models = assign_adapters([ModelSettings(name="judge", path=str(write_judge(folder / "judge")))], ())
    settings = Settings(models=models, http_port=0, grpc_port=0)
    with ServerThread(settings) as server, Client(f"127.0.0.1:{server.server.grpc_port}") as client:
        return {name: [answer.probs for answer in client.classify(name, TEXTS).classifications] for name in NAMES}


async def _three_replicas(server: ServerProcess) -> set[int]:
    """Wait until the gateway and two engines are all that is left of whatever was, and return their processes."""
    async with asyncio.timeout(60):
        while len(replicas := serve_replicas(server.pid)) != 3:
            await asyncio.sleep(0.1)
    return replicas
