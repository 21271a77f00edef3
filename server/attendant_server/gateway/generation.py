"""Prompts being continued: which engine requests run, what their outputs become, and what they cost.

A ``GenerationPlan`` is all that there is to say beforehand; a ``Generation`` hands out pieces until every output has
ended. At most ``MAX_IN_FLIGHT`` sequences of one call are on engines at once, so that a long list leaves room for others.
"""

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from attendant_engine.tokenizers import Tokenizer
from attendant_engine.types import EngineOutput, GenerationRequest, ModelInfo, SamplingParams, SequenceOutput
from attendant_server.errors import ServingError
from attendant_server.gateway.admission import Deadline
from attendant_server.gateway.in_flight import InFlight, RequestIds
from attendant_server.gateway.prompts import EncodedPrompt
from attendant_server.gateway.results import PositionLogprobs, Timing, Usage
from attendant_server.gateway.seeds import draw_seed, seeds_of
from attendant_server.gateway.sequence_reader import Piece, SequenceReader, prompt_positions, raise_if_failed
from attendant_server.metrics import TokenTimes

MAX_IN_FLIGHT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationPlan:
    """What is to be generated.

    ``num_each`` sequences a prompt. ``num_top`` (best tokens a position) None: no log-probabilities in the answer;
    ``num_prompt_top`` the same for the prompt. ``echo`` puts the prompt's text, and with ``num_top`` its positions, first.
    """

    prompts: tuple[EncodedPrompt, ...]
    params: SamplingParams
    num_each: int = 1
    stop_texts: tuple[str, ...] = ()
    echo: bool = False
    num_top: int | None = None
    num_prompt_top: int | None = None
    priority: int = 0
    cache_salt: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputPiece:
    """A piece of output ``index`` of prompt ``prompt_idx``; ``prompt_logprobs`` come with the first piece of each output."""

    prompt_idx: int
    index: int
    piece: Piece
    prompt_logprobs: tuple[PositionLogprobs, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BegunOutput:
    """An output that another gateway has begun: its tokens, and its reader as it stood behind them."""

    reader: SequenceReader
    token_ids: tuple[int, ...]


def new_reader(plan: GenerationPlan, tokenizer: Tokenizer, prompt: EncodedPrompt) -> SequenceReader:
    """Return the reader of an output of ``prompt`` that has not begun."""
    return SequenceReader(
        tokenizer,
        prompt_ids=prompt.token_ids,
        stop_texts=plan.stop_texts,
        min_tokens=plan.params.min_tokens,
        num_top=plan.num_top,
        first_offset=len(prompt.text) if plan.echo else 0,
    )


@dataclass(slots=True, eq=False, kw_only=True)
class _PromptState:
    """One prompt on an engine."""

    idx: int
    readers: list[SequenceReader]
    has_begun: list[bool]
    echoed: tuple[PositionLogprobs, ...] | None = None
    prompt_logprobs: tuple[PositionLogprobs, ...] | None = None
    num_cached_tokens: int = 0
    timing: Timing = field(default_factory=Timing)
    last_piece_s: list[float | None]


@dataclass(frozen=True, slots=True)
class _EngineShare:
    """The outputs of a prompt that one engine request has: all of them, or one that was begun before."""

    state: _PromptState
    indices: range

    @property
    def is_done(self) -> bool:
        return all(self.state.readers[index].is_done for index in self.indices)


class Generation:
    """A plan at work. ``in_flight`` must be closed by its owner, whatever happens.

    ``begun`` are outputs, by their index among all, that go on where another gateway left them; ``cached_tokens`` is what
    it said of the cache.
    """

    def __init__(
        self,
        plan: GenerationPlan,
        *,
        tokenizer: Tokenizer,
        in_flight: InFlight,
        request_ids: RequestIds,
        deadline: Deadline,
        times: TokenTimes | None = None,
        begun: Mapping[int, BegunOutput] | None = None,
        cached_tokens: int = 0,
    ) -> None:
        if plan.params.seed is None:
            plan = replace(plan, params=replace(plan.params, seed=draw_seed()))
        assert plan.params.seed is not None
        self._plan = plan
        self._tokenizer = tokenizer
        self._in_flight = in_flight
        self._request_ids = request_ids
        self._deadline = deadline
        self._times = times
        self._started_s = time.monotonic()
        self._begun = begun or {}
        self._waiting: deque[int] = deque(idx for idx in range(len(plan.prompts)) if not self._is_finished(idx))
        self._live: dict[str, _EngineShare] = {}
        self._states: dict[int, _PromptState] = {}
        self._num_prompt_tokens = sum(len(prompt.token_ids) for prompt in plan.prompts)
        self._num_cached_tokens = min(cached_tokens, self._num_prompt_tokens)
        self._num_completion_tokens = sum(len(output.token_ids) for output in self._begun.values())
        self._failure: ServingError | None = None
        self.seed: int = plan.params.seed
        self._seeds = seeds_of([prompt.token_ids for prompt in plan.prompts], self.seed)

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(
            prompt_tokens=self._num_prompt_tokens,
            cached_tokens=self._num_cached_tokens,
            completion_tokens=self._num_completion_tokens,
        )

    @property
    def timing(self) -> Timing:
        """Seconds of the slowest prompt's stages, and of it all so far."""
        return Timing(
            queue_s=max((state.timing.queue_s for state in self._states.values()), default=0.0),
            prefill_s=max((state.timing.prefill_s for state in self._states.values()), default=0.0),
            decode_s=max((state.timing.decode_s for state in self._states.values()), default=0.0),
            total_s=time.monotonic() - self._started_s,
        )

    def mean_logprobs(self, prompt_idx: int) -> list[float]:
        """Log-probability a token of each output of a prompt that has ended."""
        return [reader.mean_logprob for reader in self._states[prompt_idx].readers]

    def begin(self) -> None:
        """Send the first requests. Raises not_ready."""
        while self._waiting and (not self._live or self._num_live + self._plan.num_each <= MAX_IN_FLIGHT):
            self._submit(self._waiting.popleft())

    async def next(self) -> list[OutputPiece]:
        """Wait for the next pieces; an empty list means that every output has ended. Raises what ended the request.

        What came before a failure is handed out first.
        """
        while self._failure is None:
            self.begin()
            if not self._live:
                return []
            pieces: list[OutputPiece] = []
            try:
                for output in await self._in_flight.take(self._deadline):
                    pieces += self._read(output)
            except ServingError as error:
                if not pieces:
                    raise
                self._failure = error
            if pieces:
                return pieces
        raise self._failure

    @property
    def served_by(self) -> ModelInfo | None:
        """What the replicas that serve this say of themselves, None before any had a request."""
        return self._in_flight.served_by

    @property
    def _num_live(self) -> int:
        return sum(not share.state.readers[index].is_done for share in self._live.values() for index in share.indices)

    def _is_finished(self, prompt_idx: int) -> bool:
        """Say whether all outputs of a prompt had ended before this began."""
        first = prompt_idx * self._plan.num_each
        return all((begun := self._begun.get(first + place)) is not None and begun.reader.is_done for place in range(self._plan.num_each))

    def _submit(self, prompt_idx: int) -> None:
        plan, prompt = self._plan, self._plan.prompts[prompt_idx]
        first = prompt_idx * plan.num_each
        before = [self._begun.get(first + place) for place in range(plan.num_each)]
        state = _PromptState(
            idx=prompt_idx,
            readers=[new_reader(plan, self._tokenizer, prompt) if begun is None else begun.reader for begun in before],
            has_begun=[begun is not None for begun in before],
            last_piece_s=[None if begun is None else time.monotonic() for begun in before],
        )
        self._states[prompt_idx] = state
        for request, indices in self._requests(prompt_idx, before):
            self._live[request.request_id] = _EngineShare(state, indices)
            self._in_flight.submit(request)

    def _requests(self, prompt_idx: int, before: Sequence[BegunOutput | None]) -> Iterator[tuple[GenerationRequest, range]]:
        """Yield what engines are to do for a prompt, and for which of its outputs: one request, or one an output left of it."""
        plan = self._plan
        params = replace(plan.params, seed=self._seeds[prompt_idx])
        whole = GenerationRequest(
            request_id=self._request_ids.make(),
            prompt_token_ids=plan.prompts[prompt_idx].token_ids,
            params=params,
            n=plan.num_each,
            priority=plan.priority,
            cache_salt=plan.cache_salt,
        )
        if not any(before):
            yield whole, range(plan.num_each)
            return
        for index, begun in enumerate(before):
            if begun is None:
                yield replace(whole, request_id=self._request_ids.make(), n=1, index=index), range(index, index + 1)
            elif not begun.reader.is_done:
                rest = replace(params, prompt_logprobs=None)
                request = replace(
                    whole, request_id=self._request_ids.make(), params=rest, n=1, index=index, output_token_ids=begun.token_ids
                )
                yield request, range(index, index + 1)

    def _read(self, output: EngineOutput) -> Sequence[OutputPiece]:
        assert isinstance(output, SequenceOutput), "a generation request was answered by a vector"
        share = self._live.get(output.request_id)
        if share is None:
            return ()
        state = share.state
        try:
            raise_if_failed(output)
        except ServingError as error:
            if not output.token_ids:
                raise
            # It met with tokens on the way, which were good.
            self._failure = error
            output = replace(output, error=None, finish_reason=None)
        reader = state.readers[output.index]
        if reader.is_done:
            return ()
        self._note(state, output)
        piece = reader.read(output)
        self._num_completion_tokens += len(piece.token_ids)
        if share.is_done:
            del self._live[output.request_id]
            # After a stop text the engine does not know yet that it may rest.
            self._in_flight.abort(output.request_id)
        is_first = not state.has_begun[output.index]
        state.has_begun[output.index] = True
        if is_first:
            piece = self._with_echo(state, piece)
        return (
            OutputPiece(prompt_idx=state.idx, index=output.index, piece=piece, prompt_logprobs=state.prompt_logprobs if is_first else None),
        )

    def _note(self, state: _PromptState, output: SequenceOutput) -> None:
        """Take in what the first and last outputs say beside tokens."""
        is_edge = output.seed is not None or output.finish_reason is not None
        if is_edge and output.index == 0 and state.idx * self._plan.num_each not in self._begun:
            # The siblings of sequence 0 share its prompt; counting them would count it again, and so would what had begun.
            self._num_cached_tokens += max(output.num_cached_tokens - state.num_cached_tokens, 0)
            state.num_cached_tokens = max(state.num_cached_tokens, output.num_cached_tokens)
        if is_edge:
            state.timing = Timing(
                queue_s=max(state.timing.queue_s, output.queue_s),
                prefill_s=max(state.timing.prefill_s, output.prefill_s),
                decode_s=max(state.timing.decode_s, output.decode_s),
            )
        if output.prompt_logprobs is not None:
            self._note_prompt_logprobs(state, output)
        if self._times is not None and output.token_ids:
            now_s = time.monotonic()
            before_s = state.last_piece_s[output.index]
            if before_s is None:
                self._times.first_token(now_s - self._started_s)
            else:
                self._times.next_tokens(now_s - before_s, len(output.token_ids))
            state.last_piece_s[output.index] = now_s

    def _note_prompt_logprobs(self, state: _PromptState, output: SequenceOutput) -> None:
        assert output.prompt_logprobs is not None
        plan, prompt = self._plan, self._plan.prompts[state.idx]
        if plan.num_prompt_top is not None:
            state.prompt_logprobs = prompt_positions(
                self._tokenizer, prompt.token_ids, prompt.offsets, output.prompt_logprobs, num_top=plan.num_prompt_top
            )
        if plan.echo and plan.num_top is not None:
            state.echoed = prompt_positions(self._tokenizer, prompt.token_ids, prompt.offsets, output.prompt_logprobs, num_top=plan.num_top)

    def _with_echo(self, state: _PromptState, piece: Piece) -> Piece:
        if not self._plan.echo:
            return piece
        return Piece(
            text=self._plan.prompts[state.idx].text + piece.text,
            token_ids=piece.token_ids,
            logprobs=None if piece.logprobs is None else (*(state.echoed or ()), *piece.logprobs),
            finish_reason=piece.finish_reason,
            stop_text=piece.stop_text,
            stop_token_id=piece.stop_token_id,
        )
