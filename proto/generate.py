"""Write the Python stubs beside the ``.proto`` files, or check that the committed ones are what would be written.

``python proto/generate.py`` writes them, ``python proto/generate.py --check`` fails with a list of what differs. Messages
get ``_pb2.py`` with ``.pyi`` types; a file with a service gets ``_pb2_grpc.py`` with types too. The pinned grpcio-tools
decides the oldest grpcio and protobuf that the stubs run on.
"""

import argparse
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

PROTO_ROOT = Path(__file__).resolve().parent
_STUB_PATTERNS = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")
_SERVICE = re.compile(r"^service\s", re.MULTILINE)


def write_stubs(output: Path) -> None:
    """Generate every stub under ``output``. Raises ``RuntimeError`` when protoc refuses a file."""
    sources = sorted(PROTO_ROOT.glob("attendant/**/*.proto"))
    with_service = [source for source in sources if _SERVICE.search(source.read_text("utf-8"))]
    _run_protoc(sources, [f"--python_out={output}", _plugin("mypy"), f"--mypy_out=quiet:{output}"])
    _run_protoc(with_service, [f"--grpc_python_out={output}", _plugin("mypy_grpc"), f"--mypy_grpc_out=quiet:{output}"])


def find_differences(committed: Path, generated: Path) -> list[str]:
    """Return one line for each stub that is stale, missing or left over in ``committed``, sorted by name."""
    have, want = _read_stubs(committed), _read_stubs(generated)
    lines = []
    for name in sorted(have.keys() | want.keys()):
        if name not in have:
            lines.append(f"missing: {name}")
        elif name not in want:
            lines.append(f"left over, no .proto makes it: {name}")
        elif have[name] != want[name]:
            lines.append(f"stale: {name}")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when the stubs are written or fresh, 1 when ``--check`` finds a difference."""
    parser = argparse.ArgumentParser(description="Generate the Python stubs of the .proto files.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the committed stubs differ")
    check = parser.parse_args(argv).check
    with tempfile.TemporaryDirectory() as folder:
        generated = Path(folder)
        write_stubs(generated)
        if not check:
            _replace_stubs(generated)
        differences = find_differences(PROTO_ROOT, generated)
    for line in differences:
        print(line)
    print("run `make stubs` and commit what it writes" if differences else "stubs are fresh")
    return 1 if differences else 0


def _replace_stubs(generated: Path) -> None:
    # Only after protoc has succeeded: a typing error in a .proto must not cost the working stubs.
    for name in _read_stubs(PROTO_ROOT):
        (PROTO_ROOT / name).unlink()
    for name, content in _read_stubs(generated).items():
        (PROTO_ROOT / name).write_bytes(content)


def _run_protoc(sources: Sequence[Path], options: Sequence[str]) -> None:
    # protoc's own types, such as google.rpc's, come with grpcio-tools.
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    names = [source.relative_to(PROTO_ROOT).as_posix() for source in sources]
    if protoc.main(["protoc", f"-I{PROTO_ROOT}", f"-I{well_known}", *options, *names]) != 0:
        raise RuntimeError("protoc failed; its own message is above")


def _plugin(name: str) -> str:
    # Beside this interpreter, so that the virtual environment need not be on PATH.
    return f"--plugin=protoc-gen-{name}={Path(sys.executable).parent / f'protoc-gen-{name}'}"


def _read_stubs(root: Path) -> dict[str, bytes]:
    paths = (path for pattern in _STUB_PATTERNS for path in (root / "attendant").glob(f"**/{pattern}"))
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


if __name__ == "__main__":
    sys.exit(main())
