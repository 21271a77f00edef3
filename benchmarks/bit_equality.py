"""Bit equality over thousands of random lives of an engine: cases and rows compared by property, and every mismatch.

Each variant is a random tiny model, a dtype, a quantization and an instruction set, with an oracle of its own (see
``tests/engine/bit_equality/oracle.py``) that has first seen every request alone. A mismatch is printed with what repeats
its case: the variant, ``--seed`` and the case's number.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from attendant_engine.kernels.cpu.library import InstructionSet, load_library
from benchmarks.results_file import markdown_table, write_results
from tests.engine.bit_equality import checkpoints
from tests.engine.bit_equality.cases import Requests, Subject, Variant, properties, random_case

_FORMATS = (
    ("float32", "none", "auto"),
    ("bfloat16", "none", "auto"),
    ("float32", "int8", "auto"),
    ("bfloat16", "int8", "auto"),
    ("bfloat16", "int4", "auto"),
    ("float32", "none", "int8"),
    ("bfloat16", "int8", "int8"),
)
"""Activations, weights, and the cache, which encoders do without."""


@dataclass(slots=True)
class Tally:
    """Counts by property: cases that had it, rows compared in them, rows that differed."""

    cases: Counter[str] = field(default_factory=Counter)
    compared: Counter[str] = field(default_factory=Counter)
    mismatches: Counter[str] = field(default_factory=Counter)

    def add(self, names: list[str], *, num_compared: int, num_mismatches: int) -> None:
        """Count one case under each of its properties."""
        for name in names:
            self.cases[name] += 1
            self.compared[name] += num_compared
            self.mismatches[name] += num_mismatches

    def table(self) -> str:
        """Lay the counts out."""
        rows = [[name, f"{self.cases[name]:,}", f"{self.compared[name]:,}", f"{self.mismatches[name]:,}"] for name in sorted(self.cases)]
        return markdown_table(["property", "cases", "rows compared bit by bit", "rows that differ"], rows)


def run_variant(name: str, variant: Variant, arguments: argparse.Namespace, tally: Tally) -> None:
    """Show the oracle every request alone, then live through ``--cases`` random cases, or the one that ``--only`` names."""
    label = f"{name} {variant.dtype} {variant.quantization} {variant.kv_cache_dtype} {variant.instruction_set.name.lower()}"
    subject = Subject(variant)
    is_decoder = name in checkpoints.DECODERS
    rng = random.Random(f"{arguments.seed} {label}")
    requests = Requests(rng, count=arguments.requests, is_decoder=is_decoder, has_labels=name == "bert-classifier")
    alone = {key: answer for one in requests.all for key, answer in subject.run(Requests.alone(one)).answers.items()}
    for number in range(arguments.cases) if arguments.only is None else [arguments.only]:
        case = random_case(random.Random(f"{arguments.seed} {label} {number}"), requests, max_steps=arguments.max_steps)
        num_compared, num_mismatches = subject.oracle.num_compared, subject.oracle.mismatches.total()
        outcome = subject.run(case)
        num_compared = subject.oracle.num_compared - num_compared
        num_mismatches = subject.oracle.mismatches.total() - num_mismatches
        num_other_answers = sum(alone[key] != answer for key, answer in outcome.answers.items())
        names = ["all", f"model {name}", f"dtype {variant.dtype}, weights {variant.quantization}", f"cache {variant.kv_cache_dtype}"]
        names += [f"instruction set {variant.instruction_set.name}", *properties(case, outcome)]
        tally.add(names, num_compared=num_compared, num_mismatches=num_mismatches + num_other_answers)
        if num_mismatches or num_other_answers:
            found = f"{num_mismatches} of {num_compared} rows and {num_other_answers} of {len(outcome.answers)} answers differ"
            print(f"MISMATCH {label}, --seed {arguments.seed} --only {number}: {found}; {', '.join(names)}", flush=True)


def variants(arguments: argparse.Namespace, folder: Path) -> list[tuple[str, Variant]]:
    """Return all that this machine has of what was asked for."""
    library = load_library()
    if library is None:
        sys.exit("There are no CPU kernels here; run `make` on an x86-64 machine with AVX2.")
    best = library.instruction_set
    sets = [isa for isa in InstructionSet if InstructionSet.NONE < isa <= best]
    chosen = []
    for name in arguments.models.split(","):
        checkpoint = checkpoints.write(name, folder / name)
        for (dtype, quantization, cache_dtype), isa in product(_FORMATS, sets):
            if quantization in arguments.quantizations.split(",") and (cache_dtype == "auto" or name in checkpoints.DECODERS):
                variant = Variant(
                    checkpoint=checkpoint, dtype=dtype, quantization=quantization, kv_cache_dtype=cache_dtype, instruction_set=isa
                )
                chosen.append((name, variant))
    return chosen


def main() -> None:
    """Run, print and write the table; exit with 1 where a bit differed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100, help="cases of each variant; there are about sixty variants")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--requests", type=int, default=256, help="different requests of each variant")
    parser.add_argument("--max-steps", type=int, default=200, help="about the longest life of a case")
    parser.add_argument("--models", default=",".join((*checkpoints.DECODERS, *checkpoints.ENCODERS)))
    parser.add_argument("--quantizations", default="none,int8,int4")
    parser.add_argument("--only", type=int, help="one case of each variant, by its number")
    parser.add_argument("--write", action="store_true", help="write the table to benchmarks/results")
    arguments = parser.parse_args()
    started_s = time.monotonic()
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        chosen = variants(arguments, Path(folder))
        for place, (name, variant) in enumerate(chosen):
            run_variant(name, variant, arguments, tally)
            about = f"{name} {variant.dtype} {variant.quantization} {variant.instruction_set.name.lower()}"
            print(
                f"[{place + 1}/{len(chosen)}, {time.monotonic() - started_s:.0f} s] {about}: {tally.mismatches.total()} mismatches so far",
                flush=True,
            )
    print(tally.table())
    if arguments.write:
        command = f"python -m benchmarks.bit_equality --cases {arguments.cases} --seed {arguments.seed} --requests {arguments.requests}"
        print("written to", write_results("bit-equality", command, [tally.table()]).name)
    sys.exit(1 if tally.mismatches.total() else 0)


if __name__ == "__main__":
    main()
