"""How fast this engine computes, as its own steps say: what a prompt token costs, what a decode step, what comes of a request.

Exponentially weighted means, so that they follow the batch and the machine's other work within some tens of steps.
"""

from dataclasses import dataclass

_NEW = 0.1  # least weight of a new value in a mean; the first ones weigh as in a plain one
_MIN_PREFILL = 8  # prompt tokens of a step that say something about the cost of one


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds a computed prompt token, and a step that only decodes: ``decode_base_s`` and ``decode_each_s`` a sequence.

    ``computed_share`` is the part of prompts that no cache had, ``output_tokens`` what a finished output has,
    ``full_batch`` how many sequences run while others wait. All None before there is a measurement.
    """

    prompt_token_s: float | None = None
    decode_base_s: float | None = None
    decode_each_s: float = 0.0
    computed_share: float | None = None
    output_tokens: float | None = None
    full_batch: float | None = None

    def decode_step_s(self, num_sequences: float) -> float | None:
        """Return the seconds of a step that decodes so many sequences and nothing else."""
        return None if self.decode_base_s is None else self.decode_base_s + self.decode_each_s * num_sequences


class PaceMeter:
    """Learns a ``Pace`` step by step."""

    def __init__(self) -> None:
        self._prompt_token_s = _Mean()
        self._decode = _Line()
        self._computed_share = _Mean()
        self._output_tokens = _Mean()
        self._full_batch = _Mean()

    @property
    def pace(self) -> Pace:
        """What was learnt so far."""
        decode_base_s, decode_each_s = self._decode.fit()
        return Pace(
            prompt_token_s=self._prompt_token_s.value,
            decode_base_s=decode_base_s,
            decode_each_s=decode_each_s,
            computed_share=self._computed_share.value,
            output_tokens=self._output_tokens.value,
            full_batch=self._full_batch.value,
        )

    def note_step(self, step_s: float, *, num_decodes: int, num_prefilled: int) -> None:
        """Take in a step that decoded ``num_decodes`` sequences and computed ``num_prefilled`` tokens of prompts beside them."""
        if num_decodes and not num_prefilled:
            self._decode.add(num_decodes, step_s)
        if num_prefilled >= _MIN_PREFILL:
            base_s, each_s = self._decode.fit()
            for_decodes_s = min((base_s or 0.0) + each_s * num_decodes, step_s / 2) if num_decodes else 0.0
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


class _Line:
    """A straight line through points, by least squares; older ones fade."""

    __slots__ = ("_sum", "_sum_x", "_sum_xx", "_sum_xy", "_sum_y")

    def __init__(self) -> None:
        self._sum = self._sum_x = self._sum_y = self._sum_xx = self._sum_xy = 0.0

    def add(self, x: float, y: float) -> None:
        keep = 1 - _NEW / 4  # a slope takes more points than a mean
        self._sum = keep * self._sum + 1
        self._sum_x = keep * self._sum_x + x
        self._sum_y = keep * self._sum_y + y
        self._sum_xx = keep * self._sum_xx + x * x
        self._sum_xy = keep * self._sum_xy + x * y

    def fit(self) -> tuple[float | None, float]:
        """Return the line's value at 0, None without points, and its slope; neither is negative, and one x has no slope."""
        if not self._sum:
            return None, 0.0
        mean_x, mean_y = self._sum_x / self._sum, self._sum_y / self._sum
        spread = self._sum_xx / self._sum - mean_x * mean_x
        slope = (self._sum_xy / self._sum - mean_x * mean_y) / spread if spread > 1e-6 else 0.0
        slope = min(max(slope, 0.0), mean_y / mean_x)
        return mean_y - slope * mean_x, slope
