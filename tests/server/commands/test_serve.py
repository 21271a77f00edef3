"""``serve`` reads its settings and hands them to the right host; other commands do not even import one."""

import subprocess
import sys
from pathlib import Path

import pytest

from attendant_server.config import Settings
from tests.server.commands.conftest import Run


@pytest.fixture
def hosted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Settings]]:
    """Hosts that remember what they were asked to host, and end with exit code 1."""
    asked: list[tuple[str, Settings]] = []

    def host(name: str) -> None:
        def run(settings: Settings) -> int:
            asked.append((name, settings))
            return 1

        monkeypatch.setattr(f"attendant_server.hosting.{'local.run_local' if name == 'local' else 'ray_host.run_on_ray'}", run)

    host("local")
    host("ray")
    return asked


def test_serve_hosts_on_ray_and_with_local_in_one_process(run: Run, hosted: list[tuple[str, Settings]]) -> None:
    assert run("serve", "stories260k").code == 1
    flags = ("--http-port", "0", "--kv-cache-memory", "1GiB", "--log-format", "json", "--quantization", "int8", "--speculation", "none")
    assert run("serve", "--local", "mine=stories260k", *flags).code == 1
    (first, _), (second, settings) = hosted
    assert (first, second) == ("ray", "local")
    assert [model.name for model in settings.models] == ["mine"]
    assert (settings.http_port, settings.kv_cache_memory, settings.log_format) == (0, 2**30, "json")
    assert (settings.quantization, settings.speculation) == ("int8", "none")


def test_serve_reads_the_environment_and_the_file(
    run: Run, hosted: list[tuple[str, Settings]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("local: true\nreplicas: 2\ngrpc_port: 1\n", encoding="utf-8")
    monkeypatch.setenv("ATTENDANT_CONFIG", str(file))
    monkeypatch.setenv("ATTENDANT_GRPC_PORT", "0")
    run("serve", "stories260k", "--replicas", "3")
    name, settings = hosted[0]
    assert (name, settings.replicas, settings.grpc_port) == ("local", 3, 0)
    run("serve", "stories260k", "--no-local")
    assert hosted[1][0] == "ray"


@pytest.mark.parametrize(
    "arguments",
    [
        ("--http-port", "70000"),
        ("--dtype", "float3"),
        ("--quantization", "int3"),
        ("--speculation", "model"),
        ("--max-model-len", "0"),
        ("--kv-cache-memory", "lots"),
        ("--config", "missing.yaml"),
        ("missing/dir/x",),
        ("--replica", "2"),
    ],
)
def test_a_wrong_setting_is_one_sentence_and_nothing_starts(
    run: Run, hosted: list[tuple[str, Settings]], arguments: tuple[str, ...]
) -> None:
    outcome = run("serve", *arguments)
    assert (outcome.code, outcome.out, hosted) == (2, "", [])
    assert outcome.err.startswith("attendant: ") and len(outcome.err.splitlines()) == 1


def test_plan_prints_the_arithmetic_and_refuses_what_is_no_model(run: Run, tmp_path: Path) -> None:
    outcome = run("plan", "stories260k", "--max-num-seqs", "2", "--kv-cache-memory", "1MiB", "--attention-backend", "torch")
    assert outcome.code == 0
    assert "1,040,128 B" in outcome.out and "float32" in outcome.out
    refused = run("plan", "stories260k", "--quantization", "int8", "--attention-backend", "torch")
    assert refused.code == 2 and "quantization is int8" in refused.err
    assert run("plan", str(tmp_path)).code == 2
    (tmp_path / "config.json").write_text("not json", encoding="utf-8")
    broken = run("plan", str(tmp_path))
    assert broken.code == 1 and len(broken.err.splitlines()) == 1
    assert run("plan", "stories260k", "--max-num-seqs", "0").code == 2


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import attendant_server.cli", ("torch", "ray", "grpc", "pydantic", "rich")),
        ("import attendant_client", ("torch", "ray", "pydantic", "attendant_server", "attendant_engine", "numpy")),
        ("import attendant_server.hosting.local", ("ray",)),
        # On Ray the engines' processes alone have torch: a gateway without it is there sooner when one was lost.
        ("import attendant_server.hosting.cluster", ("torch",)),
    ],
)
def test_what_a_command_does_not_need_is_not_imported(code: str, forbidden: tuple[str, ...]) -> None:
    script = f"import sys; {code}; print([name for name in {forbidden!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == "[]"
