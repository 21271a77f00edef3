"""ONNX for onnxruntime: exported with attention spelled out, fused by its own optimiser, int8 by its own dynamic quantisation."""

from pathlib import Path

import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.optimizer import optimize_model

from benchmarks.peers.convert.torch_models import SentenceEncoder, load_encoder


def convert(model: str, precision: str, source: Path, target: Path) -> None:
    """Write ``target/model.onnx``."""
    del model
    target.mkdir(parents=True)
    encoder = load_encoder(source, is_attention_fused=False)
    assert isinstance(encoder, SentenceEncoder)
    _export(encoder, target / "plain.onnx")
    width = int(encoder.model.config.hidden_size)
    optimised = optimize_model(str(target / "plain.onnx"), model_type="bert", num_heads=encoder.num_heads, hidden_size=width, opt_level=0)
    (target / "fused.txt").write_text(str(optimised.get_fused_operator_statistics()))
    optimised.save_model_to_file(str(target / "model.onnx"))
    (target / "plain.onnx").unlink()
    if precision == "int8":
        (target / "model.onnx").rename(target / "float.onnx")
        # The fused operators have no shape inference; all their outputs are float32.
        options = {"DefaultTensorType": onnx.TensorProto.FLOAT}
        quantize_dynamic(target / "float.onnx", target / "model.onnx", per_channel=True, weight_type=QuantType.QInt8, extra_options=options)
        (target / "float.onnx").unlink()


def _export(encoder: SentenceEncoder, path: Path) -> None:
    example = torch.ones(2, 8, dtype=torch.int64)
    axes = {0: "texts", 1: "tokens"}
    with torch.no_grad():
        torch.onnx.export(
            encoder,
            (example, example.clone()),
            str(path),
            input_names=["input_ids", "attention_mask"],
            output_names=["vectors"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "vectors": {0: "texts"}},
            opset_version=17,
            dynamo=False,
        )
