"""How far a request has got, and what another replica is to be told so that it goes on behind the last token that came.

A token depends on the prompt, the tokens before it, the seed and the sequence's index alone, and an engine's numbers do
not depend on how they were batched. So the prompt and the tokens so far, given to another engine, continue with the tokens
that the lost one would have generated, drawn ones like greedy ones.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from attendant_engine.types import EngineOutput, EngineRequest, GenerationRequest, OutputError, PooledOutput, SequenceOutput


@dataclass(slots=True, eq=False)
class _SequenceProgress:
    token_ids: list[int] = field(default_factory=list)
    is_over: bool = False


class Progress:
    """What has come of one request."""

    def __init__(self, request: EngineRequest) -> None:
        self._request = request
        first, before = (request.index, request.output_token_ids) if isinstance(request, GenerationRequest) else (0, ())
        # What came before this request did, where it goes on with what another gateway had begun, is part of what is known.
        self._sequences = {first + place: _SequenceProgress(list(before)) for place in range(self.num_sequences(request))}
        self._num_before = len(before)
        self._seed: int | None = None
        self._has_prompt_logprobs = False
        self._has_moved = False
        self._is_resumed = False

    @staticmethod
    def num_sequences(request: EngineRequest) -> int:
        """Return how many sequences a request has that have to end."""
        return request.n if isinstance(request, GenerationRequest) else 1

    @property
    def num_tokens(self) -> int:
        """Tokens that have come, of all sequences."""
        return sum(len(sequence.token_ids) for sequence in self._sequences.values()) - self._num_before

    def note(self, output: EngineOutput) -> EngineOutput:
        """Take in what came; return it as the request's own, whichever replica it is from."""
        if isinstance(output, SequenceOutput):
            sequence = self._sequences[output.index]
            sequence.token_ids += output.token_ids
            sequence.is_over = output.finish_reason is not None
            self._seed = output.seed if self._seed is None else self._seed
            self._has_prompt_logprobs = self._has_prompt_logprobs or output.prompt_logprobs is not None
        return self.as_own(output)

    def as_own(self, output: EngineOutput) -> EngineOutput:
        """Return an output under the request's own id."""
        if not self._has_moved:
            return output
        if isinstance(output, SequenceOutput) and self._is_resumed:
            # Prompt tokens that the next replica finds cached were computed where the request began.
            return replace(output, request_id=self._request.request_id, num_cached_tokens=0)
        return replace(output, request_id=self._request.request_id)

    def failure(self, error: OutputError) -> EngineOutput:
        """Return what ends the request where nothing else will."""
        request_id = self._request.request_id
        if isinstance(self._request, GenerationRequest):
            return SequenceOutput(request_id=request_id, finish_reason="error", error=error)
        return PooledOutput(request_id=request_id, error=error)

    def remaining(self, lost: EngineRequest, move: int) -> Iterator[EngineRequest]:
        """Yield what is to be sent elsewhere in place of ``lost``, which is the request or one that this has yielded.

        ``move`` numbers the occasions, so that every engine request has an id of its own.
        """
        self._has_moved = True
        request = self._request
        if not isinstance(request, GenerationRequest) or not isinstance(lost, GenerationRequest) or self._seed is None:
            yield replace(lost, request_id=f"{request.request_id}.{move}")
            return
        self._is_resumed = True
        params = replace(request.params, seed=self._seed)
        if self._has_prompt_logprobs:
            params = replace(params, prompt_logprobs=None, prompt_logprobs_start=0)
        for index in range(lost.index, lost.index + lost.n):
            sequence = self._sequences[index]
            if not sequence.is_over:
                yield replace(
                    request,
                    request_id=f"{request.request_id}.{move}.{index}",
                    params=params if index == request.index else replace(params, prompt_logprobs=None, prompt_logprobs_start=0),
                    n=1,
                    index=index,
                    output_token_ids=tuple(sequence.token_ids),
                )
