"""The first rank's trunk: it has the other ranks run each step and runs its own share of it."""

import logging

import torch

from attendant_engine.errors import ReplicaFaultError
from attendant_engine.models.base import ModelInputs, Trunk
from attendant_engine.models.native import NativeTrunk
from attendant_engine.parallel.peers import Peers

_logger = logging.getLogger(__name__)


class LeaderTrunk:
    """A trunk of which every rank has a share. What it returns is complete: a step ends with a sum over all of them."""

    def __init__(self, trunk: Trunk, peers: Peers) -> None:
        self._trunk = trunk
        self._peers = peers

    @property
    def is_native(self) -> bool:
        """Whether the native kernels compute every rank's share."""
        return isinstance(self._trunk, NativeTrunk)

    def __call__(self, inputs: ModelInputs) -> torch.Tensor:
        """Return ``[T, E]``. Raises ``ReplicaFaultError`` for anything: no rank can go on from a step that another has left."""
        self._peers.step(inputs)
        try:
            return self._trunk(inputs)
        except ReplicaFaultError as error:
            raise self._peers.fault() from error
        except Exception as error:
            _logger.exception("A step of a model with several ranks failed.")
            raise ReplicaFaultError("A step failed in one of the processes that share the model, and they cannot go on.") from error


def is_native(trunk: Trunk) -> bool:
    """Tell whether the native kernels compute ``trunk``, on one rank or several: its bits are then the same in any batch."""
    return isinstance(trunk, NativeTrunk) or (isinstance(trunk, LeaderTrunk) and trunk.is_native)
