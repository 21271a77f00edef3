"""The engines of a server of one process: those of its models at the start, and those that come and go while it runs."""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import count

from attendant_engine.tokenizers import Tokenizer
from attendant_server.config import ModelSettings, Settings
from attendant_server.gateway.served_model import ServedModel, load_tokenizer
from attendant_server.hosting.adapter_paths import with_adapters
from attendant_server.hosting.engine_settings import make_local_link
from attendant_server.hosting.model_directory import ModelDirectory, read_model
from attendant_server.link.local import LocalLink


class LocalModels:
    """A ``ModelHost`` on the running event loop; ``directory`` has the models that may come, None for none."""

    def __init__(self, settings: Settings, *, num_torch_threads: int, directory: ModelDirectory | None) -> None:
        self._settings = settings
        self._num_torch_threads = num_torch_threads
        self._directory = directory
        self._numbers = count()
        self._links: dict[ServedModel, list[LocalLink]] = {}

    def make_first(self) -> dict[str, ServedModel]:
        """Return the models of the settings with their adapters, their engines to be started. Raises ``CheckpointError``."""
        models = {model.name: self._serve(model, load_tokenizer(model.name, model.path)) for model in self._settings.models}
        return with_adapters(models, self._settings)

    def start(self) -> None:
        """Begin to load all of them; returns at once."""
        for link in self._all_links():
            link.start()

    async def wait_all_loaded(self) -> None:
        """Return when the loading of all has ended, well or not."""
        await asyncio.gather(*(link.wait_loaded() for link in self._all_links()))

    async def open(self, name: str, directory: str) -> Mapping[str, ServedModel]:
        """Begin to load a model of the model directory. Raises ``ServingError`` or ``EngineError``."""
        assert self._directory is not None, "nobody is a host without one"
        path = self._directory.find(directory)
        model, tokenizer = await asyncio.to_thread(read_model, name, path)
        served = self._serve(model, tokenizer)
        for link in self._links[served]:
            link.start()
        return with_adapters({name: served}, self._settings.model_copy(update={"models": (model,)}))

    async def wait_loaded(self, model: ServedModel) -> None:
        """Return when loading has ended, well or not."""
        await asyncio.gather(*(link.wait_loaded() for link in self._links[model]))

    async def close(self, model: ServedModel) -> None:
        """End a model's engines."""
        links = self._links.pop(model, [])
        model.replicas.update(())
        await asyncio.gather(*(link.close() for link in links))

    async def close_all(self) -> None:
        """End every engine, whatever runs."""
        await asyncio.gather(*(link.close() for link in self._all_links()))

    def _all_links(self) -> Sequence[LocalLink]:
        return [link for links in self._links.values() for link in links]

    def _serve(self, model: ModelSettings, tokenizer: Tokenizer) -> ServedModel:
        links = [
            make_local_link(model, self._settings, replica_id=f"local-{next(self._numbers)}", num_torch_threads=self._num_torch_threads)
            for _ in range(self._settings.replicas)
        ]
        served = ServedModel(model.name, tokenizer=tokenizer, links=links, max_queue=self._settings.max_queue)
        self._links[served] = links
        return served
