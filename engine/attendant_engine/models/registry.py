"""Which checkpoint architectures are served, as which family with which head; and how each family is built.

To add a family: one model file, one row in ``FAMILIES``, its architectures in ``ARCHITECTURES``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from torch import nn

from attendant_engine.attention.base import AttentionBackend
from attendant_engine.config import Family, HeadKind, ModelConfig
from attendant_engine.heads.classification import LastTokenClassification, PoolerClassification
from attendant_engine.heads.language_model import LanguageModel, TiedLanguageModel
from attendant_engine.heads.pooling import Pooling
from attendant_engine.layers.embeddings import Embedding
from attendant_engine.layers.linear import Linear
from attendant_engine.models.base import ClassificationHead, LanguageModelHead, PoolingHead
from attendant_engine.types import ModelKind


@dataclass(frozen=True, slots=True)
class FamilySpec:
    """A family: its kind, the class of its trunk, and the prefix its heads' checkpoints put before the trunk's names."""

    kind: ModelKind
    trunk: str
    base_prefix: str


FAMILIES: dict[Family, FamilySpec] = {
    "gpt2": FamilySpec("decoder", "attendant_engine.models.gpt2:GPT2", "transformer."),
    "llama": FamilySpec("decoder", "attendant_engine.models.llama:Llama", "model."),
    "bert": FamilySpec("encoder", "attendant_engine.models.bert:Bert", "bert."),
}

ARCHITECTURES: dict[str, tuple[Family, HeadKind]] = {
    "GPT2LMHeadModel": ("gpt2", "language_model"),
    "GPT2Model": ("gpt2", "embedding"),
    "GPT2ForSequenceClassification": ("gpt2", "sequence_classification"),
    "LlamaForCausalLM": ("llama", "language_model"),
    "LlamaModel": ("llama", "embedding"),
    "LlamaForSequenceClassification": ("llama", "sequence_classification"),
    "BertModel": ("bert", "embedding"),
    "BertForSequenceClassification": ("bert", "sequence_classification"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltModel:
    """A model laid out and not yet loaded: the trunk, and exactly one head."""

    trunk: nn.Module
    lm_head: LanguageModelHead | None = None
    pooling_head: PoolingHead | None = None
    classification_head: ClassificationHead | None = None

    @property
    def modules_with_weights(self) -> tuple[nn.Module, ...]:
        """All that a loader has to fill."""
        parts = (self.trunk, self.lm_head, self.pooling_head, self.classification_head)
        return tuple(part for part in parts if isinstance(part, nn.Module))

    def pack(self) -> None:
        """Give every product its weight in the fastest layout; once, after loading."""
        for part in self.modules_with_weights:
            for module in part.modules():
                if isinstance(module, Linear):
                    module.pack()
        if isinstance(self.lm_head, TiedLanguageModel):
            self.lm_head.pack()


def build_model(config: ModelConfig, backend: AttentionBackend) -> BuiltModel:
    """Lay out the trunk and the head that ``config`` names, on torch's current default device."""
    module_name, class_name = FAMILIES[config.family].trunk.split(":")
    make_trunk = cast(Callable[[ModelConfig, AttentionBackend], nn.Module], getattr(import_module(module_name), class_name))
    trunk = make_trunk(config, backend)
    if config.head == "embedding":
        return BuiltModel(trunk=trunk, pooling_head=Pooling(config.pooling, config.normalize))
    if config.head == "language_model":
        return BuiltModel(trunk=trunk, lm_head=_language_model(config, trunk))
    make_head = PoolerClassification if config.kind == "encoder" else LastTokenClassification
    return BuiltModel(trunk=trunk, classification_head=make_head(config.hidden_size, len(config.labels)))


def _language_model(config: ModelConfig, trunk: nn.Module) -> LanguageModelHead:
    if not config.tie_word_embeddings:
        return LanguageModel(config.hidden_size, config.vocab_size)
    return TiedLanguageModel(cast(Embedding, trunk.token_embedding))
