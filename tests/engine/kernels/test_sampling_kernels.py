"""The sampling kernel keeps and draws exactly what the definition in double precision does; a row is its own in any batch."""

import math

import numpy as np
import pytest
import torch

from attendant_engine.decoding.logprobs import describe_in_torch
from attendant_engine.kernels.cpu.library import KernelLibrary
from attendant_engine.kernels.cpu.sampling import Draws, SamplingKernels

VOCABULARIES = (1, 2, 15, 16, 17, 100, 1000, 1024, 1025, 5003, 50257)


def _draws(uniform: list[float], temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> Draws:
    num_rows = len(uniform)
    return Draws(
        temperature=np.full(num_rows, temperature, dtype=np.float32),
        top_k=np.full(num_rows, top_k, dtype=np.int32),
        top_p=np.full(num_rows, top_p, dtype=np.float32),
        min_p=np.full(num_rows, min_p, dtype=np.float32),
        uniform=np.array(uniform, dtype=np.float64),
    )


def _probabilities(logits: torch.Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> torch.Tensor:
    """``[V]`` float64: min-p on the full distribution, then top-k, then top-p on what is left, each keeping ties."""
    divided = (logits / torch.tensor(temperature, dtype=torch.float32)).double()
    kept = divided.softmax(dim=-1)
    if min_p > 0:
        kept = kept.masked_fill(divided < divided.max() + math.log(np.float32(min_p)), 0.0)
    if 0 < top_k < len(logits):
        kept = kept.masked_fill(divided < divided.topk(top_k).values[-1], 0.0)
    kept = kept / kept.sum()
    if top_p < 1:
        order = kept.sort(descending=True)
        num_needed = int((order.values.cumsum(dim=-1) < np.float32(top_p)).sum())
        least = divided[order.indices[min(num_needed, len(logits) - 1)]]
        kept = kept.masked_fill(divided < least, 0.0)
    return kept / kept.sum()


def _check_against_definition(
    kernels: KernelLibrary, logits: torch.Tensor, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> None:
    """Draw at the middle of each kept token's share, so that one token too many or too few would show in what is drawn."""
    probabilities = _probabilities(logits, temperature, top_k, top_p, min_p)
    middles = probabilities.cumsum(dim=-1) - probabilities / 2
    ids = (probabilities > 2e-6).nonzero().squeeze(-1)
    ids = ids[torch.randperm(len(ids))[:300]]
    uniform = middles[ids].tolist()
    drawn, _ = SamplingKernels(kernels).sample(logits.expand(len(ids), -1), _draws(uniform, temperature, top_k, top_p, min_p))
    assert drawn == ids.tolist()


@pytest.mark.parametrize("vocab_size", VOCABULARIES)
def test_any_mixture_of_truncations_keeps_what_the_definition_keeps(kernels: KernelLibrary, vocab_size: int) -> None:
    for spread in (0.02, 1.0, 4.0):
        logits = torch.randn(vocab_size) * spread
        for top_k in (0, 1, 5, 50, 700, vocab_size, vocab_size + 1):
            for top_p in (1.0, 0.9, 1e-6):
                _check_against_definition(kernels, logits, top_k=top_k, top_p=top_p)
        _check_against_definition(kernels, logits, min_p=0.3)
        _check_against_definition(kernels, logits, min_p=0.01, top_k=30, top_p=0.95)
        _check_against_definition(kernels, logits, temperature=0.3, top_p=0.99)
        _check_against_definition(kernels, logits, temperature=50.0, top_k=40)


@pytest.mark.parametrize("vocab_size", [3, 40, 1500, 20_000])
def test_ties_stay_together(kernels: KernelLibrary, vocab_size: int) -> None:
    for num_values in (1, 9):
        logits = torch.randint(num_values, (vocab_size,)).float() - 4
        logits[logits == -4] = -0.0 if num_values == 9 else -4.0
        for top_k, top_p, min_p in ((1, 1.0, 0.0), (7, 1.0, 0.0), (0, 0.5, 0.0), (100, 0.7, 0.0), (0, 1.0, 0.5), (0, 0.2, 0.01)):
            _check_against_definition(kernels, logits, top_k=top_k, top_p=top_p, min_p=min_p)


@pytest.mark.parametrize("vocab_size", [20, 3000])
def test_masked_tokens_are_never_drawn_and_a_lone_one_always(kernels: KernelLibrary, vocab_size: int) -> None:
    logits = torch.full((vocab_size,), -math.inf)
    logits[vocab_size - 3] = -5.0
    for top_k, top_p, min_p in ((0, 1.0, 0.0), (5, 1.0, 0.0), (0, 0.9, 0.0), (0, 1.0, 0.1), (5, 0.9, 0.1)):
        for uniform in (0.0, 0.5, 1 - 2**-52):
            drawn, are_finite = SamplingKernels(kernels).sample(logits[None], _draws([uniform], 1.0, top_k, top_p, min_p))
            assert drawn == [vocab_size - 3] and are_finite == [False]
    half = torch.randn(vocab_size).masked_fill(torch.rand(vocab_size) < 0.5, -math.inf)
    for top_k, top_p in ((0, 1.0), (5, 1.0), (vocab_size - 1, 1.0), (0, 0.9), (vocab_size - 1, 0.9999)):
        _check_against_definition(kernels, half, top_k=top_k, top_p=top_p)


def test_the_ends_of_the_unit_interval_are_the_first_and_the_last_kept_token(kernels: KernelLibrary) -> None:
    logits = torch.randn(6000)
    logits[:10] = -math.inf
    logits[5000:] = -math.inf
    drawn, _ = SamplingKernels(kernels).sample(logits.expand(2, -1), _draws([0.0, 1 - 2**-52]))
    assert drawn == [10, 4999]


def test_extreme_temperatures_neither_overflow_nor_underflow(kernels: KernelLibrary) -> None:
    logits = torch.randn(2000) * 10
    cold, _ = SamplingKernels(kernels).sample(logits.expand(50, -1), _draws(torch.rand(50).tolist(), temperature=1e-5, top_p=0.9))
    assert set(cold) == {int(logits.argmax())}
    uniform = [(2 * i + 1) / 4000 for i in range(2000)]
    hot, _ = SamplingKernels(kernels).sample(logits.expand(2000, -1), _draws(uniform, temperature=3e38))
    assert hot == list(range(2000))


@pytest.mark.parametrize("vocab_size", VOCABULARIES)
def test_greedy_takes_the_lowest_id_of_the_best_wherever_it_stands(kernels: KernelLibrary, vocab_size: int) -> None:
    logits = torch.randn(20, vocab_size)
    for row, column in enumerate(torch.randint(vocab_size, (20,)).tolist()):
        logits[row, column] = 9.0
        logits[row, torch.randint(column, vocab_size, (3,))] = 9.0
    logits[-1] = -7.0
    for draws in (None, _draws([0.5] * 20, temperature=0.0)):
        token_ids, are_finite = SamplingKernels(kernels).sample(logits, draws)
        assert token_ids == logits.argmax(dim=-1).tolist() and all(are_finite)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_row_that_is_not_finite_is_marked_and_disturbs_no_other(kernels: KernelLibrary, bad: float) -> None:
    for vocab_size in (3, 40, 3000):
        logits = torch.randn(5, vocab_size)
        for draws in (None, _draws([0.4] * 5), _draws([0.4] * 5, 0.7, 5, 0.9), _draws([0.4] * 5, top_p=0.9)):
            healthy, _ = SamplingKernels(kernels).sample(logits, draws)
            for column in (0, vocab_size // 2, vocab_size - 1):
                broken = logits.clone()
                broken[2, column] = bad
                token_ids, are_finite = SamplingKernels(kernels).sample(broken, draws)
                assert are_finite == [True, True, False, True, True] and 0 <= token_ids[2] < vocab_size
                assert token_ids[:2] + token_ids[3:] == healthy[:2] + healthy[3:]


def test_a_row_draws_the_same_alone_and_on_any_number_of_threads(kernels: KernelLibrary) -> None:
    logits, uniform = torch.randn(33, 3001), torch.rand(33).tolist()
    for parameters in ((1.0, 0, 1.0, 0.0), (0.8, 40, 0.9, 0.0), (1.3, 0, 0.95, 0.01)):
        together, _ = SamplingKernels(kernels).sample(logits, _draws(uniform, *parameters))
        for num_threads in (1, 2, 5):
            kernels.set_num_threads(num_threads)
            assert SamplingKernels(kernels).sample(logits, _draws(uniform, *parameters))[0] == together
        for row in range(33):
            alone, _ = SamplingKernels(kernels).sample(logits[row : row + 1], _draws(uniform[row : row + 1], *parameters))
            assert alone == together[row : row + 1]


@pytest.mark.parametrize("vocab_size", VOCABULARIES)
def test_log_probabilities_are_those_of_the_torch_code_in_double_precision(kernels: KernelLibrary, vocab_size: int) -> None:
    num_top = [min(n, vocab_size) for n in (0, 1, 5, 20, 100, 3000)]
    for spread in (0.1, 5.0):
        logits, token_ids = torch.randn(6, vocab_size) * spread, torch.randint(vocab_size, (6,)).tolist()
        rows = SamplingKernels(kernels).logprobs(logits, token_ids, num_top)
        for row, expected in enumerate(describe_in_torch(logits.double(), token_ids, num_top)):
            count = num_top[row]
            assert rows.values[row] == pytest.approx(expected.logprob, rel=1e-6, abs=2e-6)
            assert rows.top_values[row][:count] == pytest.approx([value for _, value in expected.top], rel=1e-6, abs=2e-6)
            # Numbers that rounding makes equal may change places.
            exact = logits[row][rows.top_ids[row][:count]]
            torch.testing.assert_close(exact, logits[row][[i for i, _ in expected.top]], rtol=1e-6, atol=2e-6)
            assert len(set(rows.top_ids[row][:count])) == count
            assert abs(rows.ranks[row] - expected.rank) <= 2


def test_equal_log_probabilities_stand_in_the_order_of_their_ids(kernels: KernelLibrary) -> None:
    logits = torch.randint(5, (4, 2000)).float()
    token_ids = torch.randint(2000, (4,)).tolist()
    rows = SamplingKernels(kernels).logprobs(logits, token_ids, [1, 7, 900, 2000])
    for row, count in enumerate([1, 7, 900, 2000]):
        order = sorted(range(2000), key=lambda i, row=row: (-float(logits[row, i]), i))  # type: ignore[misc]
        assert rows.top_ids[row][:count] == order[:count]
        assert rows.ranks[row] == order.index(token_ids[row]) + 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_log_probabilities_of_a_broken_row_are_not_numbers(kernels: KernelLibrary, bad: float) -> None:
    logits = torch.randn(3, 2000)
    healthy = SamplingKernels(kernels).logprobs(logits, [1, 2, 3], [5, 5, 5])
    logits[1, 1999] = bad
    rows = SamplingKernels(kernels).logprobs(logits, [1, 2, 3], [5, 5, 5])
    assert math.isnan(rows.values[1]) and all(0 <= token_id < 2000 for token_id in rows.top_ids[1])
    for row in (0, 2):
        assert (rows.values[row], rows.ranks[row]) == (healthy.values[row], healthy.ranks[row])
        assert (rows.top_ids[row], rows.top_values[row]) == (healthy.top_ids[row], healthy.top_values[row])
