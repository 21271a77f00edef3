"""Runs one group: every engine loaded once, then round after round of each cell on each engine, one at a time.

An engine that cannot be loaded, fails or dies is noted where it did, and the rest goes on. A peer far behind the best
peer of a cell is not repeated there, and a disturbed repetition is made up for in extra rounds while there is time.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.agreement import agreement
from benchmarks.peers.cells import Cell, Precision, load_of
from benchmarks.peers.machine import CpuClock
from benchmarks.peers.process import Worker, WorkerError
from benchmarks.peers.registry import OURS, EngineKind, model_path
from benchmarks.peers.results import CellResult, EngineResult, Group, Repetition
from benchmarks.peers.shapes import SHAPES, ModelName

_LOAD_TIMEOUT_S = 240.0
_RUN_TIMEOUT_S = 400.0
_HOPELESS = 0.6
_WARM_UP_TOKENS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a group is run.

    ``extra_rounds`` make up for disturbed ones; ``deadline_s`` is a moment of ``time.monotonic``; ``roofline`` is the
    module that measures the machine.
    """

    repeats: int
    extra_rounds: int
    num_threads: int
    deadline_s: float
    roofline: str = "benchmarks.peers.engines.roofline"


class GroupRun:
    """A model in one class of precision on all engines, from loading to the last round."""

    def __init__(self, model: ModelName, precision: Precision, kinds: list[EngineKind], cells: list[Cell], plan: Plan) -> None:
        self._model: ModelName = model
        self._precision: Precision = precision
        self._kinds, self._plan = kinds, plan
        self._load = load_of(cells)
        self._workers: dict[str, Worker] = {}
        roofline_cells = [Cell(kind="bandwidth", num_sequences=n, variant="dram") for n in sorted({1, plan.num_threads})]
        # Peers and ours multiply 4-bit weights as 8-bit ones.
        products = [precision if precision != "int4" else "int8", f"own {precision}"]
        roofline_cells += [Cell(kind="gemm", num_sequences=plan.num_threads, variant=product) for product in products]
        roofline = EngineResult("roofline", "this machine", cells=[CellResult(cell) for cell in roofline_cells])
        self._group = Group(model=model, precision=precision, cells=cells, engines=[], roofline=roofline)

    def run(self, reference: list[list[float]] | None) -> Group:
        """Load, measure and end every engine. ``reference`` is the float32 answer that each one's own is compared with."""
        try:
            self._start_roofline()
            for kind in self._kinds:
                self._start(kind, reference)
            self._rounds()
        finally:
            for worker in self._workers.values():
                worker.close()
        return self._group

    def _start_roofline(self) -> None:
        self._begin(self._group.roofline, Path(sys.executable), self._plan.roofline, Path())

    def _start(self, kind: EngineKind, reference: list[list[float]] | None) -> None:
        result = EngineResult(kind.name, kind.title, cells=[CellResult(cell) for cell in self._group.cells])
        self._group.engines.append(result)
        adapter = kind.adapter(self._model)
        result.problem = kind.refusal(self._model, self._precision)
        if result.problem is not None or adapter is None:
            return
        try:
            path = model_path(kind, self._model, self._precision)
        except RuntimeError as error:
            result.problem = str(error)
            return
        if self._begin(result, kind.python, adapter, path) and reference is not None:
            try:
                reply = self._workers[kind.name].call({"op": "check", "kind": self._check_kind}, timeout_s=_RUN_TIMEOUT_S)
                result.agreement = agreement(self._check_kind, reply["check"], reference)
            except WorkerError as error:
                self._fail(result, error)

    @property
    def _check_kind(self) -> str:
        return "encode" if SHAPES[self._model].kind == "encoder" else "decode"

    def _begin(self, result: EngineResult, python: Path, module: str, path: Path) -> bool:
        """Start the worker and load the model; note what it took, or why it did not."""
        command = {
            "op": "load",
            "model": self._model,
            "path": str(path),
            "precision": self._precision,
            "num_threads": self._plan.num_threads,
            "load": self._load.to_json(),
            "num_vocab": SHAPES[self._model].num_vocab,
        }
        worker = Worker(python, module, num_threads=self._plan.num_threads)
        self._workers[result.name] = worker
        try:
            reply = worker.call(command, timeout_s=_LOAD_TIMEOUT_S)
        except WorkerError as error:
            result.problem = str(error)
            worker.close()
            del self._workers[result.name]
            return False
        result.load_s, result.load_peak_bytes = reply["load_s"], reply["load_peak_bytes"]
        return True

    def _rounds(self) -> None:
        plan = self._plan
        for index in range(plan.repeats + plan.extra_rounds):
            is_extra = index >= plan.repeats
            if is_extra and not any(self._is_wanted(result, cell, is_extra) for result in self._group.engines for cell in result.cells):
                return
            print(f"{self._model} {self._precision} round {index + 1}", flush=True)
            self._group.num_rounds = index + 1
            for cell_result in self._group.roofline.cells:
                self._repeat(self._group.roofline, cell_result, index)
            for cell in self._group.cells:
                turn = index % max(1, len(self._group.engines))
                for result in self._group.engines[turn:] + self._group.engines[:turn]:
                    if time.monotonic() > plan.deadline_s:
                        self._note_deadline()
                        return
                    if self._is_wanted(result, result.cell(cell), is_extra):
                        self._repeat(result, result.cell(cell), index)

    def _is_wanted(self, result: EngineResult, cell: CellResult, is_extra: bool) -> bool:
        if result.name not in self._workers or cell.problem is not None:
            return False
        if self._is_hopeless(result, cell):
            return False
        return not is_extra or len(cell.repetitions) - cell.num_disturbed < self._plan.repeats

    def _is_hopeless(self, result: EngineResult, cell: CellResult) -> bool:
        """Tell whether a peer is so far behind the best peer in this cell that repeating it would only cost time."""
        if result.name == OURS or not cell.repetitions:
            return False
        medians = [
            rival.cell(cell.cell).median() for rival in self._group.engines if rival.name != OURS and rival.cell(cell.cell).repetitions
        ]
        if cell.cell.is_lower_better:
            return cell.median() * _HOPELESS > min(medians)
        return cell.median() < _HOPELESS * max(medians)

    def _repeat(self, result: EngineResult, cell: CellResult, round_index: int) -> None:
        worker = self._workers.get(result.name)
        if worker is None:
            return
        try:
            if not cell.repetitions:
                self._warm_up(worker, cell.cell)
            before = CpuClock.read(worker.pid)
            reply = worker.call(self._command(cell.cell, seed=1 + round_index), timeout_s=_RUN_TIMEOUT_S)
            foreign_ratio = before.foreign_ratio(CpuClock.read(worker.pid))
        except WorkerError as error:
            cell.problem = str(error)
            if error.is_fatal:
                self._fail(result, error)
            return
        cell.repetitions.append(Repetition(round_index=round_index, figures=reply["figures"], foreign_ratio=foreign_ratio))
        result.serving_peak_bytes = max(result.serving_peak_bytes, reply["peak_bytes"])

    def _warm_up(self, worker: Worker, cell: Cell) -> None:
        """Run the load once, with few new tokens, so that nobody is measured while it compiles or allocates."""
        shorter = Cell(**(cell.to_json() | {"new_tokens": min(cell.new_tokens, _WARM_UP_TOKENS)}))
        worker.call(self._command(shorter, seed=0), timeout_s=_RUN_TIMEOUT_S)

    def _command(self, cell: Cell, *, seed: int) -> dict[str, Any]:
        return {"op": "run", "cell": cell.to_json(), "seed": seed}

    def _fail(self, result: EngineResult, error: WorkerError) -> None:
        result.problem = str(error)
        worker = self._workers.pop(result.name, None)
        if worker is not None:
            worker.close()

    def _note_deadline(self) -> None:
        for result in self._group.engines:
            for cell in result.cells:
                if not cell.repetitions and cell.problem is None:
                    cell.problem = "not reached within the time limit"
