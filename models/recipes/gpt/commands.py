"""What each step of the recipe puts together."""

import argparse
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

import torch
from rich.console import Console
from tokenizers import Tokenizer

from models.recipes.gpt.batches import BatchSource, TextSource, WindowSource
from models.recipes.gpt.cases import write_cases
from models.recipes.gpt.checkpoint import Progress, load_checkpoint
from models.recipes.gpt.corpus import TRAINING_SOURCES, VALIDATION_SOURCES, WorkFiles, open_tokens, prepare_corpus, token_bytes
from models.recipes.gpt.echoes import EchoSource
from models.recipes.gpt.episodes import EVEN, ON_LISTS, ON_WORDS, EpisodeSource
from models.recipes.gpt.export import export_model
from models.recipes.gpt.mixture import ECHOES, EPISODES, LIST_EPISODES, WORD_EPISODES
from models.recipes.gpt.model import GPT, ModelShape
from models.recipes.gpt.optimizers import Optimizers, Rates
from models.recipes.gpt.report import Reporter
from models.recipes.gpt.schedule import Budget
from models.recipes.gpt.spelling import SPELLING_STD, spelling_vectors
from models.recipes.gpt.tasks import load_classes, load_tasks
from models.recipes.gpt.trainer import Paths, Settings, Trainer
from models.recipes.gpt.validation import ValidationText
from models.recipes.gpt.words import read_words

VALIDATION_WINDOWS = 16
ECHO_TEXT = "pd_children_stories"


def prepare_command(arguments: argparse.Namespace) -> None:
    """Train the tokenizer and encode the text."""
    prepare_corpus(arguments.data, WorkFiles(directory=arguments.work), vocab_size=arguments.vocab_size)


def train_command(arguments: argparse.Namespace) -> None:
    """Train, from the checkpoint if there is one."""
    work = WorkFiles(directory=arguments.work)
    budget = Budget(
        seconds=arguments.hours * 3600 if arguments.hours is not None else None,
        num_tokens=int(arguments.tokens) if arguments.tokens is not None else None,
    )
    prepare_corpus(arguments.data, work, vocab_size=arguments.vocab_size)
    settings = Settings(device=arguments.device, windows_a_step=arguments.batch, micro_batch=arguments.micro_batch)
    shape = ModelShape(vocab_size=arguments.vocab_size, width=arguments.width, num_layers=arguments.layers, num_heads=arguments.heads)
    checkpoint = load_checkpoint(work.checkpoint) if work.checkpoint.exists() else None
    if checkpoint is not None and checkpoint.shape != shape:
        raise SystemExit(f"{work.checkpoint} is of {checkpoint.shape}, not of {shape}; take another work folder")
    torch.manual_seed(arguments.seed)
    model = GPT(shape).to(settings.device)
    optimizers = Optimizers(model, Rates())
    tokenizer = Tokenizer.from_file(str(work.tokenizer))
    if checkpoint is not None:
        model.load_state_dict(checkpoint.model)
        optimizers.load_state_dict(checkpoint.optimizers)
    else:
        model.add_to_embeddings(spelling_vectors(tokenizer, width=shape.width, seed=arguments.seed) * SPELLING_STD)
    progress = checkpoint.progress if checkpoint is not None else Progress()
    with _stop_on_signals() as stop, Reporter() as reporter:
        trainer = Trainer(
            model=model,
            optimizers=optimizers,
            batches=_open_batches(arguments, work, tokenizer, settings, progress),
            progress=progress,
            settings=settings,
            budget=budget,
            paths=Paths(checkpoint=work.checkpoint, before_decay=work.before_decay, history=work.history),
            validation=_open_validation(work, tokenizer, settings),
            reporter=reporter,
            should_stop=stop.is_set,
            loss=torch.compile(model.loss, dynamic=False) if arguments.compile else None,
        )
        reporter.say(_opening(model, progress, budget))
        trainer.run(decay_now=arguments.decay_now, more_tokens=int(arguments.more_tokens) if arguments.more_tokens is not None else None)
        reporter.say(f"bits per byte: {trainer.validate()}")


def export_command(arguments: argparse.Namespace) -> None:
    """Write the model of the checkpoint in Hugging Face layout."""
    work = WorkFiles(directory=arguments.work)
    checkpoint = load_checkpoint(work.checkpoint)
    model = GPT(checkpoint.shape)
    model.load_state_dict(checkpoint.model)
    export_model(model, Tokenizer.from_file(str(work.tokenizer)), arguments.destination)


def cases_command(arguments: argparse.Namespace) -> None:
    """Write the few-shot cases; their made-up words come from the work folder."""
    work = WorkFiles(directory=arguments.work)
    num_cases = write_cases(arguments.data, read_words(work.words), arguments.destination)
    Console().print(f"{num_cases} cases written to {arguments.destination}")


def _opening(model: GPT, progress: Progress, budget: Budget) -> str:
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    limits = [f"{budget.seconds / 3600:g} h of work"] if budget.seconds is not None else []
    limits += [f"{budget.num_tokens / 1e6:g} M tokens"] if budget.num_tokens is not None else []
    behind = f"{progress.num_tokens / 1e6:.1f} M tokens and {progress.seconds / 3600:.2f} h of work behind"
    return f"{num_parameters / 1e6:.1f} M parameters; budget {' or '.join(limits)}; {behind}"


def _open_batches(
    arguments: argparse.Namespace, work: WorkFiles, tokenizer: Tokenizer, settings: Settings, progress: Progress
) -> BatchSource:
    tasks, classes, words = load_tasks(arguments.data), load_classes(arguments.data), read_words(work.words)
    made: dict[str, WindowSource] = {
        name: EpisodeSource(tokenizer, tasks=tasks, classes=classes, words=words, seed=arguments.seed, emphasis=emphasis)
        for name, emphasis in ((EPISODES, EVEN), (LIST_EPISODES, ON_LISTS), (WORD_EPISODES, ON_WORDS))
    }
    made[ECHOES] = EchoSource(open_tokens(work, ECHO_TEXT), vocab_size=tokenizer.get_vocab_size(), seed=arguments.seed)
    texts = {name: TextSource(open_tokens(work, name), window=settings.window, seed=arguments.seed, name=name) for name in TRAINING_SOURCES}
    return BatchSource(texts, made, window=settings.window, seed=arguments.seed, counts=progress.counts)


def _open_validation(work: WorkFiles, tokenizer: Tokenizer, settings: Settings) -> list[ValidationText]:
    sizes = token_bytes(tokenizer)
    return [
        ValidationText.spread(name, open_tokens(work, name), sizes, window=settings.window, max_windows=VALIDATION_WINDOWS)
        for name in VALIDATION_SOURCES
    ]


@contextmanager
def _stop_on_signals() -> Iterator[Event]:
    """Yield an event that SIGTERM and Ctrl-C set, so that a run ends after its step with a checkpoint."""
    stop = Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
