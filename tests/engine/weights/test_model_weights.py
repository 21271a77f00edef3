"""Weights come a module at a time, straight from the file, and no memory of the file stays behind."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from attendant_engine.attention.registry import load_backend
from attendant_engine.errors import CheckpointError
from attendant_engine.models.llama import Llama
from attendant_engine.models.registry import BuiltModel, build_model
from attendant_engine.weights import tensor_reader
from attendant_engine.weights.checkpoint import read_model_config
from attendant_engine.weights.model_weights import ModelWeights
from attendant_engine.weights.tensor_reader import TensorReader
from tests.engine.weights.tiny import SHAPES, shard, write_checkpoint

CPU = torch.device("cpu")


def lay_out(directory: Path) -> BuiltModel:
    with torch.device("meta"):
        return build_model(read_model_config(directory), load_backend("torch", CPU))


def open_weights(directory: Path, built: BuiltModel) -> ModelWeights:
    return ModelWeights(directory, built, read_model_config(directory), dtype=torch.bfloat16, device=CPU)


def test_only_what_was_asked_for_is_read_and_in_the_dtype_that_was_asked_for(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    built = lay_out(tmp_path)
    assert isinstance(built.trunk, Llama)
    with open_weights(tmp_path, built) as weights:
        weights.fill(built.trunk.get_submodule("layers.0.mlp"))
        weights.fill(built.trunk.norm, torch.float32)
    filled = {name: weight for name, weight in built.trunk.named_parameters() if not weight.is_meta}
    assert set(filled) == {name.removeprefix("model.") for name in SHAPES if ".mlp." in name} | {"norm.weight"}
    assert torch.equal(filled["norm.weight"], stored["model.norm.weight"])
    assert torch.equal(filled["layers.0.mlp.up_proj.weight"], stored["model.layers.0.mlp.up_proj.weight"].bfloat16())


def test_a_weight_that_nobody_filled_is_found(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    built = lay_out(tmp_path)
    with open_weights(tmp_path, built) as weights:
        weights.fill(built.trunk)
        with pytest.raises(AssertionError, match=r"lm_head\.weight"):
            weights.check_complete()
        assert isinstance(built.lm_head, torch.nn.Module)
        weights.fill(built.lm_head)
        weights.check_complete()
        assert weights.num_parameters == sum(torch.Size(shape).numel() for shape in SHAPES.values())


def test_a_file_that_shrinks_while_it_is_read_is_one_clear_error(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    built = lay_out(tmp_path)
    with open_weights(tmp_path, built) as weights:
        with (tmp_path / "model.safetensors").open("r+b") as file:
            file.truncate(1500)
        with pytest.raises(CheckpointError, match=r"^model\.safetensors cannot be read; download it again\.$"):
            weights.fill(built.trunk)


@pytest.mark.parametrize("chunk_bytes", [1, 64, 100, 1 << 20])
def test_every_size_of_piece_gives_the_same_tensor(chunk_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_reader, "_CHUNK_BYTES", chunk_bytes)
    tensors = {"a": torch.randn(7, 5, 3), "b": torch.randn(11).bfloat16(), "c": torch.randn(4, 9).half(), "d": torch.empty(0, 3)}
    save_file(tensors, tmp_path / "model.safetensors")
    with TensorReader((tmp_path / "model.safetensors",)) as reader:
        for name, tensor in tensors.items():
            pieces = [(first, rows.clone()) for first, rows in reader.row_chunks(name)]
            assert [first for first, _ in pieces] == [sum(len(rows) for _, rows in pieces[:i]) for i in range(len(pieces))]
            whole = torch.cat([rows for _, rows in pieces]) if pieces else torch.empty(0, 3)
            assert torch.equal(whole, tensor) and whole.dtype == tensor.dtype == reader.dtype(name)


def test_shards_are_one_set_of_names(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    whole = load_file(tmp_path / "model.safetensors")
    shard(tmp_path)
    with TensorReader(tuple(sorted(tmp_path.glob("*.safetensors")))) as reader:
        for name, tensor in whole.items():
            assert torch.equal(torch.cat([rows.clone() for _, rows in reader.row_chunks(name)]), tensor)
