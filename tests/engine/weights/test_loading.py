"""What a checkpoint becomes: its config, its digest, shards as one, links of the hub's cache, memory."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from attendant_engine.errors import CheckpointError
from attendant_engine.layers.linear import Linear
from attendant_engine.models.llama import Llama
from attendant_engine.weights.checkpoint import read_model_config, read_tensor_headers, tensor_bytes
from attendant_engine.weights.loader import load_model
from tests.engine.weights.tiny import SHAPES, shard, write_checkpoint, write_config

CPU = torch.device("cpu")


def weights_of(directory: Path) -> dict[str, torch.Tensor]:
    model = load_model(directory, dtype=torch.float32, device=CPU, attention_backend="torch")
    assert isinstance(model.trunk, Llama)
    linears = {f"{name}.weight": module for name, module in model.trunk.named_modules() if isinstance(module, Linear)}
    return dict(model.trunk.named_parameters()) | {name: unpacked(linear, SHAPES[f"model.{name}"][1]) for name, linear in linears.items()}


def unpacked(linear: Linear, in_features: int) -> torch.Tensor:
    """Read a packed weight back through its product: a row of the identity picks a column, exactly."""
    with torch.inference_mode():
        columns: torch.Tensor = linear(torch.eye(in_features))
    return columns.t()


def test_weights_are_those_of_the_file_and_survive_it(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    stored = {name: tensor.clone() for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    loaded = weights_of(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert set(loaded) == {name.removeprefix("model.") for name in SHAPES if name != "lm_head.weight"}
    for name, weight in loaded.items():
        assert torch.equal(weight, stored[f"model.{name}"])


def test_shards_load_as_the_single_file_does(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    whole = weights_of(tmp_path)
    headers = read_tensor_headers(tmp_path)
    shard(tmp_path)
    parts = weights_of(tmp_path)
    assert read_tensor_headers(tmp_path) == headers
    assert all(torch.equal(parts[name], whole[name]) for name in whole)


def test_headers_give_dtypes_and_shapes_and_bytes_without_the_data(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    headers = read_tensor_headers(tmp_path)
    assert headers == {name: ("F32", shape) for name, shape in SHAPES.items()}
    assert tensor_bytes(headers["lm_head.weight"]) == 32 * 8 * 4


def test_the_digest_is_sha256_over_the_files_in_name_order(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    single = load_model(tmp_path, dtype=torch.float32, device=CPU, attention_backend="torch").digest
    assert single == hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    shard(tmp_path)
    parts = b"".join(path.read_bytes() for path in sorted(tmp_path.glob("*.safetensors")))
    assert load_model(tmp_path, dtype=torch.float32, device=CPU, attention_backend="torch").digest == hashlib.sha256(parts).hexdigest()


def test_links_of_the_hub_cache_are_followed(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    write_checkpoint(snapshot)
    blobs.mkdir()
    for path in list(snapshot.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(Path("../../blobs") / path.name)
    assert weights_of(snapshot)


def test_sizes_numbers_and_phases_are_reported(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    model = load_model(tmp_path, dtype=torch.bfloat16, device=CPU, attention_backend="torch")
    expected = sum(torch.Size(shape).numel() for shape in SHAPES.values())
    assert model.num_parameters == expected
    assert model.load_stats.weight_bytes == 2 * expected
    assert set(model.load_stats.phase_s) == {"config", "weights"}
    assert model.dtype == torch.bfloat16


def test_end_tokens_of_the_generation_config_win(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    assert read_model_config(tmp_path).eos_token_ids == (2,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [5, 7]}')
    assert read_model_config(tmp_path).eos_token_ids == (5, 7)
    (tmp_path / "generation_config.json").write_text("{}")
    assert read_model_config(tmp_path).eos_token_ids == (2,)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (10000.0, ())),
        ({"rope_theta": 500000}, (500000.0, ())),
        ({"rope_scaling": {"type": "linear", "factor": 4}}, (10000.0, (("rope_type", "linear"), ("factor", 4.0)))),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, (7.0, ())),
        ({"rope_scaling": {"rope_type": "default"}, "rope_theta": 5.0}, (5.0, ())),
    ],
)
def test_rotary_settings_of_old_and_new_spelling_are_one(
    changes: dict[str, object], expected: tuple[object, object], tmp_path: Path
) -> None:
    write_config(tmp_path, **changes)
    config = read_model_config(tmp_path)
    assert (config.rope_theta, config.rope_scaling) == expected


def write_sentence_transformer(directory: Path, pooling: dict[str, object], kinds: list[str]) -> None:
    write_config(directory)
    folders = ["", *(f"{index}_{kind}" for index, kind in enumerate(kinds[1:], start=1))]
    modules = [
        {"idx": index, "path": folder, "type": f"sentence_transformers.models.{kind}"}
        for index, (kind, folder) in enumerate(zip(kinds, folders, strict=True))
    ]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode_lasttoken": True, "include_prompt": True}, "last"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": ["mean"]}, "mean"),
    ],
)
def test_the_pooling_of_a_sentence_transformer_is_obeyed(pooling: dict[str, object], expected: str, tmp_path: Path) -> None:
    write_sentence_transformer(tmp_path, pooling, ["Transformer", "Pooling", "Normalize"])
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    config = read_model_config(tmp_path)
    assert (config.head, config.pooling, config.normalize, config.max_sequence_length) == ("embedding", expected, True, 12)


@pytest.mark.parametrize(
    ("pooling", "kinds", "message"),
    [
        ({"pooling_mode_max_tokens": True}, ["Transformer", "Pooling"], "pooling max is not supported"),
        ({"pooling_mode": "weightedmean"}, ["Transformer", "Pooling"], "pooling weightedmean is not supported"),
        ({"pooling_mode": "novel"}, ["Transformer", "Pooling"], "pooling novel is not supported"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ["Transformer", "Pooling"], r"pooling mean \+ cls is not"),
        ({}, ["Transformer", "Pooling"], "pooling none is not supported"),
        ({"pooling_mode": "mean", "include_prompt": False}, ["Transformer", "Pooling"], "include_prompt false"),
        ({"pooling_mode": "mean"}, ["Transformer", "Pooling", "Dense"], "lists Transformer, Pooling, Dense"),
        ({"pooling_mode": "mean"}, ["Transformer"], "modules.json lists Transformer;"),
    ],
)
def test_modules_that_are_not_implemented_are_refused(pooling: dict[str, object], kinds: list[str], message: str, tmp_path: Path) -> None:
    write_sentence_transformer(tmp_path, pooling, kinds)
    with pytest.raises(CheckpointError, match=message):
        read_model_config(tmp_path)


def test_an_encoder_without_modules_names_no_pooling(tmp_path: Path) -> None:
    write_config(tmp_path, architectures=["LlamaModel"])
    config = read_model_config(tmp_path)
    assert (config.head, config.pooling, config.normalize) == ("embedding", None, False)


def test_labels_come_in_id_order_and_have_names_where_none_are_given(tmp_path: Path) -> None:
    write_config(tmp_path, architectures=["LlamaForSequenceClassification"], id2label={"1": "b", "0": "a", "2": "c"})
    assert read_model_config(tmp_path).labels == ("a", "b", "c")
    write_config(tmp_path, architectures=["LlamaForSequenceClassification"], num_labels=3)
    assert read_model_config(tmp_path).labels == ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id2label": {"0": "a", "2": "b"}}, "without a gap"),
        ({"id2label": {"0": "a", "1": "a"}}, "one name to two labels"),
        ({"id2label": {}}, "without a gap"),
        ({"problem_type": "regression"}, "problem_type 'regression' is not supported"),
    ],
)
def test_label_settings_that_make_no_sense_are_refused(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    write_config(tmp_path, architectures=["LlamaForSequenceClassification"], **changes)
    with pytest.raises(CheckpointError, match=message):
        read_model_config(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["BertModel"], "position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"architectures": ["BertModel"], "is_decoder": True}, "is_decoder"),
        ({"architectures": ["GPT2LMHeadModel"], "add_cross_attention": True}, "add_cross_attention"),
        ({"sliding_window": 4096}, "sliding_window"),
    ],
)
def test_options_that_would_change_the_numbers_are_refused_by_name(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    write_config(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=f"{message} .* is not supported"):
        read_model_config(tmp_path)
