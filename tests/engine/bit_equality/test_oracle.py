"""The oracle sees one wrong bit in one row, and compares what is the same computation and nothing else."""

import torch

from tests.engine.bit_equality.oracle import BitOracle, fingerprints


def test_one_other_bit_in_a_row_is_a_mismatch_of_that_row() -> None:
    rows = torch.randn(7, 211)
    for dtype, bits in ((torch.float32, torch.int32), (torch.bfloat16, torch.int16)):
        oracle = BitOracle()
        oracle.check("hidden", range(7), rows.to(dtype))
        changed = rows.to(dtype)
        changed.view(bits)[3, 210] ^= 1
        oracle.check("hidden", range(7), changed)
        assert (oracle.num_compared, oracle.mismatches) == (7, {"hidden": 1})


def test_zero_and_minus_zero_are_other_bits_and_two_nans_are_the_same() -> None:
    zeros, nans = torch.zeros(2, 5), torch.full((2, 5), float("nan"))
    assert fingerprints(zeros) != fingerprints(-zeros)
    assert fingerprints(nans)[0] == fingerprints(nans)[1]


def test_a_row_is_compared_with_what_was_seen_under_its_key_alone() -> None:
    oracle = BitOracle()
    oracle.check("hidden", ["a", "b"], torch.randn(2, 8))
    oracle.check("logits", ["a", "b"], torch.randn(2, 8))
    oracle.check("hidden", ["c"], torch.randn(1, 8))
    assert oracle.num_compared == 0
    row = torch.randn(1, 8)
    oracle.check("hidden", ["d", "d"], row.expand(2, 8))
    assert (oracle.num_compared, oracle.mismatches.total()) == (1, 0)
