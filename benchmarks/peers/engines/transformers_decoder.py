"""transformers, eager, over its own cache: a loop of forwards, which is what ``generate`` does without its bookkeeping."""

import time
from typing import Any

import torch

from benchmarks.peers.engines.base import NUM_TOGETHER, Answer, Setup, UnsupportedError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class TransformersDecoder:
    """One model."""

    def __init__(self, setup: Setup) -> None:
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(setup.num_threads)
        model: Any = AutoModelForCausalLM.from_pretrained(setup.path, dtype=torch_dtype(setup))
        self._model = model.eval()

    @torch.inference_mode()
    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[Answer]:
        """Answer all prompts, which arrive at once, as one batch, or as a few where only first tokens are wanted."""
        num_together = NUM_TOGETHER if new_tokens == 1 else len(prompts)
        batches = [prompts[start : start + num_together] for start in range(0, len(prompts), num_together)]
        return [answer for batch in batches for answer in self._answer(batch, new_tokens)]

    def _answer(self, prompts: list[list[int]], new_tokens: int) -> list[Answer]:
        answers = [Answer() for _ in prompts]
        ids, cache = torch.tensor(prompts), None
        for _ in range(new_tokens):
            output = self._model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            ids, cache = output.logits[:, -1].argmax(dim=-1, keepdim=True), output.past_key_values
            token_ids, now_s = ids[:, 0].tolist(), time.perf_counter()
            for answer, token_id in zip(answers, token_ids, strict=True):
                answer.add(token_id, now_s)
        return answers


def torch_dtype(setup: Setup) -> torch.dtype:
    """Return torch's type for the class of precision."""
    if setup.precision not in _DTYPES:
        raise UnsupportedError(f"transformers has no {setup.precision} of its own on a CPU")
    return _DTYPES[setup.precision]


def load(setup: Setup) -> TransformersDecoder:
    """Load the model."""
    return TransformersDecoder(setup)
