"""Drives a loaded model without the engine: packed steps, a paged cache in scattered blocks, and a greedy loop."""

from collections.abc import Sequence

import torch

from attendant_engine.attention.base import AttentionMetadata, LayerCache
from attendant_engine.attention.registry import cache_block_shape
from attendant_engine.models.base import LoadedModel, ModelInputs
from attendant_engine.models.native import NativeTrunk


def packed_inputs(prompts: Sequence[Sequence[int]], *, is_causal: bool, segments: Sequence[Sequence[int]] | None = None) -> ModelInputs:
    """Return whole prompts end to end, without a cache."""
    lengths = tuple(len(prompt) for prompt in prompts)
    return ModelInputs(
        token_ids=torch.tensor([token_id for prompt in prompts for token_id in prompt]),
        positions=torch.cat([torch.arange(length) for length in lengths]),
        attention=AttentionMetadata(
            cu_seqlens_q=torch.tensor([0, *lengths]).cumsum(0).int(),
            seq_lens=torch.tensor(lengths, dtype=torch.int32),
            query_lens=lengths,
            context_lens=lengths,
            is_causal=is_causal,
        ),
        token_type_ids=None if segments is None else torch.tensor([kind for row in segments for kind in row]),
    )


class PagedSequences:
    """Sequences that share a cache. ``step`` gives each some new tokens and returns the hidden states of all of them.

    Blocks are as small as the backend takes them.
    """

    def __init__(self, model: LoadedModel, *, num_sequences: int, max_len: int) -> None:
        config = model.config
        is_native = isinstance(model.trunk, NativeTrunk)
        self._block_size = 16 if is_native else 4
        width = -(-max_len // self._block_size)
        block = cache_block_shape(
            "native" if is_native else "torch",
            block_size=self._block_size,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            dtype=model.dtype,
        )
        shape = (num_sequences * width, *block)
        self._model = model
        self._caches = tuple(
            LayerCache(torch.zeros(shape, dtype=model.dtype), torch.zeros(shape, dtype=model.dtype)) for _ in range(config.num_layers)
        )
        order = torch.randperm(num_sequences * width, generator=torch.Generator().manual_seed(0))
        self._table = order.view(num_sequences, width).int()
        self._lengths = [0] * num_sequences

    def spoil(self, sequence: int) -> None:
        """Fill a sequence's blocks with what is not a number."""
        for cache in self._caches:
            cache.key[self._table[sequence].long()] = float("nan")
            cache.value[self._table[sequence].long()] = float("nan")

    def step(self, new_tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return ``[T, E]``; every sequence must get at least one token."""
        query_lens = tuple(len(tokens) for tokens in new_tokens)
        starts = list(self._lengths)
        self._lengths = [start + count for start, count in zip(starts, query_lens, strict=True)]
        positions = [start + index for start, count in zip(starts, query_lens, strict=True) for index in range(count)]
        owners = [sequence for sequence, count in enumerate(query_lens) for _ in range(count)]
        slots = [
            int(self._table[owner, position // self._block_size]) * self._block_size + position % self._block_size
            for owner, position in zip(owners, positions, strict=True)
        ]
        hidden = self._model.trunk(
            ModelInputs(
                token_ids=torch.tensor([token_id for tokens in new_tokens for token_id in tokens]),
                positions=torch.tensor(positions),
                attention=AttentionMetadata(
                    cu_seqlens_q=torch.tensor([0, *query_lens]).cumsum(0).int(),
                    seq_lens=torch.tensor(self._lengths, dtype=torch.int32),
                    query_lens=query_lens,
                    context_lens=tuple(self._lengths),
                    block_table=self._table,
                    slot_mapping=torch.tensor(slots),
                ),
                layer_caches=self._caches,
            )
        )
        return hidden


@torch.inference_mode()
def greedy(model: LoadedModel, prompts: Sequence[Sequence[int]], num_tokens: int, *, chunk: int = 3) -> list[list[int]]:
    """Return each prompt's greedy continuation, all in one batch: prompts in uneven chunks, then one token a step."""
    assert model.lm_head is not None
    sequences = PagedSequences(model, num_sequences=len(prompts), max_len=max(map(len, prompts)) + num_tokens)
    # A first chunk of each that leaves at least one token, so that the second step has a past for every sequence.
    heads = [list(prompt[: min(chunk, len(prompt) - 1)] or prompt[:1]) for prompt in prompts]
    tails = [list(prompt[len(head) :]) for prompt, head in zip(prompts, heads, strict=True)]
    assert all(tails), "a prompt has at least two tokens here"
    sequences.step(heads)
    pending, outputs = tails, [[] for _ in prompts]  # type: list[list[int]], list[list[int]]
    for _ in range(num_tokens):
        hidden = sequences.step(pending)
        last = torch.tensor([len(tokens) for tokens in pending]).cumsum(0) - 1
        chosen = model.lm_head(hidden[last]).argmax(-1).tolist()
        for output, token_id in zip(outputs, chosen, strict=True):
            output.append(token_id)
        pending = [[token_id] for token_id in chosen]
    return outputs
