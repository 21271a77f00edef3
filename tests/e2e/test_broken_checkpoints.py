"""A broken checkpoint is refused before anything is served, in one sentence that names the file or tensor and the way out."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from attendant_engine.config import EngineConfig
from attendant_engine.engine import load_engine
from attendant_engine.errors import CheckpointError
from attendant_engine.tokenizers.tokenizer import Tokenizer
from tests.e2e import checkpoints

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def load(path: Path, dtype: Literal["float32", "float16"] = "float32") -> None:
    """Load all of a checkpoint, as a server does."""
    load_engine(path, "broken", EngineConfig(device="cpu", dtype=dtype, kv_cache_memory_bytes=2**20))
    Tokenizer.load(path)


def _set_config(path: Path, **values: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | values))


def _set_weights(path: Path, change: Callable[[checkpoints.Weights], Any]) -> None:
    weights = {name: tensor.clone() for name, tensor in load_file(path / WEIGHTS).items()}
    change(weights)
    save_file(weights, path / WEIGHTS)


def _set_tensor(path: Path, name: str, tensor: torch.Tensor) -> None:
    _set_weights(path, lambda weights: weights.update({name: tensor}))


def _set_header(path: Path, header: bytes) -> None:
    (path / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header)


def _shard(path: Path, shard_by_name: Callable[[str], str], index: str | None = None) -> None:
    """Move the weights into shards; the index says what ``shard_by_name`` (or ``index``) says, the tensors go by their first letter."""
    weights = load_file(path / WEIGHTS)
    (path / WEIGHTS).unlink()
    for shard, names in {"a.safetensors": [n for n in weights if n < "m"], "b.safetensors": [n for n in weights if n >= "m"]}.items():
        save_file({name: weights[name].clone() for name in names}, path / shard)
    true_index = json.dumps({"weight_map": {name: shard_by_name(name) for name in weights}})
    (path / INDEX).write_text(true_index if index is None else index)


def _true_shard(name: str) -> str:
    return "a.safetensors" if name < "m" else "b.safetensors"


def _link_outside(path: Path) -> None:
    outside = path.with_name(f"{path.name}-elsewhere")
    (path / WEIGHTS).rename(outside)
    (path / WEIGHTS).symlink_to(outside)


def _lose_shard(path: Path) -> None:
    _shard(path, _true_shard)
    (path / "b.safetensors").unlink()


def _promise_more(path: Path) -> None:
    _shard(path, _true_shard)
    index = json.loads((path / INDEX).read_text())
    index["weight_map"]["model.extra.weight"] = "a.safetensors"
    (path / INDEX).write_text(json.dumps(index))


def _both_shards(path: Path) -> None:
    _shard(path, _true_shard)
    first = load_file(path / "a.safetensors")
    save_file({**load_file(path / "b.safetensors"), **first}, path / "b.safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A way to break the checkpoint, and the words that the sentence about it must have."""

    name: str
    damage: Callable[[Path], Any]
    words: tuple[str, ...]
    writer: Callable[..., Path] = checkpoints.write_llama
    dtype: Literal["float32", "float16"] = "float32"


_NORM = "model.norm.weight"

BROKEN = (
    # The directory and its configuration.
    Broken(name="no config", damage=lambda p: (p / "config.json").unlink(), words=("no config.json", "complete")),
    Broken(name="config is not JSON", damage=lambda p: (p / "config.json").write_text("{"), words=("config.json", "not valid JSON")),
    Broken(
        name="config is not UTF-8",
        damage=lambda p: (p / "config.json").write_bytes(b'{"a": "\xff"}'),
        words=("config.json", "not valid JSON"),
    ),
    Broken(name="config is a list", damage=lambda p: (p / "config.json").write_text("[]"), words=("config.json", "object")),
    Broken(name="config nests without end", damage=lambda p: (p / "config.json").write_text("[" * 200_000), words=("config.json", "JSON")),
    Broken(
        name="no architecture",
        damage=lambda p: _set_config(p, architectures=[]),
        words=("config.json", "architectures", "LlamaForCausalLM"),
    ),
    Broken(
        name="unknown architecture",
        damage=lambda p: _set_config(p, architectures=["WhisperModel"]),
        words=("config.json", "WhisperModel", "supported are", "GPT2LMHeadModel"),
    ),
    Broken(
        name="size is a text",
        damage=lambda p: _set_config(p, hidden_size="32"),
        words=("config.json", "hidden_size", "whole number", "'32'"),
    ),
    Broken(
        name="size is negative", damage=lambda p: _set_config(p, vocab_size=-1), words=("config.json", "vocab_size", "at least 1", "-1")
    ),
    Broken(
        name="number of layers is absurd",
        damage=lambda p: _set_config(p, num_hidden_layers=10**9),
        words=("config.json", "num_hidden_layers"),
    ),
    Broken(name="hidden size is absurd", damage=lambda p: _set_config(p, hidden_size=2**62), words=("config.json", "hidden_size")),
    Broken(
        name="heads do not divide", damage=lambda p: _set_config(p, num_attention_heads=5), words=("config.json", "5 attention heads", "32")
    ),
    Broken(
        name="number is not finite",
        damage=lambda p: _set_config(p, rms_norm_eps=float("nan")),
        words=("config.json", "rms_norm_eps", "nan"),
    ),
    Broken(name="unknown activation", damage=lambda p: _set_config(p, hidden_act="relu9"), words=("config.json", "relu9", "supported are")),
    Broken(
        name="unknown rope scaling",
        damage=lambda p: _set_config(p, rope_scaling={"rope_type": "yarn", "factor": 2.0}),
        words=("config.json", "yarn", "supported are"),
    ),
    Broken(
        name="quantised",
        damage=lambda p: _set_config(p, quantization_config={"bits": 4}),
        words=("config.json", "quantization_config", "float32"),
    ),
    Broken(
        name="unknown dtype", damage=lambda p: _set_config(p, dtype="float8_e4m3"), words=("config.json", "float8_e4m3", "supported are")
    ),
    Broken(
        name="generation config is wrong",
        damage=lambda p: (p / "generation_config.json").write_text('{"eos_token_id": "end"}'),
        words=("generation_config.json", "eos_token_id", "'end'"),
    ),
    # The weights.
    Broken(name="no weights", damage=lambda p: (p / WEIGHTS).unlink(), words=(WEIGHTS, INDEX)),
    Broken(
        name="pickled weights only",
        damage=lambda p: (p / WEIGHTS).rename(p / "pytorch_model.bin"),
        words=("pytorch_model.bin", "pickled", "convert", WEIGHTS),
    ),
    Broken(
        name="weights are cut short",
        damage=lambda p: (p / WEIGHTS).write_bytes((p / WEIGHTS).read_bytes()[:-100]),
        words=(WEIGHTS, "bytes", "download"),
    ),
    Broken(name="weights are empty", damage=lambda p: (p / WEIGHTS).write_bytes(b""), words=(WEIGHTS, "damaged", "download")),
    Broken(
        name="weights are something else", damage=lambda p: (p / WEIGHTS).write_bytes(b"<!doctype html>" * 99), words=(WEIGHTS, "download")
    ),
    Broken(name="header is not JSON", damage=lambda p: _set_header(p, b"{{{{"), words=(WEIGHTS, "header", "download")),
    Broken(
        name="header's offsets lie",
        damage=lambda p: _set_header(p, json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}).encode()),
        words=(WEIGHTS, "header", "download"),
    ),
    Broken(name="a tensor is missing", damage=lambda p: _set_weights(p, lambda w: w.pop(_NORM)), words=("norm.weight", "config.json")),
    Broken(
        name="a tensor too many",
        damage=lambda p: _set_tensor(p, "model.layers.7.bias", torch.zeros(3)),
        words=("layers.7.bias", "config.json", "no place"),
    ),
    Broken(
        name="a tensor of another shape",
        damage=lambda p: _set_tensor(p, _NORM, torch.ones(31)),
        words=("norm.weight", "[31]", "[32]", "config.json"),
    ),
    Broken(
        name="more layers than tensors", damage=lambda p: _set_config(p, num_hidden_layers=3), words=("lack", "layers.2.", "config.json")
    ),
    Broken(name="a NaN", damage=lambda p: _set_tensor(p, _NORM, torch.full((32,), torch.nan)), words=("norm.weight", "finite")),
    Broken(name="an infinity", damage=lambda p: _set_tensor(p, _NORM, torch.full((32,), -torch.inf)), words=("norm.weight", "finite")),
    Broken(
        name="whole numbers", damage=lambda p: _set_tensor(p, _NORM, torch.ones(32, dtype=torch.int64)), words=("norm.weight", "I64", "F32")
    ),
    Broken(name="too large for the dtype", damage=lambda p: None, words=("mlp.", "float16", "wider"), dtype="float16"),
    Broken(
        name="a tensor twice",
        damage=lambda p: _set_weights(p, lambda w: w.update({"norm.weight": torch.ones(32)})),
        words=("norm.weight", "twice"),
    ),
    Broken(
        name="a shard is missing",
        damage=_lose_shard,
        words=("b.safetensors", "missing"),
    ),
    Broken(
        name="a shard is outside",
        damage=lambda p: _shard(p, lambda name: "../a.safetensors"),
        words=(INDEX, "../a.safetensors", "plain file name"),
    ),
    Broken(name="the index promises too much", damage=_promise_more, words=(INDEX, "model.extra.weight", "shards")),
    Broken(
        name="the index is not JSON",
        damage=lambda p: _shard(p, _true_shard, index="{"),
        words=(INDEX, "not valid JSON"),
    ),
    Broken(name="a tensor in two shards", damage=_both_shards, words=("b.safetensors", "another file")),
    Broken(name="the index is empty", damage=lambda p: _shard(p, _true_shard, index="{}"), words=(INDEX, "weight_map")),
    Broken(name="weights are a link out", damage=_link_outside, words=(WEIGHTS, "link", "put the file")),
    # The tokenizer and the chat template.
    Broken(name="no tokenizer", damage=lambda p: (p / "tokenizer.json").unlink(), words=("no tokenizer", "tokenizer.json")),
    Broken(
        name="tokenizer is damaged", damage=lambda p: (p / "tokenizer.json").write_text('{"model": 3}'), words=("tokenizer", "download")
    ),
    Broken(
        name="chat template is no template",
        damage=lambda p: (p / "chat_template.jinja").write_text("{% for %}"),
        words=("chat template",),
    ),
    Broken(
        name="tokenizer settings are not JSON",
        damage=lambda p: (p / "tokenizer_config.json").write_text("nonsense"),
        words=("tokenizer_config.json", "not valid JSON"),
    ),
    # Encoders.
    Broken(
        name="labels with a gap",
        damage=lambda p: _set_config(p, id2label={"0": "no", "2": "yes"}),
        words=("config.json", "id2label", "gap"),
        writer=checkpoints.write_bert_classifier,
    ),
    Broken(
        name="more labels than weights",
        damage=lambda p: _set_config(p, id2label={"0": "a", "1": "b", "2": "c"}),
        words=("classifier.", "[2", "[3", "config.json"),
        writer=checkpoints.write_bert_classifier,
    ),
    Broken(
        name="unknown pooling",
        damage=lambda p: (p / "1_Pooling" / "config.json").write_text('{"pooling_mode_max_tokens": true}'),
        words=("1_Pooling/config.json", "max", "mean"),
        writer=checkpoints.write_bert_encoder,
    ),
    Broken(
        name="unknown module",
        damage=lambda p: (p / "modules.json").write_text('[{"path": "", "type": "Transformer"}, {"path": "2", "type": "x.Dense"}]'),
        words=("modules.json", "Dense", "supported are"),
        writer=checkpoints.write_bert_encoder,
    ),
    Broken(
        name="relative positions",
        damage=lambda p: _set_config(p, position_embedding_type="relative_key"),
        words=("config.json", "relative_key", "not supported"),
        writer=checkpoints.write_bert_encoder,
    ),
)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.name)
def test_a_broken_checkpoint_is_refused_in_one_sentence(broken: Broken, tmp_path: Path) -> None:
    path = broken.writer(tmp_path / "model")
    if broken.dtype == "float32":
        load(path)
    broken.damage(path)
    with pytest.raises(CheckpointError) as caught:
        load(path, broken.dtype)
    message = str(caught.value)
    assert all(word in message for word in broken.words), message
    assert "\n" not in message and len(message) < 300 and message.endswith("."), message
    assert str(tmp_path) not in message and "Error" not in message, message
    assert (caught.value.__cause__ is None and caught.value.__suppress_context__) or caught.value.__context__ is None


def _run(command: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("attendant")), command, *args], capture_output=True, text=True, timeout=60, check=False
    )


_PORTS = ("--local", "--http-port", "0", "--grpc-port", "0")


@pytest.mark.parametrize("name", ["a NaN", "no tokenizer", "unknown architecture"])
def test_serve_ends_with_the_sentence_and_the_models_name(name: str, tmp_path: Path) -> None:
    broken = next(broken for broken in BROKEN if broken.name == name)
    good, bad = checkpoints.write_llama(tmp_path / "good"), broken.writer(tmp_path / "bad")
    broken.damage(bad)
    ended = _run("serve", *_PORTS, f"first={good}", f"second={bad}")
    assert ended.returncode == 1, ended.stderr
    (sentence,) = ended.stderr.splitlines()
    assert sentence.startswith("attendant: Model 'second'") and all(word in sentence for word in broken.words), sentence
    assert ended.stdout == ""


@pytest.mark.parametrize("command", [("serve", *_PORTS), ("plan",)], ids=lambda command: command[0])
def test_a_directory_that_is_not_there_is_a_wrong_call(command: tuple[str, ...], tmp_path: Path) -> None:
    ended = _run(*command, str(tmp_path / "nowhere"))
    assert ended.returncode == 2
    (sentence,) = ended.stderr.splitlines()
    assert "nowhere" in sentence and "stories260k" in sentence, sentence
