"""A tiny model learns, and a run that is stopped and resumed ends with the weights of one that never stopped."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tokenizers import Tokenizer

from models.recipes.gpt.batches import BatchSource, TextSource, WindowSource
from models.recipes.gpt.checkpoint import Progress, load_checkpoint
from models.recipes.gpt.corpus import TRAINING_SOURCES, WorkFiles, open_tokens, token_bytes
from models.recipes.gpt.echoes import EchoSource
from models.recipes.gpt.episodes import EVEN, ON_WORDS, EpisodeSource
from models.recipes.gpt.mixture import ECHOES, EPISODES, WORD_EPISODES
from models.recipes.gpt.model import GPT, ModelShape
from models.recipes.gpt.optimizers import Optimizers, Rates
from models.recipes.gpt.report import Reporter
from models.recipes.gpt.schedule import Budget
from models.recipes.gpt.tasks import load_classes, load_tasks
from models.recipes.gpt.trainer import Paths, Settings, Trainer
from models.recipes.gpt.validation import ValidationText
from models.recipes.gpt.words import read_words
from tests.models.recipes.gpt.conftest import VOCAB_SIZE

SHAPE = ModelShape(vocab_size=VOCAB_SIZE, max_positions=64, width=32, num_layers=2, num_heads=2)
SETTINGS = Settings(
    window=64,
    windows_a_step=8,
    micro_batch=256,
    short_span=16,
    warmup=64 * 8 * 4,
    report_every=64 * 8 * 5,
    validate_every=64 * 8 * 10,
    save_every_s=0.0,
)
RATES = Rates(muon=0.02, embeddings=3e-3, vectors=3e-3)
"""High, since steps are few."""
NUM_STEPS = 40
BUDGET = Budget(num_tokens=NUM_STEPS * 64 * 8)


class Run:
    """A run in a folder; opening another there resumes it."""

    def __init__(self, data: Path, work: WorkFiles, tokenizer: Tokenizer, folder: Path, *, max_steps: int | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.paths = Paths(checkpoint=folder / "checkpoint.pt", before_decay=folder / "before-decay.pt", history=folder / "history.jsonl")
        torch.manual_seed(0)
        self.model = GPT(SHAPE)
        optimizers = Optimizers(self.model, RATES)
        progress = Progress()
        if self.paths.checkpoint.exists():
            saved = load_checkpoint(self.paths.checkpoint)
            self.model.load_state_dict(saved.model)
            optimizers.load_state_dict(saved.optimizers)
            progress = saved.progress
        tasks, classes, words = load_tasks(data), load_classes(data), read_words(work.words)
        made: dict[str, WindowSource] = {
            name: EpisodeSource(tokenizer, tasks=tasks, classes=classes, words=words, seed=1, emphasis=emphasis)
            for name, emphasis in ((EPISODES, EVEN), (WORD_EPISODES, ON_WORDS))
        }
        texts = {name: TextSource(open_tokens(work, name), window=64, seed=1, name=name) for name in TRAINING_SOURCES}
        made[ECHOES] = EchoSource(open_tokens(work, "pd_children_stories"), vocab_size=VOCAB_SIZE, seed=1)
        valid = ValidationText.spread(
            "valid_pd_books", open_tokens(work, "valid_pd_books"), token_bytes(tokenizer), window=64, max_windows=4
        )
        self.output = io.StringIO()
        stop_at = None if max_steps is None else progress.step + max_steps
        self.trainer = Trainer(
            model=self.model,
            optimizers=optimizers,
            batches=BatchSource(texts, made, window=64, seed=1, counts=progress.counts),
            progress=progress,
            settings=SETTINGS,
            budget=BUDGET,
            paths=self.paths,
            validation=[valid],
            reporter=Reporter(Console(file=self.output)),
            should_stop=lambda: progress.step == stop_at,
        )


@pytest.fixture(scope="module")
def finished(data: Path, work: WorkFiles, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Progress]:
    run = Run(data, work, tokenizer, tmp_path_factory.mktemp("whole"))
    return run, run.trainer.run()


def test_the_loss_falls_far_below_that_of_guessing(finished: tuple[Run, Progress]) -> None:
    run, progress = finished
    lines = [json.loads(line) for line in run.paths.history.read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    bits = [line["bits_per_byte"]["valid_pd_books"] for line in lines if "bits_per_byte" in line]
    assert len(losses) == 8
    assert losses[-1] < 0.75 * losses[0]
    assert bits == sorted(bits, reverse=True)
    assert progress.num_tokens == BUDGET.num_tokens
    assert "100.0% done  falling" in run.output.getvalue()


def test_a_run_that_was_stopped_twice_ends_with_the_same_weights(
    finished: tuple[Run, Progress], data: Path, work: WorkFiles, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    expected = finished[0].model.state_dict()
    for max_steps in (7, 10, None):
        run = Run(data, work, tokenizer, tmp_path / "parts", max_steps=max_steps)
        progress = run.trainer.run()
    assert replace(progress, seconds=0.0) == replace(finished[1], seconds=0.0)
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_a_fall_asked_for_begins_at_once_and_keeps_the_state_before_it(
    data: Path, work: WorkFiles, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    Run(data, work, tokenizer, tmp_path / "early", max_steps=8).trainer.run()
    run = Run(data, work, tokenizer, tmp_path / "early")
    progress = run.trainer.run(decay_now=True)
    assert progress.step == 10
    before = load_checkpoint(run.paths.before_decay)
    assert before.progress.step == 8
    assert before.progress.decay is None


def test_a_run_that_has_ended_learns_from_more_and_ends_again(data: Path, work: WorkFiles, tokenizer: Tokenizer, tmp_path: Path) -> None:
    ended = Run(data, work, tokenizer, tmp_path / "more")
    num_steps = ended.trainer.run().step
    assert ended.trainer.run().step == num_steps
    more = Run(data, work, tokenizer, tmp_path / "more", max_steps=2)
    more.trainer.run(more_tokens=5 * SETTINGS.windows_a_step * SETTINGS.window)
    progress = Run(data, work, tokenizer, tmp_path / "more").trainer.run()
    assert progress.step == num_steps + 5
    assert progress.decay is not None and progress.decay.first < 1


def test_a_kill_while_saving_leaves_the_checkpoint_before(
    data: Path, work: WorkFiles, tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(data, work, tokenizer, tmp_path / "killed", max_steps=1)
    run.trainer.run()

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", die)
    with pytest.raises(KeyboardInterrupt):
        run.trainer.save(run.paths.checkpoint)
    assert load_checkpoint(run.paths.checkpoint).progress.step == 1
