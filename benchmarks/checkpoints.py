"""Random-weight checkpoints of real sizes, in Hugging Face layout, for benchmarks that have no model hub.

Speed does not depend on the weights' values; the tokenizer is a byte-level BPE of the right size whose tokens are made
up, so that every id decodes to visible text. Nothing here is for quality.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

GPT2_124M = {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}
GPT2_4M = {"n_embd": 256, "n_layer": 4, "n_head": 4, "n_positions": 1024, "vocab_size": 2048}
"""Small, and yet slow enough that a stream lasts for seconds."""
GPT2_TINY = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 1024, "vocab_size": 512}


def write_gpt2(directory: Path, shape: dict[str, int], *, seed: int = 0) -> Path:
    """Write a GPT-2 of ``shape`` (``n_embd``, ``n_layer``, ``n_head``, ``n_positions``, ``vocab_size``) in float32.

    The file is about 4 bytes a parameter: 498 MB for ``GPT2_124M``. Returns ``directory``.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}
    vocab_size = shape["vocab_size"]
    config |= shape | {"bos_token_id": vocab_size - 1, "eos_token_id": vocab_size - 1, "tie_word_embeddings": True, "dtype": "float32"}
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    save_file(_gpt2_weights(shape, seed), directory / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(directory, vocab_size)
    return directory


def _gpt2_weights(shape: dict[str, int], seed: int) -> dict[str, torch.Tensor]:
    """GPT-2's tensors under its own names; linear weights are Conv1D's ``[in, out]``."""
    generator = torch.Generator().manual_seed(seed)
    width = shape["n_embd"]

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator) * 0.02

    weights = {"transformer.wte.weight": normal(shape["vocab_size"], width), "transformer.wpe.weight": normal(shape["n_positions"], width)}
    for layer in range(shape["n_layer"]):
        prefix = f"transformer.h.{layer}."
        for name, fan_in, fan_out in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, 4 * width),
            ("mlp.c_proj", 4 * width, width),
        ):
            weights[f"{prefix}{name}.weight"] = normal(fan_in, fan_out)
            weights[f"{prefix}{name}.bias"] = torch.zeros(fan_out)
        for name in ("ln_1", "ln_2"):
            weights[f"{prefix}{name}.weight"] = torch.ones(width)
            weights[f"{prefix}{name}.bias"] = torch.zeros(width)
    weights["transformer.ln_f.weight"] = torch.ones(width)
    weights["transformer.ln_f.bias"] = torch.zeros(width)
    return weights


def write_tokenizer(directory: Path, vocab_size: int) -> None:
    """Write a byte-level BPE with 256 bytes, made-up words up to ``vocab_size`` and an end-of-text token last."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [f"\u0120w{i}" for i in range(vocab_size - 1 - len(alphabet))]
    vocab = {token: i for i, token in enumerate([*alphabet, *words])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "GPT2TokenizerFast", "eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
