"""Faults on purpose, for tests: what a load, or a step that reads a certain token, is to do in place of its work.

A plan is text, ``load:KIND`` or ``PHASE:KIND:TOKEN_ID`` with commas between: ``step:kill:255`` kills the process in any
step that reads token 255, ``load:raise`` makes loading fail, ``link:cut:255`` breaks the connection that token 255 comes by,
which is the server's to do. A plan stands around the model's trunk; an engine without one runs nothing of this.
"""

import os
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn, cast

import torch

from attendant_engine.errors import CheckpointError, InvalidRequestError
from attendant_engine.models.base import ModelInputs, Trunk

Phase = Literal["load", "step", "link"]
Kind = Literal["raise", "memory", "nan", "kill", "hang", "cut"]
_KINDS: dict[Phase, tuple[Kind, ...]] = {
    "load": ("raise", "kill", "hang"),
    "step": ("raise", "memory", "nan", "kill", "hang"),
    "link": ("cut",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault; ``token_id`` is what has to be read for it."""

    phase: Phase
    kind: Kind
    token_id: int | None = None


def parse_faults(text: str) -> tuple[Fault, ...]:
    """Read a plan. Raises ``InvalidRequestError`` with the forms."""
    return tuple(_parse(part.strip()) for part in text.split(",") if part.strip())


def fault_load(faults: Sequence[Fault]) -> None:
    """Do to a load what the plan says."""
    for fault in faults:
        if fault.phase == "load":
            _strike(fault.kind, CheckpointError("The load was made to fail by a fault that was asked for."))


class FaultyTrunk:
    """A trunk that does what the plan says where a step reads its tokens, and is the one that it stands before elsewhere.

    Until ``is_armed`` it does nothing of the kind: what is computed at load is no request.
    """

    def __init__(self, trunk: Trunk, faults: Sequence[Fault]) -> None:
        self._trunk = trunk
        self.is_armed = False
        self._faults = [fault for fault in faults if fault.phase == "step"]

    def __call__(self, inputs: ModelInputs) -> torch.Tensor:
        """Return ``[T, E]``, as every trunk."""
        if not self.is_armed:
            return self._trunk(inputs)
        spoilt = torch.zeros_like(inputs.token_ids, dtype=torch.bool)
        for fault in self._faults:
            rows = torch.eq(inputs.token_ids, fault.token_id or 0)
            if fault.kind == "nan":
                spoilt |= rows
            elif bool(rows.any()):
                _strike(fault.kind, RuntimeError("a fault that was asked for"))
        hidden = self._trunk(inputs)
        hidden[spoilt] = float("nan")
        return hidden


def _parse(part: str) -> Fault:
    phase, _, rest = part.partition(":")
    kind, _, token_id = rest.partition(":")
    is_known = phase in _KINDS and kind in _KINDS[phase]
    if not is_known or (not token_id.isdecimal() if phase != "load" else bool(token_id)):
        forms = "; ".join(f"{name}: {', '.join(kinds)}" for name, kinds in _KINDS.items())
        raise InvalidRequestError(f"{part!r} is no fault; write load:KIND or PHASE:KIND:TOKEN_ID ({forms}).", param="faults")
    return Fault(phase=cast(Phase, phase), kind=cast(Kind, kind), token_id=int(token_id) if token_id else None)


def _strike(kind: Kind, error: Exception) -> NoReturn:
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind in ("kill", "hang"):
        threading.Event().wait()
    raise MemoryError if kind == "memory" else error
