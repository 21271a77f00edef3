"""What a run says while it trains: a progress bar on a terminal, a line now and then in a file."""

import time
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from models.recipes.gpt.schedule import DECAY_SHARE, Decay


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Where a run is after a step; ``seconds`` are those of work."""

    step: int
    num_tokens: int
    seconds: float
    loss: float
    used_share: float
    decay: Decay | None

    @property
    def done_share(self) -> float:
        """The done share of the whole run, the fall of the learning rate included."""
        if self.decay is None:
            return min(self.used_share, 1 - DECAY_SHARE)
        return min(1.0, self.num_tokens / self.decay.end_tokens)

    @property
    def left_s(self) -> float:
        """Seconds of work until the end, if all goes on as it went."""
        return self.seconds * (1 / self.done_share - 1) if self.done_share else 0.0


class Reporter:
    """Shows reports; the loss that it shows is the mean since the line before."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console if console is not None else Console(highlight=False, soft_wrap=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("attendant-gpt", total=1.0)
        self._losses: list[float] = []
        self._since: tuple[float, int] | None = None

    def __enter__(self) -> "Reporter":
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(text, markup=False)

    def show(self, report: Report, *, force: bool) -> float | None:
        """Move the bar; with ``force`` print a line and return the mean loss since the last one."""
        self._losses.append(report.loss)
        now = time.monotonic()
        if self._since is None:
            self._since = now, report.num_tokens
        self._bar.update(self._task, completed=report.done_share, description=f"loss {report.loss:.3f}")
        if not force:
            return None
        mean = sum(self._losses) / len(self._losses)
        since, tokens_then = self._since
        rate = (report.num_tokens - tokens_then) / max(now - since, 1e-9)
        self.say(
            f"step {report.step}  {report.num_tokens / 1e6:.2f} M tokens  loss {mean:.4f}  {rate:.0f} tokens/s  "
            f"{report.seconds / 3600:.2f} h of work, {report.left_s / 3600:.2f} h left  {report.done_share:.1%} done"
            + ("  falling" if report.decay else "")
        )
        self._losses = []
        self._since = now, report.num_tokens
        return mean
