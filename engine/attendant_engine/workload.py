"""How much work waits, tenant by tenant, in tokens: what the bound of the queue and the estimate of a wait are made of."""

from collections.abc import Iterator
from typing import NamedTuple

from attendant_engine.types import EngineRequest, GenerationRequest


class Work(NamedTuple):
    """Sequences, the tokens that they have yet to read, and the most that they may yet generate."""

    num_sequences: int = 0
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0

    @property
    def num_tokens(self) -> int:
        """All tokens, as the bound of the queue counts them."""
        return self.num_prompt_tokens + self.num_output_tokens

    def plus(self, other: "Work", sign: int = 1) -> "Work":
        """Return the sum, or with ``sign`` -1 the difference."""
        return Work(
            self.num_sequences + sign * other.num_sequences,
            self.num_prompt_tokens + sign * other.num_prompt_tokens,
            self.num_output_tokens + sign * other.num_output_tokens,
        )


NO_WORK = Work()


def work_of(request: EngineRequest, max_model_len: int) -> Work:
    """Return what a request that nobody has looked at yet asks for; never negative, whatever it says."""
    num_tokens = len(request.prompt_token_ids)
    if not isinstance(request, GenerationRequest):
        return Work(1, num_tokens, 0)
    num_tokens += len(request.output_token_ids)
    num_each = max(0, min(request.params.max_tokens - len(request.output_token_ids), max_model_len - num_tokens))
    return Work(max(request.n, 1), num_tokens, max(request.n, 1) * num_each)


class Workload:
    """The work that waits."""

    def __init__(self) -> None:
        self._work: dict[str, Work] = {}
        self._weights: dict[str, float] = {}
        self.total = NO_WORK

    def add(self, tenant: str, weight: float, work: Work) -> None:
        """Count work that has come."""
        self._work[tenant] = self.of(tenant).plus(work)
        self._weights[tenant] = weight
        self.total = self.total.plus(work)

    def remove(self, tenant: str, work: Work) -> None:
        """Count work that has left, which was added before."""
        left = self.of(tenant).plus(work, -1)
        self.total = self.total.plus(work, -1)
        if left.num_sequences:
            self._work[tenant] = left
        else:
            assert left == NO_WORK, "work is left of nobody"
            del self._work[tenant], self._weights[tenant]

    def of(self, tenant: str) -> Work:
        """Return what waits of one tenant."""
        return self._work.get(tenant, NO_WORK)

    def others(self, tenant: str) -> Iterator[tuple[float, Work]]:
        """Yield the weight and the work of every other tenant that waits."""
        return ((self._weights[other], work) for other, work in self._work.items() if other != tenant)

    def copy(self) -> "Workload":
        """Return one that changes on its own."""
        copied = Workload()
        copied._work, copied._weights, copied.total = dict(self._work), dict(self._weights), self.total
        return copied
