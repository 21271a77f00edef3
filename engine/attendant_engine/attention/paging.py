"""Writing to the paged cache, the same for every backend but the reference."""

import torch

from attendant_engine.attention.base import AttentionMetadata, LayerCache


def write_to_cache(k: torch.Tensor, v: torch.Tensor, cache: LayerCache, metadata: AttentionMetadata) -> None:
    """Write ``k`` and ``v`` ``[T, K, D]`` to the slots of ``metadata.slot_mapping``, in the cache's dtype."""
    assert metadata.slot_mapping is not None, "a cache needs a slot mapping"
    cache.key.view(-1, *k.shape[1:]).index_copy_(0, metadata.slot_mapping, k.to(cache.key.dtype))
    cache.value.view(-1, *v.shape[1:]).index_copy_(0, metadata.slot_mapping, v.to(cache.value.dtype))
