"""The heads and layouts that checkpoints come in: base models, classifiers over decoders, both spellings of names, dtypes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    PreTrainedModel,
)

from attendant_engine.weights.loader import load_model
from tests.engine.models.checkpoints import BACKENDS, CPU, randomize, save_and_load
from tests.engine.models.steps import greedy, packed_inputs

LABELS = {0: "bad", 1: "fair", 2: "good"}
TEXTS = [[5, 6, 7, 8], [9], [10, 11, 12]]


def gpt2_config(**settings: Any) -> GPT2Config:
    return GPT2Config(vocab_size=40, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=1, **settings)


def llama_config(**settings: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        bos_token_id=0,
        eos_token_id=1,
        **settings,
    )


def bert_config(**settings: Any) -> BertConfig:
    return BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        **settings,
    )


def rewrite(directory: Path, rename: Callable[[str], str], more: dict[str, torch.Tensor]) -> None:
    """Save the weights again under other names, with tensors added."""
    path = directory / "model.safetensors"
    tensors = {rename(name): tensor.contiguous() for name, tensor in load_file(path).items()}
    save_file({**tensors, **more}, path)


@pytest.mark.parametrize(
    ("theirs", "is_causal"),
    [(GPT2Model(gpt2_config()), True), (LlamaModel(llama_config()), True), (BertModel(bert_config()), False)],
    ids=["gpt2", "llama", "bert"],
)
@pytest.mark.parametrize("backend", BACKENDS)
@torch.inference_mode()
def test_a_base_model_gives_hidden_states_and_has_no_pooling_of_its_own(
    theirs: PreTrainedModel, is_causal: bool, backend: str, tmp_path: Path
) -> None:
    randomize(theirs, 1)
    ours = save_and_load(theirs, tmp_path, backend=backend)
    hidden = ours.trunk(packed_inputs(TEXTS, is_causal=is_causal))
    expected = torch.cat([theirs(torch.tensor([text])).last_hidden_state[0] for text in TEXTS])
    torch.testing.assert_close(hidden, expected, atol=1e-4, rtol=0)
    assert ours.pooling_head is not None
    assert ours.pooling_head.default_pooling is None
    assert ours.lm_head is None
    assert ours.classification_head is None


@pytest.mark.parametrize(
    "theirs",
    [
        GPT2ForSequenceClassification(gpt2_config(id2label=LABELS, pad_token_id=2)),
        LlamaForSequenceClassification(llama_config(id2label=LABELS, pad_token_id=2)),  # type: ignore[no-untyped-call]
    ],
    ids=["gpt2", "llama"],
)
@pytest.mark.parametrize("backend", BACKENDS)
@torch.inference_mode()
def test_a_classifier_over_a_decoder_scores_its_last_token(theirs: PreTrainedModel, backend: str, tmp_path: Path) -> None:
    randomize(theirs, 2)
    ours = save_and_load(theirs, tmp_path, backend=backend)
    assert ours.classification_head is not None
    inputs = packed_inputs(TEXTS, is_causal=True)
    logits = ours.classification_head(ours.trunk(inputs), inputs.attention.cu_seqlens_q)
    expected = torch.cat([theirs(torch.tensor([text])).logits for text in TEXTS])
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    assert ours.config.labels == ("bad", "fair", "good")
    assert not ours.config.multi_label


@pytest.mark.parametrize(
    ("problem", "num_labels", "is_multi"), [("multi_label_classification", 3, True), (None, 1, True), (None, 2, False)]
)
def test_labels_are_judged_one_by_one_when_the_config_says_so_or_there_is_one(
    problem: str | None, num_labels: int, is_multi: bool, tmp_path: Path
) -> None:
    labels = {label_id: f"l{label_id}" for label_id in range(num_labels)}
    ours = save_and_load(BertForSequenceClassification(bert_config(id2label=labels, problem_type=problem)), tmp_path)
    assert ours.config.multi_label is is_multi
    assert len(ours.config.labels) == num_labels


@pytest.mark.parametrize(
    ("theirs", "prefix"),
    [(GPT2LMHeadModel(gpt2_config()), "transformer."), (LlamaForCausalLM(llama_config()), "model.")],
    ids=["gpt2", "llama"],
)
def test_names_with_and_without_the_base_prefix_and_old_constants_load_alike(theirs: PreTrainedModel, prefix: str, tmp_path: Path) -> None:
    randomize(theirs, 3)
    with_prefix = greedy(save_and_load(theirs, tmp_path), [[3, 4]], 8)
    gpt2_constants = {"h.0.attn.bias": torch.ones(1, 1, 4, 4), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    llama_constants = {"layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    rewrite(tmp_path, lambda name: name.removeprefix(prefix), gpt2_constants if prefix == "transformer." else llama_constants)
    assert greedy(load_model(tmp_path, dtype=torch.float32, device=CPU, attention_backend="torch"), [[3, 4]], 8) == with_prefix


def test_a_tied_head_that_is_stored_as_well_is_not_a_second_copy(tmp_path: Path) -> None:
    theirs = GPT2LMHeadModel(gpt2_config())
    ours = save_and_load(theirs, tmp_path)
    rewrite(tmp_path, lambda name: name, {"lm_head.weight": theirs.lm_head.weight.detach().clone()})
    again = load_model(tmp_path, dtype=torch.float32, device=CPU, attention_backend="torch")
    assert again.num_parameters == ours.num_parameters == theirs.num_parameters()


@torch.inference_mode()
def test_berts_old_names_and_its_other_heads_are_read_past(tmp_path: Path) -> None:
    theirs = BertModel(bert_config())
    randomize(theirs, 4)
    ours = save_and_load(theirs, tmp_path)
    inputs = packed_inputs(TEXTS, is_causal=False)
    expected = ours.trunk(inputs)

    def old_name(name: str) -> str:
        return "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    more = {"bert.embeddings.position_ids": torch.arange(32)[None], "cls.predictions.bias": torch.zeros(40)}
    rewrite(tmp_path, old_name, more)
    again = load_model(tmp_path, dtype=torch.float32, device=CPU, attention_backend="torch")
    assert torch.equal(again.trunk(inputs), expected)


def test_a_sentence_transformer_over_a_language_model_is_an_embedding_model(tmp_path: Path) -> None:
    theirs = BertForMaskedLM(bert_config())
    theirs.save_pretrained(tmp_path)
    modules = [
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "cls"}))
    ours = load_model(tmp_path, dtype=torch.float32, device=CPU, attention_backend="torch")
    assert ours.config.head == "embedding"
    assert ours.pooling_head is not None
    assert (ours.pooling_head.default_pooling, ours.pooling_head.default_normalize) == ("cls", False)


@pytest.mark.parametrize("theirs", [GPT2LMHeadModel(gpt2_config()), LlamaForCausalLM(llama_config())], ids=["gpt2", "llama"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_half_precision_is_near_float32_and_head_logits_are_float32(theirs: PreTrainedModel, dtype: torch.dtype, tmp_path: Path) -> None:
    exact = save_and_load(theirs, tmp_path)
    half = load_model(tmp_path, dtype=dtype, device=CPU, attention_backend="torch")
    assert exact.lm_head is not None
    assert half.lm_head is not None
    inputs = packed_inputs(TEXTS, is_causal=True)
    hidden = half.trunk(inputs)
    assert hidden.dtype == dtype
    logits = half.lm_head(hidden)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, exact.lm_head(exact.trunk(inputs)), atol=0.05, rtol=0.05)


def test_half_precision_weights_widen_to_what_is_asked(tmp_path: Path) -> None:
    theirs = LlamaForCausalLM(llama_config()).bfloat16()
    ours = save_and_load(theirs, tmp_path)
    assert ours.config.checkpoint_dtype == "bfloat16"
    assert ours.dtype == torch.float32
    assert ours.load_stats.weight_bytes == 4 * ours.num_parameters
