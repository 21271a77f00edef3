"""A model as the gateway serves it: its tokenizer, its replicas and the permits to use it."""

import time
from collections.abc import Iterable
from pathlib import Path

from attendant_engine.errors import CheckpointError
from attendant_engine.tokenizers import Tokenizer
from attendant_server.gateway.admission import Admission
from attendant_server.gateway.replicas import ReplicaSet
from attendant_server.gateway.results import ModelCard
from attendant_server.link.base import ReplicaLink


class ServedModel:
    """One model under one name. Its replicas may come later; until one is ready, requests get not_ready."""

    def __init__(self, name: str, *, tokenizer: Tokenizer, links: Iterable[ReplicaLink] = (), max_queue: int = 1024) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.replicas = ReplicaSet(name, links)
        self.admission = Admission(name, max_queue=max_queue)
        self._created_s = int(time.time())

    @classmethod
    def load(cls, name: str, path: str | Path, *, links: Iterable[ReplicaLink] = (), max_queue: int = 1024) -> "ServedModel":
        """Read the tokenizer of the checkpoint at ``path``. Raises ``CheckpointError``."""
        try:
            tokenizer = Tokenizer.load(Path(path))
        except CheckpointError as error:
            raise CheckpointError(f"Model '{name}': {error}") from None
        return cls(name, tokenizer=tokenizer, links=links, max_queue=max_queue)

    def card(self) -> ModelCard:
        """Describe the model; before a replica has loaded it, its name and status alone are known."""
        info, num_ready = self.replicas.info, self.replicas.num_ready
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
            is_ready=num_ready > 0,
            status=self.replicas.status,
            num_replicas=num_ready,
            created_s=self._created_s,
            quantization=info.quantization if info else "",
            kernels=info.kernels if info else "",
        )
