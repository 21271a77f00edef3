"""The peers' own virtual environment: made once under ``.tools/peers``, at pinned versions, from the configured index.

torch goes first, alone and by its exact version: any looser request may fetch gigabytes of another build.
llama-cpp-python is compiled here for this processor; its wheel is kept, so that a second environment is quick.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".tools" / "peers"
VENV = HOME / "venv"
PYTHON = VENV / "bin" / "python"

TORCH = "torch==2.13.0"
LLAMA_CPP = "llama-cpp-python==0.3.36"
PEERS = {
    "openvino": ("openvino==2026.4.1", "openvino-genai==2026.4.1.0", "openvino-tokenizers==2026.4.1.0", "nncf==3.4.0"),
    "ctranslate2": ("ctranslate2==4.8.5",),
    "onnxruntime": ("onnxruntime==1.31.1", "onnx==1.23.2"),
    "transformers": ("transformers==5.23.0", "sentence-transformers==6.2.0", "numpy==2.4.6"),
    "gguf": ("gguf==0.19.0",),
}
_LLAMA_CPP_NEEDS = ("diskcache==5.6.3", "jinja2==3.1.6", "typing-extensions==4.16.0")
_LLAMA_CPP_BUILD = "-DGGML_NATIVE=ON -DGGML_LLAMAFILE=ON -DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF"


def install(*, jobs: int = 2) -> list[str]:
    """Make the environment unless it is there; return a sentence for each part that could not be installed."""
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    problems = []
    parts = [(name, [["install", TORCH, *pins]]) for name, pins in PEERS.items()]
    for name, steps in [("torch", [["install", TORCH]]), *parts, ("llama-cpp-python", _llama_cpp_steps())]:
        problem = _install_once(name, steps, jobs)
        if problem is not None:
            problems.append(problem)
    return problems


def versions() -> dict[str, str]:
    """Return what is pinned, by package."""
    return dict(pin.split("==") for pin in (TORCH, LLAMA_CPP, *(pin for pins in PEERS.values() for pin in pins)))


def _llama_cpp_steps() -> list[list[str]]:
    wheels = str(HOME / "wheels")
    build = ["wheel", "--no-deps", "--wheel-dir", wheels, "--find-links", wheels, LLAMA_CPP]
    return [build, ["install", TORCH, *_LLAMA_CPP_NEEDS], ["install", "--no-deps", "--find-links", wheels, LLAMA_CPP]]


def _install_once(name: str, steps: list[list[str]], jobs: int) -> str | None:
    """Run pip's ``steps`` unless the stamp of exactly these is there."""
    stamp = VENV / "stamps" / name
    wanted = "\n".join(" ".join(step) for step in steps)
    if stamp.exists() and stamp.read_text() == wanted:
        return None
    print(f"installing {name} for the peers (once)", flush=True)
    environment = os.environ | {"CMAKE_ARGS": _LLAMA_CPP_BUILD, "CMAKE_BUILD_PARALLEL_LEVEL": str(jobs)}
    log = HOME / f"install-{name}.log"
    with log.open("w") as output:
        for step in steps:
            command = ["nice", "-n", "10", str(PYTHON), "-m", "pip", "--disable-pip-version-check", *step]
            if subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False).returncode != 0:
                return f"{name} could not be installed; {log.relative_to(ROOT)} says why"
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(wanted)
    return None
