"""What a step costs beside the model: the engine around a trunk and a head that return at once.

Prints medians in milliseconds at several numbers of sequences, stage by stage: ``schedule``, ``run`` and of it ``pack``
(the step's tensors) and ``sample`` (choosing tokens from prepared logits, a kernel's work), ``finish`` (appending tokens,
building outputs and statistics). ``beside kernels`` is the whole step without ``sample``.
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any
from unittest import mock

import torch

from attendant_engine import runner
from attendant_engine.config import EngineConfig, ModelConfig
from attendant_engine.engine import Engine
from attendant_engine.models.base import LoadedModel, ModelInputs
from attendant_engine.types import GenerationRequest, ModelInfo, SamplingParams
from benchmarks.results_file import markdown_table

_VOCAB_SIZE = 50257
_NUM_PROMPT_TOKENS = 128
_STAGES = ("schedule", "pack", "run", "sample", "finish", "step", "beside kernels")


class _Trunk:
    """Hidden states that cost nothing."""

    def __init__(self, max_rows: int) -> None:
        self._hidden = torch.zeros(max_rows, 8)

    def __call__(self, inputs: ModelInputs) -> torch.Tensor:
        """Return ``[T, 8]``."""
        return self._hidden[: inputs.token_ids.shape[0]]


class _Head:
    """Logits that were there before; which is the largest differs from row to row."""

    def __init__(self, max_rows: int) -> None:
        self._logits = torch.rand(max_rows, _VOCAB_SIZE, generator=torch.Generator().manual_seed(0))

    def __call__(self, hidden: torch.Tensor, row_ids: torch.Tensor | None = None) -> torch.Tensor:
        """Return ``[N, V]``."""
        return self._logits[: hidden.shape[0] if row_ids is None else row_ids.shape[0]]


class _Stopwatch:
    """Adds up the seconds that wrapped functions take within one step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def wrap(self, owner: object, name: str, stage: str) -> AbstractContextManager[Any]:
        """Let every call of ``owner.name`` count as ``stage`` while the result is entered."""
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started_s = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[stage] += time.perf_counter() - started_s

        return mock.patch.object(owner, name, timed)


def make_engine(max_num_seqs: int) -> Engine:
    """Make an engine whose model costs nothing and whose vocabulary is GPT-2's."""
    config = ModelConfig(
        family="gpt2",
        head="language_model",
        kind="decoder",
        vocab_size=_VOCAB_SIZE,
        hidden_size=8,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        intermediate_size=8,
        max_position_embeddings=1 << 20,
        norm_eps=1e-5,
        activation="gelu",
    )
    model = LoadedModel(
        config=config,
        trunk=_Trunk(8192),
        dtype=torch.float32,
        device=torch.device("cpu"),
        digest="",
        num_parameters=0,
        lm_head=_Head(max_num_seqs),
    )
    info = ModelInfo(
        name="free",
        path="",
        family="gpt2",
        kind="decoder",
        tasks=("completion",),
        digest="",
        engine_version="",
        dtype="float32",
        device_kind="cpu",
        max_model_len=1 << 20,
        vocab_size=_VOCAB_SIZE,
    )
    engine_config = EngineConfig(max_batch_tokens=8192, max_num_seqs=max_num_seqs, speculation="none")
    return Engine(model, info, engine_config, num_blocks=max_num_seqs * 64)


def measure(num_sequences: int, *, num_steps: int, temperature: float) -> dict[str, float]:
    """Return the median milliseconds of each stage of a decode step."""
    engine = make_engine(num_sequences)
    generator = torch.Generator().manual_seed(1)
    for idx in range(num_sequences):
        prompt = tuple(torch.randint(_VOCAB_SIZE, (_NUM_PROMPT_TOKENS,), generator=generator).tolist())
        params = SamplingParams(max_tokens=2 * num_steps + 20, temperature=temperature, seed=idx, ignore_eos=True)
        engine.add_request(GenerationRequest(request_id=f"request-{idx}", prompt_token_ids=prompt, params=params))
    for _ in range(10):
        engine.step()
    watch = _Stopwatch()
    steps: list[dict[str, float]] = []
    with ExitStack() as stack:
        for owner, name, stage in _parts(engine):
            stack.enter_context(watch.wrap(owner, name, stage))
        for _ in range(num_steps):
            watch.seconds.clear()
            engine.step()
            steps.append(dict(watch.seconds))
    whole: list[float] = []
    for _ in range(num_steps):  # again without the watch, which costs as much as some stages
        started_s = time.perf_counter()
        engine.step()
        whole.append(time.perf_counter() - started_s)
    medians_ms = {stage: 1e3 * statistics.median(step.get(stage, 0.0) for step in steps) for stage in _STAGES}
    medians_ms["step"] = 1e3 * statistics.median(whole)
    medians_ms["beside kernels"] = medians_ms["step"] - medians_ms["sample"]
    return medians_ms


def _parts(engine: Engine) -> list[tuple[object, str, str]]:
    own = vars(engine)
    return [
        (own["_scheduler"], "schedule", "schedule"),
        (own["_runner"], "run", "run"),
        (vars(own["_runner"])["_packer"], "pack", "pack"),
        (runner, "sample", "sample"),
        (engine, "_postprocess", "finish"),
        (engine, "_stats", "finish"),
    ]


def main() -> None:
    """Measure and print one line for each number of sequences."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--temperature", type=float, default=0.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for num_sequences in arguments.sequences:
        medians_ms = measure(num_sequences, num_steps=arguments.steps, temperature=arguments.temperature)
        rows.append([str(num_sequences), *(f"{medians_ms[stage]:.3f}" for stage in _STAGES)])
    print(markdown_table(["sequences", *(f"{stage}, ms" for stage in _STAGES)], rows))


if __name__ == "__main__":
    main()
