"""Heads over packed hidden states, against the formulas and with company in the batch."""

import pytest
import torch

from attendant_engine.heads.classification import LastTokenClassification, PoolerClassification
from attendant_engine.heads.language_model import LanguageModel, TiedLanguageModel
from attendant_engine.heads.pooling import Pooling
from attendant_engine.layers.embeddings import Embedding
from attendant_engine.types import PoolingMode

STARTS = torch.tensor([0, 3, 4, 9], dtype=torch.int32)


def hidden_states(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(9, 6, generator=torch.Generator().manual_seed(0)).to(dtype)


def fill(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_language_model_head_gives_float32_logits_tied_or_not(dtype: torch.dtype) -> None:
    table = Embedding(11, 6).to(dtype)
    fill(table)
    own = LanguageModel(6, 11).to(dtype)
    own.lm_head.weight.copy_(table.weight)
    hidden = hidden_states(dtype)
    expected = (hidden @ table.weight.T).float()
    for head in (own, TiedLanguageModel(table)):
        logits = head(hidden)
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("mode", ["mean", "cls", "last"])
@pytest.mark.parametrize("is_normalized", [False, True])
def test_pooling_is_its_formula_for_every_sequence_of_a_batch(mode: PoolingMode, is_normalized: bool) -> None:
    hidden = hidden_states()
    pooled = Pooling(None, False)(hidden, STARTS, (mode,) * 3, (is_normalized,) * 3)
    for vector, rows in zip(pooled, torch.tensor_split(hidden, (3, 4)), strict=True):
        expected = {"mean": rows.sum(0) / len(rows), "cls": rows[0], "last": rows[-1]}[mode]
        torch.testing.assert_close(vector, expected / expected.norm() if is_normalized else expected)


def test_sequences_of_one_batch_are_pooled_each_in_its_own_way_as_if_alone() -> None:
    hidden, pooling = hidden_states(), Pooling("mean", True)
    modes: tuple[PoolingMode, ...] = ("last", "cls", "mean")
    flags = (True, False, False)
    together = pooling(hidden, STARTS, modes, flags)
    for index, rows in enumerate(torch.tensor_split(hidden, (3, 4))):
        starts = torch.tensor([0, len(rows)], dtype=torch.int32)
        assert torch.equal(together[index], pooling(rows, starts, modes[index : index + 1], flags[index : index + 1])[0])
    assert (pooling.default_pooling, pooling.default_normalize) == ("mean", True)


def test_pooling_sums_in_float32() -> None:
    hidden = torch.full((3000, 2), 1.01).bfloat16()
    starts = torch.tensor([0, 3000], dtype=torch.int32)
    pooled = Pooling("mean", False)(hidden, starts, ("mean",), (False,))
    torch.testing.assert_close(pooled, hidden[:1].float())


def test_a_pooler_classifier_reads_each_first_token() -> None:
    head = PoolerClassification(6, 4)
    fill(head)
    hidden = hidden_states()
    first = hidden[[0, 3, 4]]
    assert head.pooler.dense.bias is not None
    assert head.classifier.bias is not None
    pooled = torch.tanh(first @ head.pooler.dense.weight.T + head.pooler.dense.bias)
    torch.testing.assert_close(head(hidden, STARTS), pooled @ head.classifier.weight.T + head.classifier.bias)


def test_a_last_token_classifier_reads_each_last_token() -> None:
    head = LastTokenClassification(6, 4)
    fill(head)
    hidden = hidden_states()
    torch.testing.assert_close(head(hidden, STARTS), hidden[[2, 3, 8]] @ head.score.weight.T)
