"""Each rank reads its own share of every weight, and the shares together are the checkpoint; steps travel whole."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from attendant_engine.attention.base import AttentionMetadata
from attendant_engine.attention.registry import load_backend
from attendant_engine.config import AdapterSource, EngineConfig
from attendant_engine.errors import InvalidRequestError
from attendant_engine.models.base import ModelInputs
from attendant_engine.models.registry import BuiltModel, build_model
from attendant_engine.models.sharding import shard_config, shard_model
from attendant_engine.parallel.frames import Frame
from attendant_engine.parallel.job import RankJob
from attendant_engine.parallel.process import Rank
from attendant_engine.parallel.steps import decode_step, encode_integers, encode_step
from attendant_engine.plan import plan_model
from attendant_engine.rank_group import RankGroup
from attendant_engine.weights.checkpoint import read_model_config
from attendant_engine.weights.model_weights import ModelWeights
from attendant_engine.weights.tensor_reader import TensorReader
from tests.engine.parallel import checkpoints

CPU = torch.device("cpu")


@dataclass(frozen=True)
class NoRanks:
    """A place among ranks that never meet."""

    rank: int
    num_ranks: int

    def sum(self, part: torch.Tensor) -> torch.Tensor:
        """Never."""
        raise AssertionError

    def add(self, part: torch.Tensor, residual: torch.Tensor | None, out: torch.Tensor) -> None:
        """Never."""
        raise AssertionError


def load(path: Path, rank: int | None = None) -> dict[str, torch.Tensor]:
    """Return the trunk's weights by name, whole or of one of two ranks."""
    config = read_model_config(path)
    with torch.device("meta"):
        built = build_model(config if rank is None else shard_config(config, 2), load_backend("torch", CPU))
    if rank is not None:
        shard_model(built, config.family, NoRanks(rank, 2))
    with ModelWeights(path, built, config, dtype=torch.float32, device=CPU) as weights:
        weights.fill(built.trunk)
        weights.check_complete(BuiltModel(trunk=built.trunk).modules_with_weights)
    return dict(built.trunk.named_parameters())


@pytest.mark.parametrize("family", checkpoints.FAMILIES)
def test_the_products_of_two_shares_add_up_to_that_of_the_whole(family: str, tmp_path: Path) -> None:
    path = checkpoints.write(family, tmp_path)
    whole, first, second = load(path), load(path, 0), load(path, 1)
    num_cut = 0
    for name, weight in whole.items():
        if name not in second:  # a bias that the first adds
            assert torch.equal(first[name], weight)
        elif first[name].shape == weight.shape:
            assert torch.equal(first[name], weight) and torch.equal(second[name], weight)
        else:
            num_cut += 1
            cut = next(dim for dim in range(weight.dim()) if first[name].shape[dim] != weight.shape[dim])
            sections = [list(torch.tensor_split(share, 3 if "c_attn" in name else 1, cut)) for share in (first[name], second[name])]
            together = [part for pair in zip(*sections, strict=True) for part in pair]
            assert torch.equal(torch.cat(together, cut), weight), name
    assert num_cut >= 8
    assert {name for name in whole if name not in second} == {
        name for name in whole if name.endswith(("c_proj.bias", "o_proj.bias", "output.dense.bias"))
    }


def test_a_rank_reads_no_more_of_a_weight_than_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoints.write("gpt2", tmp_path)
    (file,) = path.glob("*.safetensors")
    read: list[int] = []

    def count(descriptor: int, into: torch.Tensor, offset: int, file_name: str) -> None:
        read.append(into.numel())

    monkeypatch.setattr("attendant_engine.weights.tensor_reader._read", count)
    with TensorReader((file,)) as reader:
        for rows, columns in ((None, ((0, 24), (48, 72))), (((24, 48),), None), (((1, 3), (7, 8)), ((5, 6),))):
            read.clear()
            shapes = [tuple(piece.shape) for _, piece in reader.row_chunks("h.0.attn.c_attn.weight", rows=rows, columns=columns)]
            num_rows = 48 if rows is None else sum(last - first for first, last in rows)
            num_columns = 144 if columns is None else sum(last - first for first, last in columns)
            assert sum(shape[0] for shape in shapes) == num_rows
            assert {shape[1] for shape in shapes} == {num_columns}
            assert sum(read) == num_rows * num_columns * 4


def test_rows_and_columns_are_those_that_were_asked_for(tmp_path: Path) -> None:
    path = checkpoints.write("gpt2", tmp_path)
    (file,) = path.glob("*.safetensors")
    name = "h.0.attn.c_attn.weight"
    with TensorReader((file,)) as reader:
        ((_, piece),) = reader.row_chunks(name)
        whole = piece.clone()
        rows, columns = ((1, 3), (7, 8)), ((5, 6), (9, 11))
        found = torch.empty(3, 3)
        for first, piece in reader.row_chunks(name, rows=rows, columns=columns):
            found[first : first + len(piece)] = piece
    assert torch.equal(found, whole[[1, 2, 7]][:, [5, 9, 10]])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tensor_parallel": 4}, "tensor_parallel is 4, which does not divide the model's 2 key/value heads; use 2."),
        ({"tensor_parallel": 3}, "tensor_parallel is 3, which does not divide the model's 2 key/value heads; use 2."),
        ({"tensor_parallel": 0}, "tensor_parallel is 0; it must be at least 1."),
        (
            {"tensor_parallel": 2, "quantization": "int8"},
            "tensor_parallel is 2, and quantization int8 takes one process; leave one of the two out.",
        ),
        (
            {"tensor_parallel": 2, "adapters": (AdapterSource(name="mine", path="nowhere"),)},
            "tensor_parallel is 2, and a model with adapters (mine) takes one process; serve it with tensor_parallel 1.",
        ),
    ],
)
def test_what_cannot_be_shared_out_is_refused_in_one_sentence(changes: dict[str, object], sentence: str, tmp_path: Path) -> None:
    path = checkpoints.write("llama", tmp_path)
    with pytest.raises(InvalidRequestError) as refused:
        plan_model(path, replace(EngineConfig(device="cpu"), **changes))  # type: ignore[arg-type]
    assert (refused.value.message, refused.value.param) == (sentence, "tensor_parallel")


def test_a_plan_counts_one_ranks_weights_and_heads(tmp_path: Path) -> None:
    path = checkpoints.write("llama", tmp_path)
    one, two = (plan_model(path, EngineConfig(device="cpu", attention_backend="torch", tensor_parallel=count)) for count in (1, 2))
    own = sum(weight.numel() for weight in load(path, 0).values()) + checkpoints.VOCAB_SIZE * 40
    assert two.weight_bytes == 4 * own < one.weight_bytes
    assert two.bytes_per_token * 2 == one.bytes_per_token


def inputs_of(*, is_cached: bool, has_types: bool) -> ModelInputs:
    """Two sequences of three tokens and one, packed."""
    return ModelInputs(
        token_ids=torch.tensor([7, 8, 9, 5]),
        positions=torch.tensor([0, 1, 2, 33]),
        token_type_ids=torch.tensor([0, 1, 1, 0]) if has_types else None,
        layer_caches=() if is_cached else None,
        attention=AttentionMetadata(
            cu_seqlens_q=torch.tensor([0, 3, 4], dtype=torch.int32),
            seq_lens=torch.tensor([3, 34], dtype=torch.int32),
            query_lens=(3, 1),
            context_lens=(3, 34),
            # Of a wider table, as the packer's are.
            block_table=torch.arange(10, dtype=torch.int32).view(2, 5)[:, :3] if is_cached else None,
            slot_mapping=torch.tensor([3, 4, 5, 99]) if is_cached else None,
            is_causal=not has_types,
            window=11 if is_cached else None,
        ),
    )


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("has_types", [False, True])
def test_a_step_arrives_as_it_was_sent(is_cached: bool, has_types: bool) -> None:
    sent = inputs_of(is_cached=is_cached, has_types=has_types)
    received = decode_step(bytearray(encode_step(sent)), (), CPU)

    def fields(inputs: ModelInputs) -> Sequence[object]:
        metadata = inputs.attention
        tensors = (
            *(inputs.token_ids, inputs.positions, inputs.token_type_ids),
            *(metadata.cu_seqlens_q, metadata.seq_lens, metadata.block_table, metadata.slot_mapping),
        )
        listed = [None if tensor is None else (tensor.dtype, tensor.tolist()) for tensor in tensors]
        return [*listed, metadata.query_lens, metadata.context_lens, metadata.is_causal, metadata.window, inputs.layer_caches]

    assert fields(received) == fields(sent)


def test_a_rank_copies_and_erases_the_blocks_that_it_is_told_to(tmp_path: Path) -> None:
    job = RankJob(
        rank=1,
        num_ranks=2,
        path=str(checkpoints.write("llama", tmp_path)),
        rendezvous="",
        device="cpu",
        dtype="float32",
        cache_dtype="float32",
        attention_backend="torch",
        num_blocks=4,
        block_size=16,
        max_batch_tokens=64,
        num_threads=1,
    )
    rank = Rank(job, RankGroup(rank=1, num_ranks=2, device=CPU), CPU)
    assert rank.cache is not None
    for layer in rank.cache.layers:
        assert layer.key.shape == (4, 16, 1, 16)
        layer.key.copy_(torch.arange(4.0).view(4, 1, 1, 1).expand_as(layer.key))
        layer.value.fill_(5)
    rank.do(Frame.COPY_BLOCKS, bytearray(encode_integers([3, 0, 2, 1])))
    rank.do(Frame.ZERO_BLOCKS, bytearray(encode_integers([2])))
    for layer in rank.cache.layers:
        assert layer.key[:, 0, 0, 0].tolist() == [3, 2, 0, 3]
        assert layer.value[:, 0, 0, 0].tolist() == [5, 5, 0, 5]
