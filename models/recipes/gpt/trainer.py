"""The training loop: step, report, measure, save; stop when the budget is used and the learning rate has fallen to zero.

Weights are float32; products are bfloat16 under autocast. A run may be stopped (SIGSTOP, SIGTERM, a kill) at any moment and
resumed by the same command.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from models.recipes.gpt.batches import Batch, BatchSource
from models.recipes.gpt.checkpoint import Checkpoint, Progress, save_checkpoint
from models.recipes.gpt.mixture import mixture_at
from models.recipes.gpt.model import GPT
from models.recipes.gpt.optimizers import Optimizers
from models.recipes.gpt.report import Report, Reporter
from models.recipes.gpt.schedule import DECAY_SHARE, REWARMED, Budget, Decay, rate_factor
from models.recipes.gpt.validation import ValidationText, bits_per_byte


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a step is made up and what happens how often; lengths are in tokens."""

    window: int = 1024
    windows_a_step: int = 6
    micro_batch: int = 6144
    short_span: int = 512
    """Until the learning rate falls, each window is read as several of these, at their own positions: a tenth faster, and what lies
    further back is learned within a few hundred thousand tokens of whole windows."""
    warmup: int = 1_000_000
    report_every: int = 10 * 16 * 1024
    validate_every: int = 2_000_000
    save_every_s: float = 300.0
    device: str = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Where a run keeps its state."""

    checkpoint: Path
    before_decay: Path
    history: Path


class Trainer:
    """One run."""

    def __init__(
        self,
        *,
        model: GPT,
        optimizers: Optimizers,
        batches: BatchSource,
        progress: Progress,
        settings: Settings,
        budget: Budget,
        paths: Paths,
        validation: Sequence[ValidationText],
        reporter: Reporter,
        should_stop: Callable[[], bool] = lambda: False,
        loss: Callable[..., torch.Tensor] | None = None,
    ) -> None:
        """``loss`` is ``model.loss`` or a compiled form of it; ``should_stop`` is asked after each step."""
        self._model = model
        self._optimizers = optimizers
        self._batches = batches
        self._progress = progress
        self._settings = settings
        self._budget = budget
        self._paths = paths
        self._validation = validation
        self._reporter = reporter
        self._should_stop = should_stop
        self._loss = loss if loss is not None else model.loss
        self._device = torch.device(settings.device)

    def run(self, *, decay_now: bool = False, more_tokens: int | None = None) -> Progress:
        """Train until the budget is used or a stop is asked for, and return how far it came; a run that has ended takes ``more_tokens``."""
        progress = self._progress
        progress.counts = self._batches.counts
        if decay_now and progress.decay is None:
            self._begin_decay()
        if more_tokens is not None and self._is_over():
            progress.decay = Decay(start_tokens=progress.num_tokens, num_tokens=more_tokens, first=REWARMED)
        saved_at = time.monotonic()
        while not self._is_over() and not self._should_stop():
            if progress.decay is None and self._used_share() >= 1 - DECAY_SHARE:
                self._begin_decay()
            before = self._clock()
            tokens_before = progress.num_tokens
            loss = self._step()
            progress.seconds += self._clock() - before
            if _crossed(tokens_before, progress.num_tokens, self._settings.validate_every):
                self._record({"bits_per_byte": self.validate()})
            self._report(loss, force=_crossed(tokens_before, progress.num_tokens, self._settings.report_every))
            if time.monotonic() - saved_at >= self._settings.save_every_s:
                self.save(self._paths.checkpoint)
                saved_at = time.monotonic()
        self.save(self._paths.checkpoint)
        return progress

    def validate(self) -> dict[str, float]:
        """Return the bits per byte of each validation text."""
        return {text.name: bits_per_byte(self._model, text, device=self._device) for text in self._validation}

    def save(self, path: Path) -> None:
        """Write a checkpoint to resume from."""
        checkpoint = Checkpoint(
            shape=self._model.shape,
            progress=self._progress,
            model=self._model.state_dict(),
            optimizers=self._optimizers.state_dict(),
        )
        save_checkpoint(path, checkpoint)

    def _step(self) -> float:
        """Learn from one batch and return its mean weighted loss in nats."""
        progress, settings = self._progress, self._settings
        mixture = mixture_at(progress.num_tokens, is_decaying=progress.decay is not None)
        batch = self._batches.draw(progress.step, settings.windows_a_step, mixture)
        total_weight = float(batch.weights.sum())
        loss = 0.0
        span = settings.short_span if progress.decay is None else settings.window
        for part, positions in _micro_batches(batch, span=span, micro_batch=settings.micro_batch):
            arguments = (tensor.to(self._device) for tensor in (part.token_ids, positions, part.targets, part.weights))
            with torch.autocast(self._device.type, dtype=torch.bfloat16):
                part_loss = self._loss(*arguments) / total_weight
            part_loss.backward()  # type: ignore[no-untyped-call]
            loss += float(part_loss.detach())
        if loss != loss:
            raise FloatingPointError(f"the loss of step {progress.step} is no number; lower the learning rates")
        self._optimizers.step(rate_factor(progress.num_tokens, warmup_tokens=settings.warmup, decay=progress.decay))
        progress.step += 1
        progress.num_tokens += settings.windows_a_step * settings.window
        return loss

    def _begin_decay(self) -> None:
        self.save(self._paths.before_decay)
        self._progress.decay = Decay.from_here(self._progress.num_tokens)

    def _is_over(self) -> bool:
        decay = self._progress.decay
        return decay is not None and decay.is_over(self._progress.num_tokens)

    def _used_share(self) -> float:
        return self._budget.used_share(seconds=self._progress.seconds, num_tokens=self._progress.num_tokens)

    def _clock(self) -> float:
        """Return seconds of work: those of the cores for a CPU, so that a pause costs nothing; else those of the clock."""
        return time.process_time() / torch.get_num_threads() if self._device.type == "cpu" else time.monotonic()

    def _report(self, loss: float, *, force: bool) -> None:
        progress = self._progress
        report = Report(
            step=progress.step,
            num_tokens=progress.num_tokens,
            seconds=progress.seconds,
            loss=loss,
            used_share=self._used_share(),
            decay=progress.decay,
        )
        if mean := self._reporter.show(report, force=force):
            self._record({"loss": mean})

    def _record(self, values: dict[str, object]) -> None:
        line = {"step": self._progress.step, "tokens": self._progress.num_tokens, "seconds": round(self._progress.seconds, 1), **values}
        with self._paths.history.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if "bits_per_byte" in values:
            self._reporter.say(json.dumps(line))


def _micro_batches(batch: Batch, *, span: int, micro_batch: int) -> list[tuple[Batch, torch.Tensor]]:
    """Cut a batch into parts of ``micro_batch`` tokens, each window read as several of ``span`` at their own positions."""
    positions = torch.arange(batch.token_ids.shape[1]).expand_as(batch.token_ids).reshape(-1, span)
    token_ids, targets, weights = (tensor.reshape(-1, span) for tensor in (batch.token_ids, batch.targets, batch.weights))
    num_rows = max(1, micro_batch // span)
    rows = [slice(first, first + num_rows) for first in range(0, len(token_ids), num_rows)]
    return [(Batch(token_ids=token_ids[at], targets=targets[at], weights=weights[at]), positions[at]) for at in rows]


def _crossed(before: int, after: int, every: int) -> bool:
    return before // every != after // every
