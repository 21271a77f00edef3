"""BERT equals transformers on random tiny configurations: hidden states and the logits of a classifier."""

import random
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

from tests.engine.models.checkpoints import BACKENDS, randomize, save_and_load
from tests.engine.models.steps import packed_inputs

NUM_CONFIGS = 20
LENGTHS = (13, 1, 29, 7)
TOLERANCE = 1e-4


def random_config(seed: int) -> BertConfig:
    rng = random.Random(seed)
    heads = rng.choice([1, 2, 3, 4])
    return BertConfig(
        vocab_size=rng.randint(50, 130),
        hidden_size=heads * rng.choice([4, 5, 8, 16]),
        num_hidden_layers=rng.randint(1, 3),
        num_attention_heads=heads,
        intermediate_size=rng.choice([31, 64]),
        hidden_act=rng.choice(["gelu", "gelu_new", "relu", "silu"]),
        max_position_embeddings=48,
        type_vocab_size=rng.choice([1, 2, 3]),
        layer_norm_eps=rng.choice([1e-12, 1e-5]),
        initializer_range=0.1,
        id2label={label_id: f"label {label_id}" for label_id in range(rng.choice([2, 3, 5]))},
    )


def random_texts(vocab_size: int, num_segments: int, rng: random.Random) -> tuple[list[list[int]], list[list[int]]]:
    texts = [[rng.randrange(vocab_size) for _ in range(length)] for length in LENGTHS]
    return texts, [[rng.randrange(num_segments) for _ in text] for text in texts]


@pytest.mark.parametrize("seed", range(NUM_CONFIGS))
@pytest.mark.parametrize("backend", BACKENDS)
@torch.inference_mode()
def test_a_random_encoder_equals_transformers(seed: int, backend: str, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    theirs = BertModel(random_config(seed))
    randomize(theirs, seed)
    ours = save_and_load(theirs, tmp_path, backend=backend)
    texts, segments = random_texts(ours.config.vocab_size, ours.config.type_vocab_size, random.Random(seed))
    for kinds in (segments, None):
        hidden = ours.trunk(packed_inputs(texts, is_causal=False, segments=kinds))
        first = 0
        for index, text in enumerate(texts):
            given = None if kinds is None else torch.tensor([kinds[index]])
            expected = theirs(torch.tensor([text]), token_type_ids=given).last_hidden_state[0]
            torch.testing.assert_close(hidden[first : first + len(text)], expected, atol=TOLERANCE, rtol=0)
            first += len(text)


@pytest.mark.parametrize("seed", range(NUM_CONFIGS))
@pytest.mark.parametrize("backend", BACKENDS)
@torch.inference_mode()
def test_a_random_classifier_equals_transformers(seed: int, backend: str, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    theirs = BertForSequenceClassification(random_config(seed))
    randomize(theirs, seed)
    ours = save_and_load(theirs, tmp_path, backend=backend)
    assert ours.classification_head is not None
    texts, segments = random_texts(ours.config.vocab_size, ours.config.type_vocab_size, random.Random(seed))
    inputs = packed_inputs(texts, is_causal=False, segments=segments)
    logits = ours.classification_head(ours.trunk(inputs), inputs.attention.cu_seqlens_q)
    expected = [
        theirs(torch.tensor([text]), token_type_ids=torch.tensor([kinds])).logits[0] for text, kinds in zip(texts, segments, strict=True)
    ]
    torch.testing.assert_close(logits, torch.stack(expected), atol=TOLERANCE, rtol=0)
