"""Tiny random checkpoints whose heads two ranks can share, saved by transformers itself."""

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from tests.engine.models.checkpoints import randomize

VOCAB_SIZE = 97
MAX_POSITIONS = 192


def gpt2() -> GPT2LMHeadModel:
    """Four heads of 12; an inner sum of 140, of which a rank has 70."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCAB_SIZE, n_positions=MAX_POSITIONS, n_embd=48, n_layer=2, n_head=4, n_inner=140, bos_token_id=0, eos_token_id=0
        )
    )


def llama() -> LlamaForCausalLM:
    """Four queries on two key/value heads of 16, and a head of its own."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=40,
            intermediate_size=108,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            max_position_embeddings=MAX_POSITIONS,
            attention_bias=True,
            tie_word_embeddings=False,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def bert() -> BertForSequenceClassification:
    """Two heads, three labels."""
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=72,
            max_position_embeddings=MAX_POSITIONS,
            num_labels=3,
        )
    )


FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {"gpt2": gpt2, "llama": llama, "bert": bert}


def write(name: str, directory: Path) -> Path:
    """Save the checkpoint ``name`` of ``FAMILIES`` in ``directory`` and return that."""
    torch.manual_seed(0)
    model = FAMILIES[name]()
    randomize(model, 0)
    model.train(False)
    model.save_pretrained(directory)
    return directory
