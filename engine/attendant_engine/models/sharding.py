"""A model's weights shared out among ranks, in the layout of Megatron-LM (Shoeybi et al. 2019).

What makes queries, keys, values and the wide half of a feed-forward layer is split by outputs, so by heads; what comes after
by inputs, and its products are summed over the ranks: two sums a layer. Embeddings and norms are held by every rank, the
heads by the first alone.
"""

from dataclasses import replace

from attendant_engine.config import EngineConfig, Family, ModelConfig
from attendant_engine.errors import InvalidRequestError
from attendant_engine.layers.linear import Linear, Share
from attendant_engine.models.registry import BuiltModel
from attendant_engine.rank_group import Ranks

_BY_OUTPUTS: dict[Family, dict[str, int]] = {
    "gpt2": {"attn.c_attn": 3, "mlp.c_fc": 1},
    "llama": dict.fromkeys(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"), 1),
    "bert": dict.fromkeys(("self.query", "self.key", "self.value", "intermediate.dense"), 1),
}
"""Ends of the modules' names, and how many sections each one's outputs have."""

_BY_INPUTS: dict[Family, tuple[str, ...]] = {
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
    "bert": ("output.dense",),
}


def shard_config(config: ModelConfig, num_ranks: int) -> ModelConfig:
    """Return the shape of what one of ``num_ranks`` holds. Raises ``InvalidRequestError`` for what cannot be shared out evenly."""
    sizes = {"key/value heads": config.num_kv_heads, "heads": config.num_heads, "feed-forward channels": config.intermediate_size}
    for what, size in sizes.items():
        if size % num_ranks:
            fitting = [count for count in range(1, num_ranks) if all(each % count == 0 for each in sizes.values())]
            raise InvalidRequestError(
                f"tensor_parallel is {num_ranks}, which does not divide the model's {size} {what}; use {fitting[-1]}.",
                param="tensor_parallel",
            )
    return replace(
        config,
        num_heads=config.num_heads // num_ranks,
        num_kv_heads=config.num_kv_heads // num_ranks,
        intermediate_size=config.intermediate_size // num_ranks,
    )


def check_ranks(model: ModelConfig, config: EngineConfig, *, num_devices: int | None) -> None:
    """Raise ``InvalidRequestError`` where ``model`` cannot be shared out as ``config`` asks. ``num_devices`` None: ranks are CPUs."""
    num_ranks = config.tensor_parallel
    if num_ranks == 1:
        return
    shard_config(model, num_ranks)
    obstacle = None
    if config.quantization != "none":
        obstacle = f"quantization {config.quantization} takes one process; leave one of the two out"
    elif config.adapters:
        obstacle = f"a model with adapters ({config.adapters[0].name}) takes one process; serve it with tensor_parallel 1"
    elif num_devices is not None and num_devices < num_ranks:
        obstacle = f"this machine has {num_devices} CUDA devices, of which each process takes one; use at most as many"
    if obstacle is not None:
        raise InvalidRequestError(f"tensor_parallel is {num_ranks}, and {obstacle}.", param="tensor_parallel")


def shard_model(built: BuiltModel, family: Family, ranks: Ranks) -> None:
    """Tell each product of ``built``, laid out by ``shard_config``, which share it holds and with whom it sums."""
    for name, module in built.trunk.named_modules():
        if not isinstance(module, Linear):
            continue
        num_sections = next((count for end, count in _BY_OUTPUTS[family].items() if name.endswith(end)), None)
        if num_sections is not None:
            module.share = Share(of="outputs", rank=ranks.rank, num_ranks=ranks.num_ranks, num_sections=num_sections)
        elif name.endswith(_BY_INPUTS[family]):
            module.share = Share(of="inputs", rank=ranks.rank, num_ranks=ranks.num_ranks)
            module.ranks = ranks
