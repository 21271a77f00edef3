"""GPT-2 and Llama equal transformers on random tiny configurations: hidden states, logits, and greedy tokens through the cache."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from tests.engine.models.checkpoints import BACKENDS, randomize, save_and_load
from tests.engine.models.steps import greedy, packed_inputs

NUM_CONFIGS = 20
MAX_POSITIONS = 96
LENGTHS = (13, 2, 29, 7)
TOLERANCE = 1e-4


def random_gpt2(seed: int) -> GPT2LMHeadModel:
    rng = random.Random(seed)
    heads = rng.choice([1, 2, 3, 4])
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=rng.randint(50, 130),
            n_positions=MAX_POSITIONS,
            n_embd=heads * rng.choice([4, 5, 8, 16]),
            n_layer=rng.randint(1, 3),
            n_head=heads,
            n_inner=rng.choice([None, 31, 64]),
            activation_function=rng.choice(["gelu_new", "gelu", "relu", "silu"]),
            layer_norm_epsilon=rng.choice([1e-5, 1e-3]),
            scale_attn_weights=rng.random() < 0.8,
            scale_attn_by_inverse_layer_idx=rng.random() < 0.3,
            tie_word_embeddings=rng.random() < 0.6,
            initializer_range=0.1,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def random_llama(seed: int) -> LlamaForCausalLM:
    rng = random.Random(seed)
    kv_heads = rng.choice([1, 2, 3])
    heads = kv_heads * rng.choice([1, 2, 4])
    head_dim = rng.choice([4, 6, 8, 16])
    rope = rng.choice(
        [
            {"rope_type": "default", "rope_theta": 10000.0},
            {"rope_type": "default", "rope_theta": 500.0},
            {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.5},
            {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        ]
    )
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=rng.randint(50, 130),
            hidden_size=rng.choice([heads * head_dim, 2 * heads * head_dim]),
            intermediate_size=rng.choice([33, 64]),
            num_hidden_layers=rng.randint(1, 3),
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            hidden_act=rng.choice(["silu", "gelu"]),
            max_position_embeddings=MAX_POSITIONS,
            rms_norm_eps=rng.choice([1e-6, 1e-5]),
            rope_parameters=rope,
            attention_bias=rng.random() < 0.4,
            mlp_bias=rng.random() < 0.4,
            tie_word_embeddings=rng.random() < 0.5,
            initializer_range=0.1,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=None,
        )
    )


@pytest.mark.parametrize("seed", range(NUM_CONFIGS))
@pytest.mark.parametrize("make", [random_gpt2, random_llama])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_random_decoder_equals_transformers(make: Callable[[int], PreTrainedModel], seed: int, backend: str, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    theirs = make(seed)
    check_decoder(theirs, seed, tmp_path, backend)


@torch.inference_mode()
def check_decoder(theirs: PreTrainedModel, seed: int, directory: Path, backend: str) -> None:
    randomize(theirs, seed)
    ours = save_and_load(theirs, directory, backend=backend)
    assert ours.lm_head is not None
    rng = random.Random(seed)
    prompts = [[rng.randrange(ours.config.vocab_size) for _ in range(length)] for length in LENGTHS]

    hidden = ours.trunk(packed_inputs(prompts, is_causal=True))
    logits = ours.lm_head(hidden)
    first = 0
    for prompt in prompts:
        rows = slice(first, first + len(prompt))
        expected = theirs(torch.tensor([prompt]), output_hidden_states=True)
        torch.testing.assert_close(hidden[rows], expected.hidden_states[-1][0], atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(logits[rows], expected.logits[0], atol=TOLERANCE, rtol=0)
        first += len(prompt)

    # Given our own tokens, transformers would choose each next one: so its greedy run is this one.
    for prompt, output in zip(prompts, greedy(ours, prompts, 64), strict=True):
        chosen = theirs(torch.tensor([prompt + output[:-1]])).logits[0].argmax(-1)
        assert output == chosen[len(prompt) - 1 :].tolist()
