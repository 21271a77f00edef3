"""onnxruntime on a sentence encoder that its own optimiser has fused."""

from typing import Any

import numpy as np
import onnxruntime

from benchmarks.peers.engines.base import Setup, UnsupportedError


class OnnxruntimeEncoder:
    """One session."""

    def __init__(self, setup: Setup) -> None:
        if setup.precision not in ("float32", "int8"):
            raise UnsupportedError(f"onnxruntime's CPU provider has no {setup.precision} kernels for a Transformer")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = setup.num_threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(setup.path / "model.onnx"), options, providers=["CPUExecutionProvider"])

    def encode(self, batch: list[list[int]]) -> Any:
        """Return vectors ``[texts, width]``."""
        ids = np.array(batch, dtype=np.int64)
        return self._session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]


def load(setup: Setup) -> OnnxruntimeEncoder:
    """Open the session."""
    return OnnxruntimeEncoder(setup)
