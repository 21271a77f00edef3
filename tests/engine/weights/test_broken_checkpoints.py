"""Every way in which a checkpoint can be broken is one sentence that names the file or tensor, and no path or class of ours."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from attendant_engine.errors import CheckpointError
from attendant_engine.models.base import LoadedModel
from attendant_engine.weights.loader import load_model
from tests.engine.weights.tiny import SHAPES, change_weights, shard, write_checkpoint, write_config, write_index

Break = Callable[[Path], object]
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
EMBED = "model.embed_tokens.weight"


def load(directory: Path, dtype: torch.dtype = torch.float32) -> LoadedModel:
    return load_model(directory, dtype=dtype, device=torch.device("cpu"), attention_backend="torch")


def rewrite_header(directory: Path, edit: Callable[[dict[str, dict[str, object]]], object]) -> None:
    data = (directory / WEIGHTS).read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    edit(header)
    written = json.dumps(header).encode()
    (directory / WEIGHTS).write_bytes(struct.pack("<Q", len(written)) + written + data[8 + length :])


def replace_by_pickle(directory: Path) -> None:
    (directory / WEIGHTS).unlink()
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps({}))


def truncate(directory: Path) -> None:
    data = (directory / WEIGHTS).read_bytes()
    (directory / WEIGHTS).write_bytes(data[:-10])


def link_outside(directory: Path) -> None:
    outside = directory.parent / "outside.safetensors"
    (directory / WEIGHTS).rename(outside)
    (directory / WEIGHTS).symlink_to(outside)


def shard_and(then: Break) -> Break:
    def break_it(directory: Path) -> None:
        shard(directory)
        then(directory)

    return break_it


def not_finite(value: float) -> Break:
    def break_it(directory: Path) -> None:
        weight = torch.ones(SHAPES["model.norm.weight"])
        weight[3] = value
        change_weights(directory, model__norm__weight=weight)

    return break_it


BROKEN: dict[str, tuple[Break, str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), "no config.json"),
    "config is no JSON": (lambda d: (d / "config.json").write_text("{"), "config.json is not valid JSON"),
    "config is no UTF-8": (lambda d: (d / "config.json").write_bytes(b"\xff\xfe"), "config.json is not valid JSON"),
    "config nests without end": (lambda d: (d / "config.json").write_text("[" * 10**6), "config.json is not valid JSON"),
    "config is a list": (lambda d: (d / "config.json").write_text("[]"), "must hold a JSON object"),
    "no architecture": (lambda d: write_config(d, architectures=None), "exactly one architecture"),
    "unknown architecture": (lambda d: write_config(d, architectures=["T5Model"]), "T5Model is not supported"),
    "masked LM": (lambda d: write_config(d, architectures=["BertForMaskedLM"]), "BertForMaskedLM is not supported"),
    "a size is text": (lambda d: write_config(d, hidden_size="8"), "hidden_size must be a whole number of at least 1"),
    "a size is zero": (lambda d: write_config(d, num_hidden_layers=0), "num_hidden_layers must be a whole number"),
    "a size is absurd": (lambda d: write_config(d, vocab_size=10**18), "vocab_size must be at most 16777216, not 1000000000000000000"),
    "layers without end": (lambda d: write_config(d, num_hidden_layers=10**8), "num_hidden_layers must be at most 10000, not 100000000"),
    "an epsilon is no number": (lambda d: write_config(d, rms_norm_eps=float("nan")), "rms_norm_eps must be a number, not nan"),
    "an epsilon beyond floats": (lambda d: write_config(d, rms_norm_eps=10**400), "rms_norm_eps must be a number, not 1000"),
    "heads do not divide": (lambda d: write_config(d, num_attention_heads=3), "3 attention heads do not divide the hidden size of 8"),
    "kv heads do not divide": (
        lambda d: write_config(d, num_attention_heads=4, num_key_value_heads=3),
        "3 key/value heads do not divide the 4 query heads",
    ),
    "odd rotary": (lambda d: write_config(d, head_dim=5), "even head size"),
    "unknown activation": (lambda d: write_config(d, hidden_act="mish"), "activation 'mish' is not supported"),
    "unknown rope": (lambda d: write_config(d, rope_scaling={"rope_type": "yarn", "factor": 2.0}), "rope type 'yarn' is not supported"),
    "rope without factor": (lambda d: write_config(d, rope_scaling={"type": "linear"}), "factor is missing"),
    "partial rotary": (
        lambda d: write_config(d, rope_parameters={"rope_type": "default", "partial_rotary_factor": 0.5}),
        "partial_rotary_factor is not supported",
    ),
    "quantised": (lambda d: write_config(d, quantization_config={"bits": 4}), "quantization_config is not supported"),
    "unknown dtype in config": (lambda d: write_config(d, torch_dtype="float8"), "dtype 'float8' is not supported"),
    "end token is text": (lambda d: write_config(d, eos_token_id="</s>"), "eos_token_id must be a token id"),
    "no weights": (lambda d: (d / WEIGHTS).unlink(), "neither model.safetensors nor model.safetensors.index.json"),
    "pickle alone": (replace_by_pickle, r"pickled \(pytorch_model.bin\)"),
    "truncated": (truncate, "should have .* bytes and has"),
    "empty": (lambda d: (d / WEIGHTS).write_bytes(b""), "damaged or is no safetensors file"),
    "header length is absurd": (lambda d: (d / WEIGHTS).write_bytes(b"\xff" * 64), "damaged or is no safetensors file"),
    "header is no JSON": (lambda d: (d / WEIGHTS).write_bytes(struct.pack("<Q", 4) + b"nope"), "damaged header"),
    "offsets overlap": (lambda d: rewrite_header(d, lambda h: h["model.norm.weight"].update(data_offsets=[0, 32])), "damaged header"),
    "offsets disagree with the shape": (lambda d: rewrite_header(d, lambda h: h["model.norm.weight"].update(shape=[9])), "damaged header"),
    "unknown dtype in the file": (lambda d: rewrite_header(d, lambda h: h[EMBED].update(dtype="F4")), "unsupported dtype 'F4'"),
    "link outside": (link_outside, "symbolic link out of the model directory"),
    "missing tensor": (lambda d: change_weights(d, model__norm__weight=None), "lack norm.weight"),
    "missing layer": (lambda d: write_config(d, num_hidden_layers=2), "lack layers.1.* and 8 more"),
    "unexpected tensor": (lambda d: change_weights(d, model__norm__scale=torch.ones(8)), "hold norm.scale, which"),
    "unexpected layer": (
        lambda d: change_weights(d, model__layers__1__self_attn__q_proj__weight=torch.ones(8, 8)),
        "hold layers.1.self_attn.q_proj.weight",
    ),
    "misshaped tensor": (lambda d: change_weights(d, model__norm__weight=torch.ones(9)), r"norm.weight has shape \[9\].*calls for \[8\]"),
    "integer weights": (lambda d: change_weights(d, model__norm__weight=torch.ones(8, dtype=torch.int32)), "norm.weight is I32"),
    "twice the same": (lambda d: change_weights(d, norm__weight=torch.ones(8)), "hold norm.weight twice"),
    "not a number": (not_finite(float("nan")), "norm.weight has values that are not finite"),
    "infinite": (not_finite(float("-inf")), "norm.weight has values that are not finite"),
    "missing shard": (
        shard_and(lambda d: (d / "model-00002-of-00002.safetensors").unlink()),
        "00002.safetensors is missing",
    ),
    "index without map": (shard_and(lambda d: (d / INDEX).write_text("{}")), "weight_map is missing"),
    "index climbs out": (shard_and(lambda d: write_index(d, {EMBED: "../outside.safetensors"})), "not a plain file name"),
    "index is absolute": (shard_and(lambda d: write_index(d, {EMBED: "/etc/passwd"})), "not a plain file name"),
    "shard lacks what the index promises": (
        shard_and(lambda d: save_file({}, d / "model-00001-of-00002.safetensors")),
        "promises .* and its shards do not have it",
    ),
    "a tensor in two shards": (
        shard_and(lambda d: (d / "model-00001-of-00002.safetensors").write_bytes((d / "model-00002-of-00002.safetensors").read_bytes())),
        "is in another file too",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_checkpoint_is_one_clear_error(kind: str, tmp_path: Path) -> None:
    directory = tmp_path / "model"
    write_checkpoint(directory)
    break_it, message = BROKEN[kind]
    break_it(directory)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(directory)
    assert str(tmp_path) not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_directory_that_is_not_there_or_is_a_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'nowhere' does not exist"):
        load(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="'file' is a file"):
        load(tmp_path / "file")


def test_a_weight_beyond_the_wanted_dtype_is_refused_and_loads_in_a_wider_one(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    change_weights(tmp_path, model__norm__weight=torch.full((8,), 1e6))
    load(tmp_path)
    with pytest.raises(CheckpointError, match=r"norm.weight does not fit into float16"):
        load(tmp_path, torch.float16)


def test_after_every_broken_one_the_good_checkpoint_still_loads(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"never read")
    assert load(tmp_path).config.family == "llama"
