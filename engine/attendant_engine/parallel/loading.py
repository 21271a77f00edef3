"""Loads a model as planned: by itself, or shared out among the ranks that the plan names, of which this process is the first."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from attendant_engine.kernels.cpu.library import load_library
from attendant_engine.models.base import LoadedModel
from attendant_engine.models.native import NativeTrunk
from attendant_engine.parallel.job import RankJob, name_of
from attendant_engine.parallel.peers import Peers
from attendant_engine.parallel.trunk import LeaderTrunk
from attendant_engine.plan import Plan
from attendant_engine.rank_group import RankGroup
from attendant_engine.weights.loader import load_model


def load_planned_model(path: Path, plan: Plan) -> LoadedModel:
    """Load the checkpoint in ``path``. Raises as ``load_model`` does, and ``CheckpointError`` where another rank cannot load."""
    device, num_ranks = torch.device(plan.config.device), plan.config.tensor_parallel
    group = RankGroup(rank=0, num_ranks=num_ranks, device=device) if num_ranks > 1 else None
    peers = None if group is None else Peers(group, partial(_job, path, plan))
    try:
        model = load_model(
            path,
            dtype=plan.dtype,
            device=device,
            attention_backend=plan.config.attention_backend,
            quantization=plan.config.quantization,
            adapters=plan.config.adapters,
            ranks=group,
        )
        if isinstance(model.trunk, NativeTrunk):
            model.trunk.reserve(plan.max_batch_tokens)  # what was planned, and no more as steps grow
        if peers is None:
            return model
        peers.join()
    except BaseException:
        if peers is not None:
            peers.close()
        raise
    return replace(model, trunk=LeaderTrunk(model.trunk, peers), peers=peers)


def _job(path: Path, plan: Plan, rank: int, rendezvous: str) -> RankJob:
    config = plan.config
    library = load_library() if config.attention_backend == "native" else None
    most_threads = torch.get_num_threads() if library is None else library.num_threads
    return RankJob(
        rank=rank,
        num_ranks=config.tensor_parallel,
        path=str(path.absolute()),
        rendezvous=rendezvous,
        device=f"cuda:{rank}" if config.device == "cuda" else config.device,
        dtype=name_of(plan.dtype),
        cache_dtype=name_of(plan.cache_dtype),
        attention_backend=config.attention_backend,
        num_blocks=plan.num_blocks,
        block_size=config.block_size,
        max_batch_tokens=plan.max_batch_tokens,
        num_threads=min(most_threads, config.num_torch_threads or most_threads),
    )
