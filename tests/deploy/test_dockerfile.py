"""What can be said of the image without building it. Nothing here runs docker; ``deploy/README.md`` says so."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[2]
_DEPLOY = _ROOT / "deploy"
Instruction = tuple[str, str]


@pytest.fixture(scope="module")
def stages() -> list[list[Instruction]]:
    """The Dockerfile's stages, each a list of (instruction, arguments)."""
    text = re.sub(r"\\\n", " ", "\n".join(line for line in (_DEPLOY / "Dockerfile").read_text("utf-8").splitlines() if line[:1] != "#"))
    stages: list[list[Instruction]] = []
    for line in filter(str.strip, text.splitlines()):
        name, _, arguments = line.strip().partition(" ")
        if name == "FROM":
            stages.append([])
        if stages:
            stages[-1].append((name, arguments.strip()))
    return stages


def test_the_final_stage_runs_as_the_user_that_the_pods_ask_for(stages: list[list[Instruction]]) -> None:
    users = [arguments for name, arguments in stages[-1] if name == "USER"]
    assert users == ["10001:10001"]
    assert "runAsUser: 10001" in (_DEPLOY / "kubernetes" / "base" / "rayservice.yaml").read_text("utf-8")
    # Nothing is installed or changed as that user's superior afterwards.
    names = [name for name, _ in stages[-1]]
    assert "RUN" not in names[names.index("USER") :]


def test_no_stage_installs_a_compiler_and_the_last_one_copies_only_what_was_built(stages: list[list[Instruction]]) -> None:
    for name, arguments in (instruction for stage in stages for instruction in stage):
        assert not (name == "RUN" and re.search(r"\b(gcc|g\+\+|clang|build-essential|cmake)\b", arguments))
    assert [arguments for name, arguments in stages[-1] if name == "COPY"] == ["--from=build /opt/attendant /opt/attendant"]


def test_everything_copied_exists_and_is_let_through_by_the_ignore_file(stages: list[list[Instruction]]) -> None:
    lines = (_DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    let_through = {line[1:] for line in lines if line.startswith("!")}
    copied = {source for name, arguments in stages[0] if name == "COPY" for source in shlex.split(arguments)[:-1]}
    assert copied == let_through
    for source in copied:
        assert (_ROOT / source).exists(), source


def test_every_source_root_of_the_project_is_in_the_image(stages: list[list[Instruction]]) -> None:
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))
    copied = {source for name, arguments in stages[0] if name == "COPY" for source in shlex.split(arguments)[:-1]}
    assert set(project["tool"]["hatch"]["build"]["dev-mode-dirs"]) <= copied


def test_the_health_check_asks_the_port_that_is_exposed_by_default(stages: list[list[Instruction]]) -> None:
    last = dict(stages[-1])
    assert last["EXPOSE"].split() == ["8000", "9000"]
    assert "http://127.0.0.1:8000/health" in last["HEALTHCHECK"]


def test_the_image_and_the_manifests_name_the_version_of_the_project() -> None:
    version = tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    files = [_DEPLOY / "Dockerfile", *(_DEPLOY / "kubernetes").rglob("*.yaml")]
    images = {image for file in files for image in re.findall(r"\battendant:([\w.]+)", file.read_text("utf-8"))}
    assert images == {version}


def test_the_image_the_manifests_and_the_constraints_agree_on_ray() -> None:
    constraints = (_ROOT / "constraints.txt").read_text("utf-8")
    [version] = re.findall(r"^ray==(.+)$", constraints, re.MULTILINE)
    assert f"rayVersion: {version}\n" in (_DEPLOY / "kubernetes" / "base" / "rayservice.yaml").read_text("utf-8")
