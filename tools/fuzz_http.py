"""Run schemathesis with all its checks over the OpenAPI document of a server of our own, without keys and with them.

``make fuzz`` installs schemathesis into a folder of its own and runs this; ``make fuzz ARGS="--cases 1000"`` for longer.
Exit code 1 where a check fails: a 5xx, an answer that the document does not describe, a key that was not asked for. What a schema
cannot say (a model's vocabulary, context and tasks) is a 400, so that status is taken for a request that fits the schema; and 504
is the documented answer to who asks for one within no time, as some of these requests do. Headers that a document does not name
are nobody's to refuse, so one more is no fault.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.e2e.server_process import ServerProcess

MODELS = ("attendant-gpt=stories260k", "my-encoder=tiny-encoder", "my-classifier=tiny-classifier")
"""Named as in the examples of the document; the text is that of a smaller model, as there are thousands of requests."""
KEY = "fuzz-key-of-this-run"
START_TIMEOUT_S = 120
CONFIG = """[checks.positive_data_acceptance]
expected-statuses = ["2xx", 400, 401, 404, 429, 504]
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", 504]
"""


def main() -> int:
    """Fuzz a server without keys, then one with keys."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz_http", description=__doc__.partition("\n")[0])
    parser.add_argument("--schemathesis", default="schemathesis", help="the command")
    parser.add_argument("--cases", type=int, default=100, help="of each operation")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keys", choices=("off", "on", "both"), default="both")
    arguments = parser.parse_args()
    # It runs in a directory of its own, where it keeps what it has found.
    command = str(Path(arguments.schemathesis).resolve()) if "/" in arguments.schemathesis else arguments.schemathesis
    codes = [
        fuzz(command, arguments.cases, arguments.seed, with_keys=with_keys)
        for with_keys in (False, True)
        if arguments.keys in ("both", "on" if with_keys else "off")
    ]
    return max(codes)


def fuzz(command: str, num_cases: int, seed: int, *, with_keys: bool) -> int:
    """Start a server, fuzz it, stop it; return schemathesis's exit code, or 1 where the server has logged an error."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        options: list[str] = []
        header: list[str] = []
        if with_keys:
            (directory / "keys").write_text(f"fuzz: {KEY}\n")
            options = ["--api-key-file", str(directory / "keys")]
            header = ["--header", f"Authorization: Bearer {KEY}"]
        server = ServerProcess(
            *MODELS, "--local", "--http-port", "0", "--grpc-port", "0", "--log-level", "error", *options, log_dir=directory
        )
        try:
            server.wait_ready(START_TIMEOUT_S)
            print(f"keys {'on' if with_keys else 'off'}: {server.http_url}", flush=True)
            (directory / "schemathesis.toml").write_text(CONFIG)
            run = [command, "--config-file", str(directory / "schemathesis.toml"), "run", f"{server.http_url}/openapi.json"]
            run += ["--checks", "all", "--seed", str(seed), "--max-examples", str(num_cases), "--request-timeout", "60"]
            done = subprocess.run([*run, *header], cwd=directory)
        finally:
            server.stop()
            log = server.stderr
    if log:
        print(f"the server logged:\n{log[:4000]}")
    return done.returncode or int(bool(log))


if __name__ == "__main__":
    sys.exit(main())
