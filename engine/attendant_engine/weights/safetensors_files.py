"""Which safetensors files hold a checkpoint's tensors, and their headers; never a pickle, never a file outside the directory.

Format: 8 bytes of little-endian header length, a JSON header of name to dtype, shape and offsets, then the data.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from attendant_engine.errors import CheckpointError
from attendant_engine.json_fields import read_fields

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

BYTES_BY_DTYPE = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
"""Sizes of the element types that may stand in a checkpoint's files; what is loaded as a weight is narrower."""

_MAX_HEADER_BYTES = 100_000_000
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

TensorHeaders = dict[str, tuple[str, tuple[int, ...]]]
"""Tensor name to (safetensors dtype, shape)."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as it lies in its file: safetensors dtype, shape, and the position of its first byte."""

    dtype: str
    shape: tuple[int, ...]
    offset: int


def weight_files(directory: Path) -> tuple[Path, ...]:
    """Return the files that hold the weights, in name order.

    Raises ``CheckpointError`` when there are none, when only pickles are there, or when the index names a file that is
    missing or outside the directory.
    """
    if (directory / SINGLE_FILE).exists():
        return (_checked(directory, SINGLE_FILE),)
    if (directory / INDEX_FILE).exists():
        return tuple(_checked(directory, name) for name in sorted(set(read_index(directory).values())))
    pickles = sorted(path.name for path in directory.iterdir() if path.suffix in _PICKLE_SUFFIXES)
    if pickles:
        raise CheckpointError(
            f"The weights are pickled ({pickles[0]}), which can run code when it is loaded; convert them to {SINGLE_FILE}."
        )
    raise CheckpointError(f"The model directory has neither {SINGLE_FILE} nor {INDEX_FILE}.")


def read_index(directory: Path) -> dict[str, str]:
    """Return the shard that each tensor is in."""
    weight_map = read_fields(directory, INDEX_FILE).fields("weight_map")
    if weight_map is None or not weight_map.values:
        raise CheckpointError(f"{INDEX_FILE}: weight_map is missing.")
    return {name: weight_map.text(name) for name in weight_map.values}


def read_headers(directory: Path) -> TensorHeaders:
    """Return dtype and shape of every tensor, reading headers alone.

    Raises ``CheckpointError`` for a damaged file, a tensor in two files, or an index that disagrees with its shards.
    """
    headers: TensorHeaders = {}
    for path in weight_files(directory):
        for name, header in read_header(path).items():
            if name in headers:
                raise CheckpointError(f"{path.name}: tensor {name} is in another file too.")
            headers[name] = header
    if not (directory / SINGLE_FILE).exists():
        absent = sorted(set(read_index(directory)) - set(headers))
        if absent:
            raise CheckpointError(f"{INDEX_FILE} promises {absent[0]} and its shards do not have it.")
    return headers


def read_header(path: Path) -> TensorHeaders:
    """Return dtype and shape of every tensor in one file; see ``read_layout``."""
    return {name: (tensor.dtype, tensor.shape) for name, tensor in read_layout(path).items()}


def read_layout(path: Path) -> dict[str, StoredTensor]:
    """Parse and check one file's header: entries, sizes and offsets must account for every byte of the file."""
    try:
        file_bytes = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if file_bytes < 8 or not 2 <= header_bytes <= min(_MAX_HEADER_BYTES, file_bytes - 8):
                raise CheckpointError(f"{path.name} is damaged or is no safetensors file; download it again.")
            raw = file.read(header_bytes)
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read ({error.strerror}).") from None
    try:
        entries = json.loads(raw)
        tensors, data_bytes = _parse_entries(path.name, entries, start=8 + header_bytes)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise CheckpointError(f"{path.name} has a damaged header; download it again.") from None
    if data_bytes != file_bytes - 8 - header_bytes:
        raise CheckpointError(f"{path.name} should have {8 + header_bytes + data_bytes} bytes and has {file_bytes}; download it again.")
    return tensors


def digest(paths: tuple[Path, ...]) -> str:
    """Return the sha256, in hexadecimal, over the contents of the files one after another."""
    total = hashlib.sha256()
    buffer = memoryview(bytearray(1 << 18))
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while num_bytes := file.readinto(buffer):
                total.update(buffer[:num_bytes])
    return total.hexdigest()


def _checked(directory: Path, name: str) -> Path:
    path = directory / name
    if Path(name).name != name:
        raise CheckpointError(f"{INDEX_FILE} names {name!r:.80}, which is not a plain file name.")
    if path.is_symlink() and not _is_in_hub_cache(directory, path):
        raise CheckpointError(f"{name} is a symbolic link out of the model directory; put the file itself there.")
    if not path.is_file():
        raise CheckpointError(f"The weight file {name} is missing; download the checkpoint again.")
    return path


def _is_in_hub_cache(directory: Path, path: Path) -> bool:
    """Tell whether a link stays in the model's directory, or is the hub cache's own ``snapshots/x/y -> blobs/z``."""
    target, home = path.resolve(), directory.resolve()
    return target.is_relative_to(home) or (home.parent.name == "snapshots" and target.parent == home.parent.parent / "blobs")


def _parse_entries(file_name: str, entries: Mapping[str, Mapping[str, object]], *, start: int) -> tuple[dict[str, StoredTensor], int]:
    """Return the tensors and how many bytes of data they have; data begin at byte ``start`` of the file."""
    tensors: dict[str, StoredTensor] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in BYTES_BY_DTYPE:
            raise CheckpointError(f"{file_name}: tensor {name} has the unsupported dtype {dtype!r:.40}.")
        if not (isinstance(shape, list) and isinstance(offsets, list) and all(type(size) is int and size >= 0 for size in shape)):
            raise TypeError(name)
        first, last = (int(offset) for offset in offsets)
        if last - first != math.prod(shape) * BYTES_BY_DTYPE[dtype]:
            raise ValueError(name)
        tensors[name] = StoredTensor(dtype, tuple(shape), start + first)
        spans.append((first, last))
    end = 0
    for first, last in sorted(spans):
        if first != end:
            raise ValueError("gap or overlap")
        end = last
    return tensors, end
