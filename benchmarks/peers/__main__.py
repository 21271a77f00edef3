"""Ours beside OpenVINO GenAI, llama.cpp, CTranslate2, transformers, onnxruntime and sentence-transformers, in one run.

Installs the peers into an environment of their own, writes the same models in each one's format, and measures them
interleaved with ours. The first call takes minutes for that; later ones find everything in ``.tools/peers``.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import get_args

from benchmarks.peers import environment, report
from benchmarks.peers.cells import PRECISIONS, Cell, Precision, decoder_cells, encoder_cells
from benchmarks.peers.reference import reference_answer
from benchmarks.peers.registry import ENGINES, OURS, model_path, ours
from benchmarks.peers.results import MAX_FOREIGN_RATIO, Group
from benchmarks.peers.rounds import GroupRun, Plan
from benchmarks.peers.shapes import SHAPES, ModelName
from benchmarks.results_file import markdown_table, write_results

_KINDS = ("decode", "prefill", "first_token", "encode")


def main() -> None:
    """Run what the command line asks for, print tables, write them to ``benchmarks/results``."""
    arguments = _arguments()
    problems = environment.install(jobs=arguments.jobs)
    for problem in problems:
        print(problem, file=sys.stderr)
    groups = _groups(arguments)
    if arguments.prepare:
        for model, precision in groups:
            _prepare(arguments, model, precision)
        return
    started_s = time.monotonic()
    end_s = started_s + 60 * arguments.time_limit_minutes
    done: list[Group] = []
    for number, (model, precision) in enumerate(groups):
        share_s = (end_s - time.monotonic()) / (len(groups) - number)
        done.append(_run(arguments, model, precision, deadline_s=time.monotonic() + share_s))
        print("\n" + "\n\n".join(report.sections(done[-1])) + "\n", flush=True)
        (environment.HOME / "last-run.json").write_text(json.dumps([group.to_json() for group in done]))
    minutes = (time.monotonic() - started_s) / 60
    text = [_about(arguments, minutes), *(f"- {problem}." for problem in problems), _versions()]
    text += [section for group in done for section in report.sections(group)]
    if arguments.write:
        command = "python -m benchmarks.peers " + " ".join(sys.argv[1:])
        print("written to", write_results(arguments.name, command.strip(), text).name)


def _run(arguments: argparse.Namespace, model: ModelName, precision: Precision, *, deadline_s: float) -> Group:
    kinds = [ours(has_int8_cache=arguments.int8_cache), *(kind for kind in ENGINES if kind.name in arguments.peers)]
    plan = Plan(repeats=arguments.repeats, extra_rounds=arguments.extra_rounds, num_threads=arguments.threads, deadline_s=deadline_s)
    cells = _cells(arguments, model)
    return GroupRun(model, precision, kinds, cells, plan).run(reference_answer(model, arguments.threads))


def _prepare(arguments: argparse.Namespace, model: ModelName, precision: Precision) -> None:
    """Write the model in every format, so that a later run only measures."""
    for kind in ENGINES:
        if (kind.name == OURS or kind.name in arguments.peers) and kind.refusal(model, precision) is None:
            try:
                model_path(kind, model, precision)
            except RuntimeError as error:
                print(f"{kind.title}, {model}, {precision}: {error}", file=sys.stderr)
    reference_answer(model, arguments.threads)


def _cells(arguments: argparse.Namespace, model: ModelName) -> list[Cell]:
    is_encoder = SHAPES[model].kind == "encoder"
    cells = encoder_cells() if is_encoder else decoder_cells(arguments.sequences, new_tokens=arguments.new_tokens)
    return [cell for cell in cells if cell.kind in arguments.cells]


def _groups(arguments: argparse.Namespace) -> list[tuple[ModelName, Precision]]:
    """Return models in classes; encoders have no 4-bit class, and a model without a chosen cell is left out."""
    groups: list[tuple[ModelName, Precision]] = []
    for model in get_args(ModelName):
        for precision in PRECISIONS:
            is_chosen = model in arguments.models and precision in arguments.classes and _cells(arguments, model)
            if is_chosen and (SHAPES[model].kind == "decoder" or precision != "int4"):
                groups.append((model, precision))
    return groups


def _about(arguments: argparse.Namespace, minutes: float) -> str:
    return (
        f"{arguments.threads} threads; prompt 128, {arguments.new_tokens} generated, greedy, end of text ignored; "
        f"took {minutes:.0f} minutes. Each engine stays loaded in its own process, all but one stopped; they take turns, round by round. "
        f"Figures are medians (least-greatest) of the repetitions in which others had at most {100 * MAX_FOREIGN_RATIO:.0f} % of the "
        "machine (of all where fewer than half are such; then it says how many were disturbed). Ratios are taken round by round and are "
        "above 1 where ours is better. A peer below 0.6 of the best peer in a cell is not repeated there. "
        "Decoding counts from the moment at which every sequence has its first token."
    )


def _versions() -> str:
    return markdown_table(["peer", "version"], [[name, version] for name, version in environment.versions().items()])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    peers = [kind.name for kind in ENGINES if kind.name != OURS]
    parser.add_argument("--models", type=_list_of(get_args(ModelName)), default=list(get_args(ModelName)), help="gpt2,llama,minilm,bert")
    parser.add_argument("--classes", type=_list_of(PRECISIONS), default=list(PRECISIONS), help="float32,bfloat16,int8,int4")
    parser.add_argument("--peers", type=_list_of(peers), default=peers, help=",".join(peers))
    parser.add_argument("--cells", type=_list_of(_KINDS), default=list(_KINDS), help=",".join(_KINDS))
    parser.add_argument("--sequences", type=_numbers, default=[1, 4, 16, 64], help="sequences that decode at once: 1,4,16,64")
    parser.add_argument("--new-tokens", type=int, default=128, help="generated a sequence when decoding")
    parser.add_argument("--int8-cache", action="store_true", help="keep our keys and values in int8, as OpenVINO does unasked")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--extra-rounds", type=int, default=2, help="at most so many more, to make up for disturbed repetitions")
    parser.add_argument("--threads", type=int, default=2, help="threads and processors of every engine")
    parser.add_argument(
        "--time-limit-minutes", type=float, default=180.0, help="of measuring; each model in a class has an equal part of what is left"
    )
    parser.add_argument("--jobs", type=int, default=2, help="compilers at once when llama.cpp is built")
    parser.add_argument("--prepare", action="store_true", help="install and convert, measure nothing")
    parser.add_argument("--no-write", dest="write", action="store_false", help="print only, leave benchmarks/results alone")
    parser.add_argument("--name", default="peers", help="of the file in benchmarks/results, after its date")
    return parser.parse_args()


def _list_of(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        unknown = [name for name in names if name not in known]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not one of {', '.join(known)}")
        return names

    return parse


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
