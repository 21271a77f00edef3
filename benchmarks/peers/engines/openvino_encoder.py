"""OpenVINO's runtime on a sentence encoder: one stream, all threads on one batch."""

from typing import Any

import numpy as np
import openvino as ov

from benchmarks.peers.engines.base import Setup

_HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}


class OpenVinoEncoder:
    """One compiled network."""

    def __init__(self, setup: Setup) -> None:
        properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _HINTS[setup.precision],
            "INFERENCE_NUM_THREADS": setup.num_threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,
            "PERFORMANCE_HINT": "LATENCY",
        }
        core = ov.Core()
        self._request = core.compile_model(core.read_model(setup.path / "openvino_model.xml"), "CPU", properties).create_infer_request()

    def encode(self, batch: list[list[int]]) -> Any:
        """Return vectors ``[texts, width]``."""
        ids = np.array(batch, dtype=np.int64)
        return self._request.infer({"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]


def load(setup: Setup) -> OpenVinoEncoder:
    """Compile the network."""
    return OpenVinoEncoder(setup)
