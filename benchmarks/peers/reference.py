"""What each model answers in float32, by transformers: computed once and kept beside the model."""

import json
from typing import Any

from benchmarks.peers.cells import Load
from benchmarks.peers.environment import HOME
from benchmarks.peers.process import Worker, WorkerError
from benchmarks.peers.registry import ENGINES, model_path
from benchmarks.peers.shapes import SHAPES, ModelName

_TIMEOUT_S = 240.0


def reference_answer(model: ModelName, num_threads: int) -> list[list[float]] | None:
    """Return the answer to the worker's fixed load; None where transformers is not there to give it."""
    path = HOME / "models" / model / "reference.json"
    if not path.exists():
        kind = next(kind for kind in ENGINES if kind.name == "transformers")
        adapter = kind.adapter(model)
        assert adapter is not None
        worker = Worker(kind.python, adapter, num_threads=num_threads)
        load = Load(max_sequences=2, max_tokens=64, total_tokens=128)
        command: dict[str, Any] = {"op": "load", "model": model, "path": str(model_path(kind, model, "float32")), "precision": "float32"}
        command |= {"num_threads": num_threads, "load": load.to_json(), "num_vocab": SHAPES[model].num_vocab}
        try:
            worker.call(command, timeout_s=_TIMEOUT_S)
            check = "encode" if SHAPES[model].kind == "encoder" else "decode"
            path.write_text(json.dumps(worker.call({"op": "check", "kind": check}, timeout_s=_TIMEOUT_S)["check"]))
        except WorkerError:
            return None
        finally:
            worker.close()
    answer: list[list[float]] = json.loads(path.read_text())
    return answer
