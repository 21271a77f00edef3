"""Which engines are compared, on which models, and in what format each wants them."""

import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from benchmarks.peers.cells import Precision
from benchmarks.peers.environment import HOME, PYTHON, ROOT
from benchmarks.peers.shapes import SHAPES, ModelName
from benchmarks.peers.sources import write_source

OURS = "attendant"
_ADAPTERS = "benchmarks.peers.engines"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKind:
    """One engine: its adapter (a module) for each kind of model, the format it reads and the interpreter it runs in.

    ``format`` None reads the source checkpoint. ``shared`` maps a class to the one whose file it uses.
    ``cannot`` and ``cannot_kind`` say why a class or a kind of model is not measured.
    """

    name: str
    title: str
    decoder: str | None
    encoder: str | None
    format: str | None = None
    shared: dict[Precision, Precision] = field(default_factory=dict)
    cannot: dict[Precision, str] = field(default_factory=dict)
    cannot_kind: dict[Literal["decoder", "encoder"], str] = field(default_factory=dict)
    python: Path = PYTHON

    def adapter(self, model: ModelName) -> str | None:
        """Return the adapter's module for ``model``, None where there is none."""
        return self.decoder if SHAPES[model].kind == "decoder" else self.encoder

    def refusal(self, model: ModelName, precision: Precision) -> str | None:
        """Return why this engine is not measured on ``model`` in this class; None if it is."""
        return self.cannot_kind.get(SHAPES[model].kind) or self.cannot.get(precision)


ENGINES = (
    EngineKind(
        name=OURS,
        title="attendant",
        decoder=f"{_ADAPTERS}.attendant",
        encoder=f"{_ADAPTERS}.attendant",
        python=Path(sys.executable),
    ),
    EngineKind(
        name="openvino",
        title="OpenVINO",
        decoder=f"{_ADAPTERS}.openvino_genai",
        encoder=f"{_ADAPTERS}.openvino_encoder",
        format="openvino",
        shared={"bfloat16": "float32"},
    ),
    EngineKind(
        name="llamacpp",
        title="llama.cpp",
        decoder=f"{_ADAPTERS}.llamacpp",
        encoder=None,
        format="gguf",
        cannot_kind={"encoder": "not among the peers for encoders"},
    ),
    EngineKind(
        name="ctranslate2",
        title="CTranslate2",
        decoder=f"{_ADAPTERS}.ctranslate2_decoder",
        encoder=f"{_ADAPTERS}.ctranslate2_encoder",
        format="ctranslate2",
        cannot={"bfloat16": "no bfloat16 on a CPU", "int4": "no 4-bit weights on a CPU"},
    ),
    EngineKind(
        name="transformers",
        title="transformers",
        decoder=f"{_ADAPTERS}.transformers_decoder",
        encoder=f"{_ADAPTERS}.transformers_encoder",
        cannot={"int8": "no int8 of its own on a CPU", "int4": "no 4-bit weights of its own on a CPU"},
    ),
    EngineKind(
        name="onnxruntime",
        title="onnxruntime",
        decoder=None,
        encoder=f"{_ADAPTERS}.onnxruntime_encoder",
        format="onnxruntime",
        cannot={"bfloat16": "no bfloat16 kernels for a Transformer on a CPU"},
        cannot_kind={"decoder": "generates only with onnxruntime-genai, which is not among the peers"},
    ),
    EngineKind(
        name="sentence-transformers",
        title="sentence-transformers",
        decoder=None,
        encoder=f"{_ADAPTERS}.sentence_transformers",
        cannot={"int8": "no int8 of its own on a CPU"},
        cannot_kind={"decoder": "encoders only"},
    ),
)


def ours(*, has_int8_cache: bool) -> EngineKind:
    """Return our engine, with keys and values in int8 if asked for."""
    plain = next(kind for kind in ENGINES if kind.name == OURS)
    if not has_int8_cache:
        return plain
    return replace(plain, title="attendant, int8 cache", decoder=f"{_ADAPTERS}.attendant_int8_cache")


def model_path(kind: EngineKind, model: ModelName, precision: Precision) -> Path:
    """Return where ``kind`` finds the model, made now if it is not there. Raises ``RuntimeError`` if it cannot be made."""
    folder = HOME / "models" / model
    source = write_source(model, folder / "source")
    if kind.format is None:
        return source
    precision = kind.shared.get(precision, precision)
    target = folder / f"{kind.format}-{precision}"
    if target.exists():
        return target
    unfinished = target.with_name(f"{target.name}.unfinished")
    subprocess.run(["rm", "-rf", str(unfinished)], check=True)
    print(f"converting {model} for {kind.title}, {precision}", flush=True)
    command = [str(PYTHON), "-m", "benchmarks.peers.convert", kind.format, model, precision, str(source), str(unfinished)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "nothing said")
        raise RuntimeError(f"the model could not be converted: {last[:200]}")
    unfinished.rename(target)
    return target
