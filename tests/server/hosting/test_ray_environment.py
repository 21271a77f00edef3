import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import ray
from ray.serve._private import constants

from attendant_server.hosting import ray_environment

_PROGRAM = """
import json, sys
from pathlib import Path
from attendant_server.hosting.ray_environment import own_cluster
print(json.dumps(own_cluster(Path(sys.argv[1]), drain_timeout_s=5.0, avoid_ports=(8000,))))
"""


def _own_cluster(run_dir: str) -> dict[str, str]:
    # In a process of its own: it refuses to work where Ray has been imported, as it has here.
    done = subprocess.run([sys.executable, "-c", _PROGRAM, run_dir], capture_output=True, text=True, check=True, timeout=60)
    variables: dict[str, str] = json.loads(done.stdout)
    return variables


def test_every_variable_of_ray_serve_is_one_that_this_ray_serve_reads() -> None:
    source = Path(constants.__file__).read_text()
    for name in _own_cluster("/tmp/a"):
        if name.startswith("RAY_SERVE_"):
            assert f'"{name}"' in source, name


def test_two_clusters_share_no_port_file_or_token() -> None:
    first, second = _own_cluster("/tmp/a"), _own_cluster("/tmp/b")
    for name, value in first.items():
        if re.search("PORT|SOCKET|LOC|STATE|TOKEN", name):
            assert value != second[name], name


def test_the_variables_for_kubernetes_name_no_port_or_path_of_one_machine() -> None:
    assert not [name for name in ray_environment.data_plane() if re.search("PORT|SOCKET|TOKEN", name)]


def test_importing_ray_first_is_refused() -> None:
    assert ray is not None
    with pytest.raises(RuntimeError, match="before its environment"):
        ray_environment.own_cluster(Path("/tmp/a"), drain_timeout_s=5.0)
