"""One output as it is written: tokens in, text out, cut at a stop text, with log-probabilities and their places.

Never half a character, never the beginning of what may be a stop text. Each token is judged on its own, so the result
does not depend on how many arrive at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from attendant_engine.tokenizers import Tokenizer
from attendant_engine.types import OutputError, SequenceOutput, TokenLogprobs
from attendant_server.errors import ErrorCode, ServingError
from attendant_server.gateway.results import FinishReason, PositionLogprobs, TokenLogprob
from attendant_server.gateway.stop_texts import StopMatcher


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What some tokens added to an output; ``finish_reason`` is set in the last one."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[PositionLogprobs, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_text: str | None = None
    stop_token_id: int | None = None


class SequenceReader:
    """Reads one sequence of a request.

    ``first_offset`` is where its text begins in the text returned. Stop texts do not count before ``min_tokens``.
    ``num_top`` None leaves log-probabilities out of the pieces; they are summed for ranking all the same.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        prompt_ids: Sequence[int],
        stop_texts: Sequence[str] = (),
        min_tokens: int = 0,
        num_top: int | None = None,
        first_offset: int = 0,
    ) -> None:
        self._tokenizer = tokenizer
        self._decoder = tokenizer.incremental_decoder(prompt_ids=prompt_ids)
        self._matcher = StopMatcher(stop_texts)
        self._min_tokens = min_tokens
        self._num_top = num_top
        self._offset = first_offset
        self._sum_logprob = 0.0
        self.num_tokens = 0
        self.is_done = False

    @property
    def mean_logprob(self) -> float:
        """Log-probability a token, which best_of ranks by; 0 for an output of no tokens."""
        return self._sum_logprob / self.num_tokens if self.num_tokens else 0.0

    def read(self, output: SequenceOutput) -> Piece:
        """Take what the engine said of this sequence; nothing may follow a piece with a finish reason.

        Raises ``ServingError`` when the sequence ended in an error.
        """
        raise_if_failed(output)
        if output.finish_reason is None and output.logprobs is None and not self._matcher.is_needed and self._num_top is None:
            self.num_tokens += len(output.token_ids)
            text = self._decoder.push(output.token_ids)
            self._offset += len(text)
            return Piece(text=text, token_ids=output.token_ids)
        texts: list[str] = []
        positions: list[PositionLogprobs] = []
        num_kept = 0
        stop_text: str | None = None
        for place, token_id in enumerate(output.token_ids):
            num_kept += 1
            self.num_tokens += 1
            if output.logprobs is not None:
                self._note_logprobs(output.logprobs[place], positions)
            is_stop_token = output.stop_token_id is not None and num_kept == len(output.token_ids)
            stop_text = None if is_stop_token else self._show(self._decoder.push((token_id,)), texts)
            if stop_text is not None:
                break
        if stop_text is None and output.finish_reason is not None:
            stop_text = self._show(self._decoder.finish(), texts)
            if stop_text is None:
                texts.append(self._matcher.finish())
        self.is_done = stop_text is not None or output.finish_reason is not None
        return Piece(
            text="".join(texts),
            token_ids=output.token_ids[:num_kept],
            logprobs=None if self._num_top is None else tuple(positions),
            finish_reason=self._finish_reason(output, stop_text),
            stop_text=stop_text,
            stop_token_id=output.stop_token_id if stop_text is None else None,
        )

    def skip(self, token_ids: Sequence[int], *, is_last: bool) -> None:
        """Take in tokens that were read elsewhere, whose text has been shown; ``is_last``: with the end of the sequence."""
        if token_ids:
            self.read(SequenceOutput(request_id="", token_ids=tuple(token_ids)))
        self.is_done = self.is_done or is_last

    def _show(self, text: str, texts: list[str]) -> str | None:
        """Add what may be shown of ``text`` to ``texts``; return the stop text that it completed."""
        self._offset += len(text)
        if self.num_tokens < self._min_tokens:
            texts.append(text)
            return None
        matched = self._matcher.push(text)
        texts.append(matched.text)
        return matched.stop_text

    def _note_logprobs(self, logprobs: TokenLogprobs, positions: list[PositionLogprobs]) -> None:
        self._sum_logprob += logprobs.logprob
        if self._num_top is not None:
            positions.append(position_logprobs(self._tokenizer, logprobs, num_top=self._num_top, text_offset=self._offset))

    @staticmethod
    def _finish_reason(output: SequenceOutput, stop_text: str | None) -> FinishReason | None:
        if stop_text is not None or output.finish_reason == "stop":
            return "stop"
        return "length" if output.finish_reason == "length" else None


def as_raised(error: OutputError) -> ServingError:
    """Return what a request's caller gets for the error that an engine ended it with."""
    return ServingError(cast(ErrorCode, error.code), error.message, param=error.param, retry_after_s=error.retry_after_s)


def raise_if_failed(output: SequenceOutput) -> None:
    """Raise the ``ServingError`` of an output that ended without an answer."""
    if output.error is not None:
        raise as_raised(output.error)
    if output.finish_reason == "abort":
        raise ServingError("cancelled", "the request was cancelled")
    if output.finish_reason == "error":
        raise ServingError("server_error", "the model failed while answering this request")


def position_logprobs(tokenizer: Tokenizer, logprobs: TokenLogprobs, *, num_top: int, text_offset: int) -> PositionLogprobs:
    """Return the engine's log-probabilities with the tokens' text."""
    token_bytes = tokenizer.token_bytes(logprobs.token_id)
    return PositionLogprobs(
        token_id=logprobs.token_id,
        token=token_bytes.decode("utf-8", "replace"),
        token_bytes=token_bytes,
        logprob=logprobs.logprob,
        top=tuple(_token_logprob(tokenizer, token_id, logprob) for token_id, logprob in logprobs.top[:num_top]),
        text_offset=text_offset,
    )


def prompt_positions(
    tokenizer: Tokenizer, token_ids: Sequence[int], offsets: Sequence[int], logprobs: Sequence[TokenLogprobs | None], *, num_top: int
) -> tuple[PositionLogprobs, ...]:
    """Return one entry a prompt token; the first has no log-probability, since nothing predicts it."""
    found: list[PositionLogprobs] = []
    for token_id, offset, position in zip(token_ids, offsets, logprobs, strict=True):
        if position is not None:
            found.append(position_logprobs(tokenizer, position, num_top=num_top, text_offset=offset))
        else:
            token_bytes = tokenizer.token_bytes(token_id)
            found.append(
                PositionLogprobs(
                    token_id=token_id,
                    token=token_bytes.decode("utf-8", "replace"),
                    token_bytes=token_bytes,
                    logprob=None,
                    text_offset=offset,
                )
            )
    return tuple(found)


def _token_logprob(tokenizer: Tokenizer, token_id: int, logprob: float) -> TokenLogprob:
    token_bytes = tokenizer.token_bytes(token_id)
    return TokenLogprob(token_id=token_id, token=token_bytes.decode("utf-8", "replace"), token_bytes=token_bytes, logprob=logprob)
