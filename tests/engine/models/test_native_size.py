"""What a native model will take is told exactly from its shapes, before a weight is read."""

from pathlib import Path

import pytest
import torch

from attendant_engine.attention.registry import load_backend
from attendant_engine.kernels.cpu.library import load_library
from attendant_engine.models.native import NativeTrunk, Quantization, compile_model, measure_model
from attendant_engine.models.registry import BuiltModel, build_model
from attendant_engine.weights.checkpoint import read_model_config
from attendant_engine.weights.model_weights import ModelWeights
from tests.engine.weights.tiny import write_checkpoint

MODELS = Path(__file__).parents[3] / "models"
CPU = torch.device("cpu")

pytestmark = pytest.mark.skipif(load_library() is None, reason="the CPU kernels are not built, or this processor lacks AVX2")


def lay_out(path: Path) -> BuiltModel:
    with torch.device("meta"):
        return build_model(read_model_config(path), load_backend("torch", CPU))


@pytest.mark.parametrize("quantization", ["none", "int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["stories260k", "tiny-encoder", "tiny-classifier", "untied"])
def test_the_size_that_is_planned_is_the_size_that_is_taken(
    name: str, dtype: torch.dtype, quantization: Quantization, tmp_path: Path
) -> None:
    path = MODELS / name
    if name == "untied":
        path = tmp_path
        write_checkpoint(path)
    size = measure_model(lay_out(path), dtype=dtype, quantization=quantization)
    built = lay_out(path)
    with ModelWeights(path, built, read_model_config(path), dtype=dtype, device=CPU) as weights:
        model = compile_model(built, dtype=dtype, quantization=quantization, fill=weights.fill)
    assert model.weight_bytes == size.weight_bytes
    assert isinstance(model.trunk, NativeTrunk)
    model.trunk.reserve(2048)
    assert 0 <= model.trunk.num_bytes - 2048 * size.row_bytes <= 64
