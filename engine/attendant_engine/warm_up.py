"""The first requests of an engine that has just loaded: short ones of every kind, so that no caller pays for what happens once.

Knows an engine by what a caller may do with it.
"""

from typing import Protocol

from attendant_engine.errors import CheckpointError
from attendant_engine.stats import StepOutput
from attendant_engine.types import EngineRequest, GenerationRequest, ModelInfo, PoolingRequest, SamplingParams, Task

_ID = "warm-up"
_NUM_TOKENS = 32


class FreshEngine(Protocol):
    """What is asked of an engine before it is ready."""

    info: ModelInfo

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        ...

    def add_request(self, request: EngineRequest, *, is_let_in: bool = False) -> None:
        """Queue a request."""
        ...

    def step(self) -> StepOutput:
        """Advance what runs."""
        ...


def warm_up(engine: FreshEngine, *, max_batch_tokens: int) -> float:
    """Compute one short request of each kind that the model and its adapters serve.

    Returns the seconds that a full step would have taken at the slowest one's rate. Raises ``CheckpointError`` for a model
    that fails even so.
    """
    info = engine.info
    kinds: list[tuple[Task, str | None]] = [(task, None) for task in info.tasks]
    kinds += [(task, adapter.name) for adapter in info.adapters for task in adapter.tasks]
    full_step_s = 0.0
    for task, adapter_name in kinds:
        prompt = (0,) * min(_NUM_TOKENS, info.max_model_len - 1)
        if task == "completion" and prompt:
            params = SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True)
            engine.add_request(GenerationRequest(request_id=_ID, prompt_token_ids=prompt, params=params))
        elif task in ("embedding", "classification"):
            engine.add_request(
                PoolingRequest(request_id=_ID, prompt_token_ids=(0, *prompt), task=task, pooling="mean", adapter=adapter_name)
            )
        while engine.has_work:
            step = engine.step()
            if any(output.error is not None for output in step.outputs):
                raise CheckpointError("The model fails on its first request; its weights or this build are damaged.")
            if step.stats.num_prompt_tokens:
                full_step_s = max(full_step_s, step.stats.step_s * max_batch_tokens / step.stats.num_prompt_tokens)
    return full_step_s
