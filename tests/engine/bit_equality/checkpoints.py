"""Random checkpoints in which every kernel meets tails: no size is a multiple of a panel, and some sums are longer than one."""

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from tests.engine.models.checkpoints import randomize

MAX_POSITIONS = 512
VOCAB_SIZE = 211


def gpt2() -> GPT2LMHeadModel:
    """Tied head, learned positions, heads of 24; an inner sum of 840."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB_SIZE, n_positions=MAX_POSITIONS, n_embd=72, n_layer=2, n_head=3, n_inner=840, bos_token_id=0, eos_token_id=0
        )
    )


def llama() -> LlamaForCausalLM:
    """Six queries on two key/value heads of 16, rotary positions, a gated feed-forward of 200 and a head of its own."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=108,
            intermediate_size=200,
            num_hidden_layers=2,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=MAX_POSITIONS,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def _bert_config() -> BertConfig:
    return BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=80,
        num_hidden_layers=2,
        num_attention_heads=5,
        intermediate_size=168,
        max_position_embeddings=MAX_POSITIONS,
    )


def bert() -> BertModel:
    """Bidirectional, embeds."""
    return BertModel(_bert_config(), add_pooling_layer=False)


def bert_classifier() -> BertForSequenceClassification:
    """The same with three labels."""
    config = _bert_config()
    config.num_labels = 3
    return BertForSequenceClassification(config)


DECODERS: dict[str, Callable[[], PreTrainedModel]] = {"gpt2": gpt2, "llama": llama}
ENCODERS: dict[str, Callable[[], PreTrainedModel]] = {"bert": bert, "bert-classifier": bert_classifier}


def write(name: str, directory: Path, *, seed: int = 0) -> Path:
    """Save the checkpoint ``name`` of ``DECODERS`` or ``ENCODERS`` with weights of ``seed`` in ``directory`` and return that."""
    torch.manual_seed(seed)
    model = (DECODERS | ENCODERS)[name]()
    randomize(model, seed)
    model.train(False)
    model.save_pretrained(directory)
    return directory
