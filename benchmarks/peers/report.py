"""Lays a group's results out as tables: every engine's figures, ratios to the best peer, and shares of the machine's limits.

A ratio is taken round by round, where both were measured, and is above 1 where ours is better, also for times.
"""

from dataclasses import dataclass
from statistics import median

from benchmarks.peers.cells import Cell
from benchmarks.peers.registry import OURS
from benchmarks.peers.results import CellResult, EngineResult, Group
from benchmarks.peers.shapes import SHAPES
from benchmarks.results_file import markdown_table, spread

MIN_COSINE = 0.98
"""An encoder whose vectors are further than this from float32's computes something else: shown, but no contender."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """A line of the table: one figure of one cell."""

    label: str
    cell: Cell
    figure: str = "value"
    is_lower_better: bool = False


def sections(group: Group) -> list[str]:
    """Return the group's Markdown: heading, comparison, limits, memory, and what was not measured and why."""
    shape = SHAPES[group.model]
    parts = [f"## {shape.title}, {group.precision}", _comparison(group), _limits(group), _costs(group)]
    return [part for part in [*parts, _reasons(group)] if part]


def best_peer(group: Group, cell: Cell, figure: str = "value", *, is_lower_better: bool = False) -> EngineResult | None:
    """Return the peer with the best median in a cell; None where no peer was measured."""
    peers = [engine for engine in group.engines if engine.name != OURS and is_contender(group, engine)]
    measured = [peer for peer in peers if peer.cell(cell).values(figure)]
    if not measured:
        return None
    choose = min if is_lower_better else max
    return choose(measured, key=lambda peer: median(peer.cell(cell).values(figure)))


def is_contender(group: Group, engine: EngineResult) -> bool:
    """Tell whether an engine answers the same question; a decoder does, an encoder if its vectors are close enough."""
    return SHAPES[group.model].kind == "decoder" or engine.agreement is None or engine.agreement >= MIN_COSINE


def ratios(ours: CellResult, theirs: CellResult, figure: str = "value", *, is_lower_better: bool = False) -> list[float]:
    """Return ours over theirs, round by round; of the medians where no round has both."""
    other = {repetition.round_index: repetition.figures.get(figure) for repetition in theirs.best_known}
    pairs = [(repetition.figures.get(figure), other.get(repetition.round_index)) for repetition in ours.best_known]
    both = [(mine, his) for mine, his in pairs if mine and his]
    if not both and ours.values(figure) and theirs.values(figure):
        both = [(median(ours.values(figure)), median(theirs.values(figure)))]
    return [his / mine if is_lower_better else mine / his for mine, his in both]


def _comparison(group: Group) -> str:
    measured = [engine for engine in group.engines if any(cell.repetitions for cell in engine.cells)]
    lines = []
    for row in _rows(group):
        line = [row.label, *(_figure(group, engine, row) for engine in measured)]
        best = best_peer(group, row.cell, row.figure, is_lower_better=row.is_lower_better)
        ours = next((engine for engine in measured if engine.name == OURS), None)
        found = (
            []
            if best is None or ours is None
            else ratios(ours.cell(row.cell), best.cell(row.cell), row.figure, is_lower_better=row.is_lower_better)
        )
        lines.append([*line, "none" if best is None else best.title, f"**{spread(found, 2)}**" if found else "-"])
    return markdown_table(["", *(engine.title for engine in measured), "best peer", "ours to it"], lines)


def _rows(group: Group) -> list[_Row]:
    rows = [_Row(label=cell.label, cell=cell, is_lower_better=cell.is_lower_better) for cell in group.cells]
    for cell in group.cells:
        if cell.kind == "decode":
            rows.append(_Row(label=f"with the prompts, {cell.num_sequences}, tokens/s", cell=cell, figure="total"))
        elif cell.kind == "first_token":
            rows.append(_Row(label="the last of them, ms", cell=cell, figure="last_first_ms", is_lower_better=True))
    return rows


def _figure(group: Group, engine: EngineResult, row: _Row) -> str:
    result = engine.cell(row.cell)
    values = result.values(row.figure)
    if not values:
        return "see below" if result.problem or engine.problem else "-"
    digits = 0 if median(values) >= 100 else 1
    text = f"{values[0]:.{digits}f} (once)" if len(values) == 1 else spread(values, digits)
    disturbed = sum(repetition.is_disturbed for repetition in result.best_known)
    return (
        text
        + (f" [{disturbed} of {len(values)} disturbed]" if disturbed else "")
        + ("" if is_contender(group, engine) else " (other answer)")
    )


def _limits(group: Group) -> str:
    """Compare with the machine: reads for one sequence's decoding, products for a prompt."""
    lines = [[cell.cell.label, spread(cell.values()), *([""] * 2)] for cell in group.roofline.cells if cell.repetitions]
    bandwidths = [cell for cell in group.roofline.cells if cell.cell.kind == "bandwidth" and cell.repetitions]
    products = [cell for cell in group.roofline.cells if cell.cell.kind == "gemm" and cell.repetitions]
    shape = SHAPES[group.model]
    for cell in group.cells:
        if cell.kind == "decode" and cell.num_sequences == 1 and bandwidths:
            step_bytes = shape.step_bytes(group.precision, cell.prompt_tokens + cell.new_tokens // 2)
            limits = {r.round_index: r.value * 1e9 / step_bytes for r in bandwidths[-1].repetitions}
            label = f"one sequence, of reading {step_bytes / 1e6:.0f} MB a token: at most {median(limits.values()):.0f} tokens/s"
            lines.append([label, "", *_shares(group, cell, limits)])
        if cell.kind == "prefill" and products:
            rate = shape.prefill_flops(cell.prompt_tokens) / cell.prompt_tokens
            limits = _greatest([{r.round_index: r.value * 1e9 / rate for r in product.repetitions} for product in products])
            label = f"prefill, of the fastest product: at most {median(limits.values()):.0f} tokens/s"
            lines.append([label, "", *_shares(group, cell, limits)])
    return markdown_table(["limits of this machine, same rounds", "measured", "ours, %", "best peer, %"], lines) if lines else ""


def _greatest(rates: list[dict[int, float]]) -> dict[int, float]:
    """Return the greatest of each round."""
    return {index: max(rate[index] for rate in rates if index in rate) for index in rates[0]}


def _shares(group: Group, cell: Cell, limits: dict[int, float]) -> list[str]:
    ours = next((engine for engine in group.engines if engine.name == OURS), None)
    shares = []
    for engine in (ours, best_peer(group, cell)):
        found = [] if engine is None else engine.cell(cell).best_known
        shares.append(spread([100 * r.value / limits[r.round_index] for r in found], 0) if found else "-")
    return shares


def _costs(group: Group) -> str:
    about = "vectors' least cosine to float32" if SHAPES[group.model].kind == "encoder" else "tokens equal to float32's, %"
    lines = []
    for engine in group.engines:
        if not engine.load_s:
            continue
        if engine.agreement is None:
            agreed = "-"
        else:
            agreed = f"{engine.agreement:.4f}" if SHAPES[group.model].kind == "encoder" else f"{100 * engine.agreement:.0f}"
        disturbed = sum(cell.num_disturbed for cell in engine.cells)
        total = sum(len(cell.repetitions) for cell in engine.cells)
        peaks = [f"{engine.load_peak_bytes / 1e6:.0f}", f"{engine.serving_peak_bytes / 1e6:.0f}"]
        lines.append([engine.title, f"{engine.load_s:.1f}", *peaks, agreed, f"{disturbed} of {total}"])
    heading = ["", "load, s", "peak RSS of loading, MB", "of serving, MB", about, "disturbed runs"]
    return markdown_table(heading, lines) if lines else ""


def _reasons(group: Group) -> str:
    lines = []
    for engine in [*group.engines, group.roofline]:
        if engine.problem is not None:
            lines.append(f"- {engine.title}: {engine.problem}.")
        lines += [f"- {engine.title}, {cell.cell.label}: {cell.problem}." for cell in engine.cells if cell.problem is not None]
    return "\n".join(["Not measured:", "", *lines]) if lines else ""
