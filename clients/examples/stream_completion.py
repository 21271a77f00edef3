"""Stream a completion to the terminal, then say what it cost.

Run it with a server on this machine: ``python clients/examples/stream_completion.py "Once upon a time"``.
"""

import sys

from attendant_client import AttendantError, Client


def main(prompt: str, url: str = "127.0.0.1:9000") -> int:
    """Print the continuation as it comes. Returns the exit code."""
    try:
        with Client(url, timeout_s=60) as client:
            model = next(model.id for model in client.list_models() if "completion" in model.tasks)
            with client.stream_complete(model, prompt, max_tokens=64, temperature=0.8, seed=1) as stream:
                for piece in stream:
                    print(piece.text, end="", flush=True)
            usage, timing = stream.summary.usage, stream.summary.timing
            print(f"\n\n{usage.completion_tokens} tokens in {timing.total_s:.2f} s by {model}")
    except AttendantError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:] or ["Once upon a time"]))
