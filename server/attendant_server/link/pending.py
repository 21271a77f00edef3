"""Outputs that wait for their reader, merged sequence by sequence.

A slow reader costs one merged output a live sequence, never one message a step: the first output is there at once, and
what comes while nobody reads is added to it. Used by a gateway's streams and by the link while its window is full.
"""

from attendant_engine.types import EngineOutput, SequenceOutput, TokenLogprobs


class PendingOutputs:
    """At most one output for each sequence (or pooling request) of those added and not yet taken."""

    def __init__(self) -> None:
        self._slots: dict[tuple[str, int], EngineOutput | _Merge] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def add(self, output: EngineOutput) -> None:
        """Keep ``output``, merged with what waits of the same sequence."""
        key = (output.request_id, output.index if isinstance(output, SequenceOutput) else 0)
        waiting = self._slots.get(key)
        if isinstance(output, SequenceOutput) and isinstance(waiting, SequenceOutput):
            waiting = self._slots[key] = _Merge(waiting)
        if isinstance(output, SequenceOutput) and isinstance(waiting, _Merge):
            waiting.add(output)
        else:
            self._slots[key] = output

    def take(self) -> list[EngineOutput]:
        """Hand over everything that waits, in the order in which the sequences were first heard of."""
        slots, self._slots = self._slots, {}
        return [slot.merged() if isinstance(slot, _Merge) else slot for slot in slots.values()]

    def take_one(self, like: EngineOutput) -> EngineOutput:
        """Hand over what waits of the sequence that ``like``, which was added, belongs to."""
        slot = self._slots.pop((like.request_id, like.index if isinstance(like, SequenceOutput) else 0))
        return slot.merged() if isinstance(slot, _Merge) else slot

    def discard(self, request_id: str) -> None:
        """Forget what waits for a request that was aborted."""
        for key in [key for key in self._slots if key[0] == request_id]:
            del self._slots[key]


class _Merge:
    """Several outputs of one sequence on their way to being one; lists, so that adding a token costs a token."""

    __slots__ = ("_first", "_last", "_logprobs", "_prompt_logprobs", "_seed", "_token_ids")

    def __init__(self, first: SequenceOutput) -> None:
        self._first = first
        self._last = first
        self._token_ids = list(first.token_ids)
        self._logprobs: list[TokenLogprobs] | None = None if first.logprobs is None else list(first.logprobs)
        self._prompt_logprobs = first.prompt_logprobs
        self._seed = first.seed

    def add(self, output: SequenceOutput) -> None:
        """Append a later output of the same sequence."""
        self._last = output
        self._token_ids += output.token_ids
        if output.logprobs is not None:
            if self._logprobs is None:
                self._logprobs = []
            self._logprobs += output.logprobs
        self._prompt_logprobs = output.prompt_logprobs if self._prompt_logprobs is None else self._prompt_logprobs
        self._seed = output.seed if self._seed is None else self._seed

    def merged(self) -> SequenceOutput:
        """Return the outputs as one."""
        first, last = self._first, self._last
        return SequenceOutput(
            request_id=first.request_id,
            index=first.index,
            token_ids=tuple(self._token_ids),
            logprobs=None if self._logprobs is None else tuple(self._logprobs),
            prompt_logprobs=self._prompt_logprobs,
            finish_reason=last.finish_reason,
            stop_token_id=last.stop_token_id,
            # Set on the first and last output only, zero between.
            num_cached_tokens=max(first.num_cached_tokens, last.num_cached_tokens),
            seed=self._seed,
            queue_s=max(first.queue_s, last.queue_s),
            prefill_s=max(first.prefill_s, last.prefill_s),
            decode_s=max(first.decode_s, last.decode_s),
            error=last.error,
        )
