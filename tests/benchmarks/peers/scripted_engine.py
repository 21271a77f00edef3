"""An engine for tests that needs no model: each new token takes no time, and some prompts make it fail."""

import os
import sys
import threading
import time

from benchmarks.peers.engines.base import Answer, Setup, UnsupportedError


class ScriptedEngine:
    """Answers with zeros. The model's path says what it does instead: "dies", "hangs", "refuses"."""

    def __init__(self, behaviour: str) -> None:
        self._behaviour = behaviour

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[Answer]:
        """Answer, or do what the behaviour says where there are two prompts."""
        if len(prompts) == 2 and self._behaviour == "dies":
            os.abort()
        if len(prompts) == 2 and self._behaviour == "hangs":
            threading.Event().wait()
        if len(prompts) == 2 and self._behaviour == "refuses":
            raise UnsupportedError("no two prompts")
        answers = [Answer() for _ in prompts]
        for _ in range(new_tokens):
            for answer in answers:
                answer.add(0, time.perf_counter())
        return answers


class ScriptedMeter:
    """Measures nothing."""

    def measure(self, variant: str, num_threads: int) -> float:
        """Return the number of threads."""
        return float(num_threads)


def load(setup: Setup) -> ScriptedEngine | ScriptedMeter:
    """Print, as libraries do, and be ready."""
    sys.stdout.write("a library's greeting on standard output\n")
    if setup.path.name == "unloadable":
        raise RuntimeError("the weights are of another model")
    return ScriptedMeter() if setup.path.name == "" else ScriptedEngine(setup.path.name)
