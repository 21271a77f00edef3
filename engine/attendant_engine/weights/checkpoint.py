"""A model directory in Hugging Face layout, read without its weights: what the model is and how big its tensors are."""

from pathlib import Path

from attendant_engine.config import ModelConfig
from attendant_engine.errors import CheckpointError
from attendant_engine.json_fields import read_fields, read_optional_fields
from attendant_engine.weights.model_config import parse_model_config
from attendant_engine.weights.safetensors_files import BYTES_BY_DTYPE, TensorHeaders, read_headers
from attendant_engine.weights.sentence_transformers import read_embedding_recipe


def read_model_config(path: Path) -> ModelConfig:
    """Read ``config.json`` and, where there are any, ``generation_config.json`` and sentence-transformers' files.

    Raises ``CheckpointError`` for a directory that is absent, incomplete, malformed or not supported.
    """
    _check_directory(path)
    fields = read_fields(path, "config.json")
    generation = read_optional_fields(path, "generation_config.json")
    return parse_model_config(fields, generation, read_embedding_recipe(path))


def read_tensor_headers(path: Path) -> TensorHeaders:
    """Return every stored tensor's (safetensors dtype, shape), reading file headers alone."""
    _check_directory(path)
    return read_headers(path)


def tensor_bytes(header: tuple[str, tuple[int, ...]]) -> int:
    """Return the bytes that a tensor with this header takes in its file."""
    dtype, shape = header
    num_bytes = BYTES_BY_DTYPE[dtype]
    for size in shape:
        num_bytes *= size
    return num_bytes


def _check_directory(path: Path) -> None:
    if not path.is_dir():
        kind = "is a file" if path.exists() else "does not exist"
        raise CheckpointError(f"The model directory {path.name!r} {kind}; name a directory in Hugging Face layout.")
