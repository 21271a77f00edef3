"""How fast this engine computes, as its own steps say: what a prompt token costs, what a decode step, what comes of a request.

Exponentially weighted means, so that they follow the batch and the machine's other work within some tens of steps.
"""

from dataclasses import dataclass

_NEW = 0.1  # least weight of a new value in a mean; the first ones weigh as in a plain one
_MIN_PREFILL = 8  # prompt tokens of a step that say something about the cost of one


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds a computed prompt token, a step that only decodes, and any step in which something decodes.

    ``computed_share`` is the part of prompts that no cache had, ``output_tokens`` what a finished output has,
    ``full_batch`` how many sequences run while others wait. All None before there is a measurement.
    """

    prompt_token_s: float | None = None
    decode_step_s: float | None = None
    step_s: float | None = None
    computed_share: float | None = None
    output_tokens: float | None = None
    full_batch: float | None = None


class PaceMeter:
    """Learns a ``Pace`` step by step."""

    def __init__(self) -> None:
        self._prompt_token_s = _Mean()
        self._decode_step_s = _Mean()
        self._step_s = _Mean()
        self._computed_share = _Mean()
        self._output_tokens = _Mean()
        self._full_batch = _Mean()

    @property
    def pace(self) -> Pace:
        """What was learnt so far."""
        return Pace(
            prompt_token_s=self._prompt_token_s.value,
            decode_step_s=self._decode_step_s.value,
            step_s=self._step_s.value,
            computed_share=self._computed_share.value,
            output_tokens=self._output_tokens.value,
            full_batch=self._full_batch.value,
        )

    def note_step(self, step_s: float, *, num_decodes: int, num_prefilled: int) -> None:
        """Take in a step that decoded ``num_decodes`` sequences and computed ``num_prefilled`` tokens of prompts beside them."""
        if num_decodes:
            self._step_s.add(step_s)
        if num_decodes and not num_prefilled:
            self._decode_step_s.add(step_s)
        if num_prefilled >= _MIN_PREFILL:
            for_decodes_s = min(self._decode_step_s.value or 0.0, step_s / 2) if num_decodes else 0.0
            self._prompt_token_s.add((step_s - for_decodes_s) / num_prefilled)

    def note_line(self, num_running: int, num_waiting: int) -> None:
        """Take in how many sequences ran and waited after a step."""
        if num_running and num_waiting:
            self._full_batch.add(num_running)

    def note_prompts(self, num_computed: int, num_cached: int) -> None:
        """Take in how many tokens of prompts had to be computed and how many were in the cache."""
        if num_computed + num_cached >= _MIN_PREFILL:
            self._computed_share.add(num_computed / (num_computed + num_cached))

    def note_output(self, num_tokens: int) -> None:
        """Take in the length of an output that ended by itself or at its limit."""
        self._output_tokens.add(num_tokens)


class _Mean:
    __slots__ = ("_num_values", "value")

    def __init__(self) -> None:
        self._num_values = 0
        self.value: float | None = None

    def add(self, value: float) -> None:
        self._num_values += 1
        self.value = value if self.value is None else self.value + max(_NEW, 1 / self._num_values) * (value - self.value)
