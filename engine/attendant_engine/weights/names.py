"""How names in a checkpoint's files meet the names of our modules: base prefixes, old spellings, and what may be left over."""

from attendant_engine.config import ModelConfig
from attendant_engine.models.registry import FAMILIES

_LEGACY_SUFFIXES = {".gamma": ".weight", ".beta": ".bias"}
"""BERT checkpoints of 2018 spell the parameters of their norms so."""

_BUFFER_SUFFIXES = {
    "gpt2": (".attn.bias", ".attn.masked_bias"),
    "llama": ("rotary_emb.inv_freq",),
    "bert": ("embeddings.position_ids", "embeddings.token_type_ids"),
}
"""Constants that old versions of transformers saved among the weights."""

_OTHER_HEADS = ("lm_head.", "score.", "classifier.", "cls.", "pooler.")
"""Parts that an embedding does not use, which its checkpoint may have kept from training."""


def canonical_name(name: str, config: ModelConfig) -> str:
    """Return the name of our parameter for a stored tensor: without the base prefix, in today's spelling."""
    name = name.removeprefix(FAMILIES[config.family].base_prefix)
    for legacy, current in _LEGACY_SUFFIXES.items():
        if config.family == "bert" and name.endswith(legacy):
            name = name.removesuffix(legacy) + current
    return name


def is_ignorable(name: str, config: ModelConfig) -> bool:
    """Tell whether a stored tensor (canonical name) may be left unread: a known constant, a shared copy, another head."""
    if name.endswith(_BUFFER_SUFFIXES[config.family]):
        return True
    if config.head == "embedding":
        return name.startswith(_OTHER_HEADS)
    return name == "lm_head.weight" and config.tie_word_embeddings
