"""Ranks, the processes that share one model's weights, and how they add up what each has computed; torch.distributed beneath.

Every rank gathers the parts of all and adds them in rank order. A ring all-reduce would send less, but the order in which
it adds an element depends on the tensor's size, so on the batch, and the bits of an answer with it. The groups are made
directly and not as torch's global one: a process may serve several models.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch

from attendant_engine.errors import ReplicaFaultError

TIMEOUT_S = 60.0
"""A rank that is this late is given up; a hung engine is found long before, so this is for whoever waits for a dead one."""

LOST = "Processes of the model's engine have lost each other; try again when the engine has been replaced."


class Ranks(Protocol):
    """What a product needs that holds some of a weight's columns, and so computes only a part of each sum."""

    @property
    def rank(self) -> int:
        """Which of them this process is, from 0."""
        ...

    @property
    def num_ranks(self) -> int:
        """How many there are."""
        ...

    def sum(self, part: torch.Tensor) -> torch.Tensor:
        """Return the sum of every rank's ``part`` ``[T, E]``, added in float32 in rank order, in its dtype."""
        ...

    def add(self, part: torch.Tensor, residual: torch.Tensor | None, out: torch.Tensor) -> None:
        """Write the sum of every rank's ``part`` ``[T, E]`` float32 and the residual to ``out``, which may be the residual."""
        ...


class RankGroup:
    """This process's place among ``num_ranks``: gloo between CPUs of one machine, NCCL between its GPUs.

    Raises ``ReplicaFaultError`` when another rank is gone or too late; the group is of no use then. The path over NCCL has
    not been run by its authors, who had one GPU at most.
    """

    def __init__(self, *, rank: int, num_ranks: int, device: torch.device) -> None:
        self.rank = rank
        self.num_ranks = num_ranks
        self._device = device
        self._group: Any = None
        self._gathered = torch.empty(0)

    @property
    def needs_rendezvous(self) -> bool:
        """Whether the file at which the ranks met has to stay: NCCL's own watchers look at it."""
        return self._device.type == "cuda"

    def connect(self, rendezvous: Path) -> None:
        """Meet the other ranks at the file ``rendezvous``, which is empty before."""
        from torch.distributed import FileStore, distributed_c10d  # type: ignore[attr-defined] # it is documented

        try:
            store = FileStore(str(rendezvous), self.num_ranks)
            if self._device.type == "cuda":
                nccl: Any = distributed_c10d.ProcessGroupNCCL
                options = nccl.Options()
                options._timeout = timedelta(seconds=TIMEOUT_S)
                self._group = nccl(store, self.rank, self.num_ranks, options)
            else:
                gloo: Any = distributed_c10d.ProcessGroupGloo
                options = gloo._Options()
                options._timeout = timedelta(seconds=TIMEOUT_S)
                options._devices = [gloo.create_device(hostname="127.0.0.1")]  # all ranks are on one machine, and nobody else's business
                self._group = gloo(store, self.rank, self.num_ranks, options)
        except RuntimeError as error:
            raise ReplicaFaultError(LOST) from error

    def meet(self) -> None:
        """Wait until every rank is here."""
        self._gather(torch.zeros(1, 1, device=self._device)).cpu()  # NCCL's own wait is a GPU's, not ours

    def sum(self, part: torch.Tensor) -> torch.Tensor:
        """Return the sum of every rank's ``part``, as ``Ranks.sum`` says."""
        parts = self._gather(part.contiguous())
        total = parts[0].float() if part.dtype is not torch.float32 else parts[0].clone()
        for other in parts[1:]:
            total += other
        return total.to(part.dtype)

    def add(self, part: torch.Tensor, residual: torch.Tensor | None, out: torch.Tensor) -> None:
        """Write the sum of every rank's ``part`` and the residual to ``out``, as ``Ranks.add`` says."""
        parts = self._gather(part)
        if residual is None:
            out.copy_(parts[0])
        else:
            torch.add(residual, parts[0], out=out)
        for other in parts[1:]:
            out += other

    def abort(self) -> None:
        """Give up whatever is under way with the others: who waits for them gets an error where the transport can do that."""
        if self._device.type == "cuda" and self._group is not None:
            self._group.abort()

    def _gather(self, part: torch.Tensor) -> torch.Tensor:
        """Return every rank's ``part`` ``[T, E]``, which is contiguous, as ``[N, T, E]``, good until the next call."""
        assert self._group is not None, "the ranks have not met"
        shape = (self.num_ranks, *part.shape)
        num_elements = self.num_ranks * part.numel()
        if self._gathered.numel() < num_elements or self._gathered.dtype is not part.dtype:
            with torch.inference_mode(False):  # or it could be written inside of it alone
                self._gathered = torch.empty(num_elements, dtype=part.dtype, device=part.device)
        gathered = self._gathered[:num_elements].view(shape)
        gathered[self.rank].copy_(part)
        try:
            if part.device.type == "cuda":
                self._group._allgather_base(gathered.flatten(0, 1), part).wait()
            else:
                self._exchange(part, gathered)
        except RuntimeError as error:
            raise ReplicaFaultError(LOST) from error
        return gathered

    def _exchange(self, part: torch.Tensor, gathered: torch.Tensor) -> None:
        """Send and receive from each to each: between two ranks it takes half the time of gloo's all-gather."""
        others = [rank for rank in range(self.num_ranks) if rank != self.rank]
        works = [self._group.recv([gathered[rank]], rank, 0) for rank in others]
        works += [self._group.send([part], rank, 0) for rank in others]
        for work in works:
            work.wait()
