"""OpenVINO's format, by its own torch frontend; weights compressed and networks quantised by its own NNCF.

Decoders are made stateful, as OpenVINO GenAI wants them: the cache becomes variables, reordered by ``beam_idx``.
bfloat16 is asked for when the model is loaded, so its file is the float32 one. Encoders in int8 are quantised with
their activations, after a calibration on random texts; decoders in int8 and int4 by their weights.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13
from openvino._offline_transformations import apply_make_stateful_transformation

from benchmarks.peers.convert.torch_models import load_decoder, load_encoder

_NUM_CALIBRATION_TEXTS = 32


def convert(model: str, precision: str, source: Path, target: Path) -> None:
    """Write ``target/openvino_model.xml`` and what GenAI reads beside it."""
    target.mkdir(parents=True)
    if model in ("gpt2", "llama"):
        network = _compressed(_decoder(model, source), precision)
        _write_tokenizer(source, target)
    else:
        network = _quantised(_encoder(source), source) if precision == "int8" else _encoder(source)
    ov.save_model(network, target / "openvino_model.xml", compress_to_fp16=False)


def _decoder(model: str, source: Path) -> Any:
    step: Any = load_decoder(model, source)
    past = [torch.zeros(1, step.num_kv_heads, 4, step.head_dim) for _ in range(2 * step.num_layers)]
    example = {
        "input_ids": torch.zeros(1, 3, dtype=torch.int64),
        "attention_mask": torch.ones(1, 7, dtype=torch.int64),
        "position_ids": torch.arange(4, 7)[None],
        "past": past,
    }
    with torch.no_grad():
        network = ov.convert_model(step, example_input=example)
    names = ["input_ids", "attention_mask", "position_ids"]
    past_names = [f"past.{i // 2}.{'kv'[i % 2]}" for i in range(len(past))]
    for port, name in zip(network.inputs, names + past_names, strict=True):
        is_past = name in past_names
        port.get_tensor().set_names({name})
        port.get_node().set_element_type(ov.Type.f32 if is_past else ov.Type.i64)
        port.get_node().set_partial_shape(ov.PartialShape([-1, step.num_kv_heads, -1, step.head_dim] if is_past else [-1, -1]))
    present_names = [name.replace("past", "present") for name in past_names]
    for port, name in zip(network.outputs, ["logits", *present_names], strict=True):
        port.get_tensor().set_names({name})
    network.validate_nodes_and_infer_types()
    _add_beam_idx(network, past_names)
    apply_make_stateful_transformation(network, dict(zip(past_names, present_names, strict=True)))
    _start_empty(network, step.num_kv_heads, step.head_dim)
    return network


def _add_beam_idx(network: Any, past_names: list[str]) -> None:
    """Let a search over beams reorder the cache: every past tensor is read through one more input."""
    beam_idx = opset13.parameter(ov.PartialShape([-1]), ov.Type.i32, name="beam_idx")
    beam_idx.output(0).get_tensor().set_names({"beam_idx"})
    network.add_parameters([beam_idx])
    for name in past_names:
        port = network.input(name)
        readers = port.get_target_inputs()
        reordered = opset13.gather(port, beam_idx, opset13.constant(0))
        for reader in readers:
            reader.replace_source_output(reordered.output(0))
    network.validate_nodes_and_infer_types()


def _start_empty(network: Any, num_heads: int, head_dim: int) -> None:
    """Give every variable its first value, a cache of no tokens for each sequence; GenAI looks for this form."""
    batch = opset13.gather(opset13.shape_of(network.input("input_ids"), output_type="i64"), opset13.constant([0]), opset13.constant(0))
    sizes = [batch, *(opset13.constant(np.array([size], dtype=np.int64)) for size in (num_heads, 0, head_dim))]
    shape = opset13.concat(sizes, axis=0)
    for node in network.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([opset13.broadcast(opset13.constant(0.0, dtype=ov.Type.f32), shape)])
    network.validate_nodes_and_infer_types()


def _compressed(network: Any, precision: str) -> Any:
    import nncf

    if precision == "int8":
        return nncf.compress_weights(network, mode=nncf.CompressWeightsMode.INT8_SYM)
    if precision == "int4":
        return nncf.compress_weights(network, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=32, all_layers=True)
    return network


def _encoder(source: Path) -> Any:
    encoder = load_encoder(source, is_attention_fused=True)
    example = {"input_ids": torch.ones(2, 8, dtype=torch.int64), "attention_mask": torch.ones(2, 8, dtype=torch.int64)}
    with torch.no_grad():
        network = ov.convert_model(encoder, example_input=example)
    for port in network.inputs:
        port.get_node().set_partial_shape(ov.PartialShape([-1, -1]))
    network.validate_nodes_and_infer_types()
    return network


def _quantised(network: Any, source: Path) -> Any:
    import nncf

    num_vocab = json.loads((source / "config.json").read_text())["vocab_size"]
    generator = torch.Generator().manual_seed(5)
    texts = [torch.randint(1000, num_vocab - 1000, (1, 64), generator=generator).numpy() for _ in range(_NUM_CALIBRATION_TEXTS)]
    items = [{"input_ids": text, "attention_mask": (text > 0).astype("int64")} for text in texts]
    return nncf.quantize(network, nncf.Dataset(items), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(items))


def _write_tokenizer(source: Path, target: Path) -> None:
    """GenAI opens a tokenizer even when it is only ever given ids."""
    from openvino_tokenizers import convert_tokenizer
    from transformers import AutoTokenizer

    tokenizer, detokenizer = convert_tokenizer(AutoTokenizer.from_pretrained(source), with_detokenizer=True)
    ov.save_model(tokenizer, target / "openvino_tokenizer.xml")
    ov.save_model(detokenizer, target / "openvino_detokenizer.xml")
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        if (source / name).exists():
            shutil.copy(source / name, target / name)
