"""llama.cpp through llama-cpp-python's low-level interface: a context, a sequence id a prompt, batches by hand.

A cache of its own for every sequence (not unified), in llama.cpp's default type; the next token is the greatest logit.
Prompts are computed in batches of about 512 tokens, one at a time where only first tokens are wanted; decoding takes one
batch a step.
"""

import ctypes
import time
from typing import Any

import llama_cpp
import numpy as np

from benchmarks.peers.engines.base import Answer, Setup, UnsupportedError

_BATCH_TOKENS = 2048
_PROMPT_BATCH_TOKENS = 512
_CACHE_STEP = 256
_MAX_SEQUENCES = 256


class LlamaCpp:
    """One model, a context for one sequence and one for many."""

    def __init__(self, setup: Setup) -> None:
        llama_cpp.llama_backend_init()
        self._log = llama_cpp.llama_log_callback(_ignore)
        llama_cpp.llama_log_set(self._log, ctypes.c_void_p())
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self._model = llama_cpp.llama_load_model_from_file(str(setup.path / "model.gguf").encode(), model_params)
        if not self._model:
            raise RuntimeError("llama.cpp did not load the model")
        self._setup = setup
        self._contexts: dict[tuple[int, int], Any] = {}
        self._context: Any = None
        self._batch = llama_cpp.llama_batch_init(_BATCH_TOKENS, 0, 1)

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[Answer]:
        """Answer all prompts, which arrive at once."""
        self._context = self._context_for(len(prompts), len(prompts[0]) + new_tokens)
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)
        answers = [Answer() for _ in prompts]
        num_together = 1 if new_tokens == 1 else max(1, _PROMPT_BATCH_TOKENS // len(prompts[0]))
        for start in range(0, len(prompts), num_together):
            self._begin(prompts[start : start + num_together], start, answers)
        length = len(prompts[0])
        for step in range(new_tokens - 1):
            logits = self._decode(
                [(answer.token_ids[-1], length + step, index, True) for index, answer in enumerate(answers)], len(answers)
            )
            token_ids, now_s = logits.argmax(axis=1).tolist(), time.perf_counter()
            for answer, token_id in zip(answers, token_ids, strict=True):
                answer.add(token_id, now_s)
        return answers

    def _context_for(self, num_sequences: int, num_tokens: int) -> Any:
        """Return the context for one sequence or for many, of this length; made once, as the load says how many at most."""
        most = 1 if num_sequences == 1 else self._setup.load.max_sequences
        if most > _MAX_SEQUENCES:
            raise UnsupportedError(f"llama.cpp takes at most {_MAX_SEQUENCES} sequences in one context")
        length = -(-num_tokens // _CACHE_STEP) * _CACHE_STEP
        if (most, length) not in self._contexts:
            params = llama_cpp.llama_context_default_params()
            params.n_seq_max, params.n_ctx, params.n_batch = most, most * length, _BATCH_TOKENS
            params.n_threads = params.n_threads_batch = self._setup.num_threads
            context = llama_cpp.llama_init_from_model(self._model, params)
            if not context:
                raise RuntimeError("llama.cpp did not make a context")
            self._contexts[most, length] = context
        return self._contexts[most, length]

    def _begin(self, prompts: list[list[int]], start: int, answers: list[Answer]) -> None:
        """Compute these prompts, the first of them that of sequence ``start``, and note their first tokens."""
        last = len(prompts[0]) - 1
        rows = [
            (token, position, start + offset, position == last)
            for offset, prompt in enumerate(prompts)
            for position, token in enumerate(prompt)
        ]
        logits = self._decode(rows, len(prompts))
        now_s = time.perf_counter()
        for offset, token_id in enumerate(logits.argmax(axis=1).tolist()):
            answers[start + offset].add(token_id, now_s)

    def _decode(self, rows: list[tuple[int, int, int, bool]], num_outputs: int) -> Any:
        """Compute one batch of (token, position, sequence, whether its logits are wanted); return logits ``[outputs, vocabulary]``."""
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, is_output) in enumerate(rows):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = is_output
        code = llama_cpp.llama_decode(self._context, batch)
        if code != 0:
            raise RuntimeError(f"llama_decode returned {code}")
        pointer = llama_cpp.llama_get_logits(self._context)
        return np.ctypeslib.as_array(pointer, shape=(num_outputs, self._setup.num_vocab))


def load(setup: Setup) -> LlamaCpp:
    """Load the model."""
    return LlamaCpp(setup)


def _ignore(level: int, text: bytes, data: Any) -> None:
    del level, text, data
