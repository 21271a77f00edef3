"""A model as the gateway serves it: its tokenizer, its replicas and the permits to use it; an adapter has its model's."""

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from attendant_engine.errors import CheckpointError
from attendant_engine.tokenizers import Tokenizer
from attendant_engine.types import ModelInfo
from attendant_server.errors import ServingError
from attendant_server.gateway.admission import Admission
from attendant_server.gateway.replicas import NOT_READY_RETRY_AFTER_S, ReplicaSet
from attendant_server.gateway.results import ModelCard
from attendant_server.link.base import ReplicaLink


class ServedModel:
    """One model under one name. Its replicas may come later; until one is ready, requests get not_ready.

    ``change`` is what is done or was done to it while the server runs, ``failure`` why it could not be loaded, where its replicas
    cannot say; ``is_expected``: without it the server is not ready.
    """

    def __init__(self, name: str, *, tokenizer: Tokenizer, links: Iterable[ReplicaLink] = (), max_queue: int = 1024) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.replicas = ReplicaSet(name, links)
        self.admission = Admission(name, max_queue=max_queue)
        self.parent: ServedModel | None = None
        self.change: Literal["", "loading", "failed", "draining"] = ""
        self.is_expected = True
        self.failure = ""
        self._adapters: list[str] = []
        self._created_s = int(time.time())

    @classmethod
    def load(cls, name: str, path: str | Path, *, links: Iterable[ReplicaLink] = (), max_queue: int = 1024) -> "ServedModel":
        """Read the tokenizer of the checkpoint at ``path``. Raises ``CheckpointError``."""
        return cls(name, tokenizer=load_tokenizer(name, path), links=links, max_queue=max_queue)

    def adapted(self, name: str) -> "ServedModel":
        """Return the adapter ``name`` of this model, on the same replicas and under the same permits."""
        adapter = ServedModel(name, tokenizer=self.tokenizer)
        adapter.replicas, adapter.admission, adapter.parent = self.replicas, self.admission, self
        self._adapters.append(name)
        return adapter

    @property
    def adapter(self) -> str | None:
        """What engines are to compute with beside the model: this adapter, None for a model itself."""
        return None if self.parent is None else self.name

    @property
    def state(self) -> str:
        """loading, ready, not_ready, draining or failed."""
        model = self.parent or self
        if model.change == "draining":
            return "draining"
        if self.replicas.is_available:
            return "ready"
        return model.change or ("loading" if self.info is None else "not_ready")

    @property
    def status(self) -> str:
        """Return "ready", or a sentence that says why it is not."""
        if self.state == "draining":
            return "the model is being unloaded"
        return (self.parent or self).failure or self.replicas.status

    def check_open(self) -> None:
        """Raise ``ServingError`` model_not_found for a model that is on its way out: another try would find it gone."""
        if self.state == "draining":
            raise ServingError("model_not_found", f"model '{self.name}' is being unloaded and takes no new requests", param="model")

    @property
    def info(self) -> ModelInfo | None:
        """What the model or adapter is and does; None before a replica has loaded it."""
        info = self.replicas.info
        return info if info is None or self.parent is None else _adapted(info, self.name)

    def require_info(self) -> ModelInfo:
        """Return what it is and does. Raises ``ServingError`` not_ready before any replica has loaded it."""
        self.replicas.require_info()
        info = self.info
        if info is None:
            raise ServingError("not_ready", f"no replica of the model has adapter '{self.name}' yet", retry_after_s=NOT_READY_RETRY_AFTER_S)
        return info

    def card(self) -> ModelCard:
        """Describe the model or adapter; before a replica has loaded it, its name and status alone are known."""
        info, num_ready = self.info, self.replicas.num_ready
        return ModelCard(
            id=self.name,
            kind=info.kind if info else "",
            tasks=info.tasks if info else (),
            family=info.family if info else "",
            max_model_len=info.max_model_len if info else 0,
            vocab_size=info.vocab_size if info else 0,
            digest=info.digest if info else "",
            dtype=info.dtype if info else "",
            device_kind=info.device_kind if info else "",
            labels=info.labels if info else (),
            embedding_size=info.embedding_size if info else None,
            is_ready=self.state == "ready",
            status=self.status,
            num_replicas=num_ready,
            adapters=tuple(self._adapters),
            parent=None if self.parent is None else self.parent.name,
            created_s=self._created_s,
            quantization=info.quantization if info else "",
            kernels=info.kernels if info else "",
            state=self.state,
        )


def load_tokenizer(name: str, path: str | Path) -> Tokenizer:
    """Read the tokenizer of the checkpoint at ``path``, served as ``name``. Raises ``CheckpointError``."""
    try:
        tokenizer = Tokenizer.load(Path(path))
    except CheckpointError as error:
        raise CheckpointError(f"Model '{name}': {error}") from None
    tokenizer.warm_up()
    return tokenizer


def _adapted(info: ModelInfo, name: str) -> ModelInfo | None:
    """Return what an adapter of the model is and does, None where the replica does not know it."""
    for adapter in info.adapters:
        if adapter.name == name:
            is_embedding = "embedding" in adapter.tasks
            return replace(
                info,
                name=name,
                tasks=adapter.tasks,
                digest=adapter.digest,
                labels=adapter.labels,
                multi_label=adapter.multi_label,
                embedding_size=info.embedding_size if is_embedding else None,
                adapters=(),
            )
    return None
