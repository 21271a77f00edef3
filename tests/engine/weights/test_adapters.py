"""Every way in which an adapter does not fit its model is one sentence that names it, the value, the bound and the fix."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel

from attendant_engine.config import AdapterSource
from attendant_engine.errors import CheckpointError
from attendant_engine.models.base import LoadedModel
from attendant_engine.weights.loader import load_model
from tests.engine.adapter_files import Recipe, write_adapter

Break = Callable[[Path], object]
QUERY = "base_model.model.encoder.layer.0.attention.self.query"


def encoder(hidden_size: int = 8, *, has_pooler: bool = False) -> BertModel:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20, hidden_size=hidden_size, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12, max_position_embeddings=16
    )
    return BertModel(config, add_pooling_layer=has_pooler)


def write(directory: Path, recipe: Recipe, model: BertModel | None = None) -> Path:
    model = model or encoder()
    model.save_pretrained(directory)
    write_adapter(directory / "mine", model, recipe)
    return directory / "mine"


def load(adapter: Path) -> LoadedModel:
    sources = [AdapterSource(name=adapter.name, path=str(adapter))]
    return load_model(adapter.parent, dtype=torch.float32, device=torch.device("cpu"), attention_backend="torch", adapters=sources)


def config(**fields: object) -> Break:
    def break_it(adapter: Path) -> None:
        path = adapter / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return break_it


def head_config(**fields: object) -> Break:
    def break_it(adapter: Path) -> None:
        path = adapter / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return break_it


def tensor(name: str, value: torch.Tensor | None) -> Break:
    def break_it(adapter: Path) -> None:
        path = adapter / "adapter_model.safetensors"
        tensors = load_file(path)
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value
        save_file(tensors, path)

    return break_it


BROKEN: dict[str, tuple[Break, str]] = {
    "no config": (lambda d: (d / "adapter_config.json").unlink(), "has no adapter_config.json"),
    "no weights": (lambda d: (d / "adapter_model.safetensors").unlink(), "has no adapter_model.safetensors"),
    "another kind": (config(peft_type="PREFIX_TUNING"), "peft_type 'PREFIX_TUNING' is not supported; supported is LORA"),
    "dora": (config(use_dora=True), "use_dora True is not supported; supported is False"),
    "biases": (config(bias="all"), "bias 'all' is not supported; supported is 'none'"),
    "ranks by module": (config(rank_pattern={"query": 2}), "rank_pattern .* is not supported"),
    "changed base": (config(init_lora_weights="pissa"), "init_lora_weights 'pissa' is not supported"),
    "rank zero": (config(r=0), "r must be a whole number of at least 1, not 0"),
    "another rank": (config(r=7), r"query.lora_A.weight has shape \[4, 8\]; r = 7 and this model call for \[7, 8\]"),
    "unknown target": (config(target_modules=["q_proj"]), "target_modules names 'q_proj'; this model has .*key.*query"),
    "target without matrices": (config(target_modules=["query", "key"]), "target_modules names 'key'; the file has no matrices for it"),
    "targets are a number": (config(target_modules=3), "target_modules must be a list of modules' names, not 3"),
    "another model's module": (
        tensor("base_model.model.layers.0.self_attn.q_proj.lora_A.weight", torch.ones(4, 8)),
        "changes layers.0.self_attn.q_proj, which is no product of this model",
    ),
    "half a pair": (tensor(f"{QUERY}.lora_B.weight", None), "and no encoder.layer.0.attention.self.query.lora_B.weight"),
    "misshaped": (tensor(f"{QUERY}.lora_A.weight", torch.ones(4, 9)), r"has shape \[4, 9\]; .*call for \[4, 8\]"),
    "unknown tensor": (tensor("base_model.model.encoder.norm.weight", torch.ones(8)), "holds encoder.norm.weight, which is neither"),
    "not finite": (tensor(f"{QUERY}.lora_A.weight", torch.full((4, 8), float("nan"))), "values that are not finite"),
    "integers": (tensor(f"{QUERY}.lora_A.weight", torch.ones(4, 8, dtype=torch.int32)), "is I32; supported are"),
    "no matrices": (lambda d: save_file({}, d / "adapter_model.safetensors"), "target_modules names 'query'|no LoRA matrices"),
    "head of another width": (
        tensor("base_model.model.classifier.weight", torch.ones(2, 9)),
        r"shape \[2, 9\]; this model calls for \[labels, 8\]",
    ),
    "bias of another length": (tensor("base_model.model.classifier.bias", torch.ones(3)), r"classifier.bias has shape \[3\]"),
    "bias alone": (tensor("base_model.model.classifier.weight", None), "has no classifier.weight"),
    "labels of another number": (head_config(id2label={"0": "only"}), "id2label names 1 labels; the classifier has 2"),
    "unknown pooling": (
        head_config(classifier_pooling="max"),
        "classifier_pooling 'max' is not supported; supported are pooler, mean, cls",
    ),
    "no pooler": (head_config(classifier_pooling="pooler"), "BERT's pooler, which neither it nor the model has; set classifier_pooling"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_adapter_is_refused_with_a_sentence_that_names_it(name: str, tmp_path: Path) -> None:
    break_it, message = BROKEN[name]
    adapter = write(tmp_path, Recipe(targets=("query",), labels=("no", "yes"), pooling="mean"))
    load(adapter)
    break_it(adapter)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(adapter)
    assert caught.value.message.startswith("Adapter 'mine': ") and str(tmp_path) not in caught.value.message


def test_an_adapter_of_a_model_of_another_width_is_refused(tmp_path: Path) -> None:
    adapter = write(tmp_path, Recipe(), encoder(16))
    encoder(8).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"has shape \[4, 16\]; r = 4 and this model call for \[4, 8\]. Was it made for another"):
        load(adapter)


def test_a_decoder_takes_no_adapters(tmp_path: Path) -> None:
    adapter = write(tmp_path, Recipe())
    config = GPT2Config(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="adapters are served on encoders, and this model is a gpt2 decoder"):
        load(adapter)


def test_a_pooler_that_the_embedding_model_keeps_is_found(tmp_path: Path) -> None:
    adapter = write(tmp_path, Recipe(labels=("no", "yes")), encoder(has_pooler=True))
    (loaded,) = load(adapter).adapters
    assert loaded.classification_head is not None and loaded.labels == ("no", "yes")


def test_an_adapter_without_a_head_takes_the_model_s(tmp_path: Path) -> None:
    model = load(write(tmp_path, Recipe()))
    (loaded,) = model.adapters
    assert loaded.pooling_head is model.pooling_head is not None and loaded.classification_head is None
