"""A rank but the first: a process that has its share of the weights and of the cache, does what it is told, and answers nothing.

It has no scheduler, no heads and no requests. It ends with the process that started it, whatever that dies of, and at the
first thing that goes wrong: the others then lose it, and their engine fails as a whole.
"""

import ctypes
import logging
import os
import signal
import socket
import sys
from pathlib import Path

import torch

from attendant_engine.attention.base import LayerCache
from attendant_engine.cache.tensors import CacheTensors
from attendant_engine.errors import EngineError, ReplicaFaultError
from attendant_engine.kernels.cpu.library import load_library
from attendant_engine.models.base import Trunk
from attendant_engine.models.native import NativeTrunk
from attendant_engine.models.sharding import shard_config
from attendant_engine.parallel.frames import Frame, receive_frame, send_frame, watch_for_hang_up
from attendant_engine.parallel.job import RankJob, dtype_named
from attendant_engine.parallel.steps import decode_integers, decode_step
from attendant_engine.rank_group import RankGroup
from attendant_engine.weights.checkpoint import read_model_config
from attendant_engine.weights.loader import load_trunk

_PR_SET_PDEATHSIG = 1
_logger = logging.getLogger(__name__)
_FAILED = "A process of the model's engine could not load its share; the server's log says why."


def main() -> None:
    """Serve until the first rank hangs up. The only argument: the number of the socket to it."""
    leader = socket.socket(fileno=int(sys.argv[1]))
    _end_with_parent()
    # Elsewhere, and when a parent was gone before it was asked for: even out of a sum that never ends.
    watch_for_hang_up([leader], lambda: os._exit(0))
    first = receive_frame(leader)
    if first is not None:
        try:
            _serve(leader, RankJob.from_bytes(first[1]))
        except ReplicaFaultError:
            sys.exit(1)  # another rank is gone, and the first says so


@torch.inference_mode()
def _serve(leader: socket.socket, job: RankJob) -> None:
    device = torch.device(job.device)
    group = RankGroup(rank=job.rank, num_ranks=job.num_ranks, device=device)
    try:
        rank = Rank(job, group, device)
    except EngineError as error:
        send_frame(leader, Frame.FAILED, error.message.encode())
        return
    except Exception:
        _logger.exception("Rank %d could not load its share.", job.rank)
        send_frame(leader, Frame.FAILED, _FAILED.encode())
        return
    send_frame(leader, Frame.LOADED)
    group.connect(Path(job.rendezvous))
    while (frame := receive_frame(leader)) is not None:
        rank.do(*frame)


class Rank:
    """One rank's trunk and cache."""

    def __init__(self, job: RankJob, group: RankGroup, device: torch.device) -> None:
        _set_threads(job)
        self._device = device
        self._group = group
        path = Path(job.path)
        self._trunk: Trunk = load_trunk(
            path, dtype=dtype_named(job.dtype), device=device, attention_backend=job.attention_backend, ranks=group
        )
        if isinstance(self._trunk, NativeTrunk):
            self._trunk.reserve(job.max_batch_tokens)
        self.cache: CacheTensors | None = None
        if job.num_blocks > 0:
            self.cache = CacheTensors(
                shard_config(read_model_config(path), job.num_ranks),
                num_blocks=job.num_blocks,
                block_size=job.block_size,
                dtype=dtype_named(job.cache_dtype),
                device=device,
                attention_backend=job.attention_backend,
            )

    def do(self, kind: Frame, data: bytearray) -> None:
        """Take part in what the first rank does now."""
        if kind is Frame.STEP:
            layers: tuple[LayerCache, ...] = () if self.cache is None else self.cache.layers
            self._trunk(decode_step(data, layers, self._device))
        elif kind is Frame.MEET:
            self._group.meet()
        else:
            assert self.cache is not None, "blocks are a cache's"
            integers = decode_integers(data)
            if kind is Frame.ZERO_BLOCKS:
                self.cache.zero_blocks(integers)
            else:
                assert kind is Frame.COPY_BLOCKS, "the other frames are of the load"
                self.cache.copy_blocks(list(zip(integers[::2], integers[1::2], strict=True)))


def _end_with_parent() -> None:
    """Have the system kill this process when the thread that started it ends, which is the engine's: one that is stopped too."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _set_threads(job: RankJob) -> None:
    library = load_library() if job.attention_backend == "native" else None
    if library is not None:
        library.set_num_threads(job.num_threads)
    torch.set_num_threads(1 if library is not None else job.num_threads)
    if job.device.startswith("cuda"):
        torch.cuda.set_device(torch.device(job.device))
