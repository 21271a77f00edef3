"""Trains one adapter: the head alone on what the frozen trunk gives, then head and adapter together.

Head first is LP-FT (Kumar et al. 2022): the adapter then need not first undo the gradients of a random head. What the layers
below the first adapted one give is computed once. Products are in bfloat16, what is learned in float32. The state is kept
after every epoch, and a later call goes on from there.
"""

import math
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import BertModel

from models.recipes.minilm.lora import add_lora, lora_modules, save_adapter
from models.recipes.minilm.tasks import Example, Task
from models.recipes.minilm.trunk import NAME

RANK, ALPHA, DROPOUT = 16, 32, 0.1
BATCH_SIZE = 32
ENCODE_BATCH_SIZE = 128
MAX_TOKENS = 96
_WARM_UP = 0.06
_WEIGHT_DECAY = 0.01


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text's token ids and label, and its hidden states ``[T, E]`` bfloat16 below the first adapted layer."""

    token_ids: list[int]
    label_id: int
    hidden: torch.Tensor


class Trainer:
    """One task over the trunk in ``model``; everything that it has learned so far lies in ``state_path``."""

    def __init__(self, task: Task, model: Path, state_path: Path, seed: int) -> None:
        torch.manual_seed(seed)
        self._task = task
        self._seed = seed
        self._state_path = state_path
        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self.trunk: BertModel = BertModel.from_pretrained(model, add_pooling_layer=False, dtype=torch.float32)
        self.classifier = nn.Linear(self.trunk.config.hidden_size, len(task.labels))
        self._first_layer = min(task.first_layer, len(self.trunk.encoder.layer))
        add_lora(self.trunk, first_layer=self._first_layer, rank=RANK, alpha=ALPHA, dropout_rate=DROPOUT)
        self._train, self._extra, self._held_out = (self._encode(part) for part in (task.train, task.extra, task.held_out))
        learned = [parameter for _, module in lora_modules(self.trunk) for parameter in (module.down, module.up)]
        groups = [{"params": learned, "lr": task.learning_rate}, {"params": list(self.classifier.parameters()), "lr": task.learning_rate}]
        self._optimizer = torch.optim.AdamW(groups, weight_decay=_WEIGHT_DECAY)
        self._num_steps = sum(math.ceil(len(self._epoch_items(epoch)) / BATCH_SIZE) for epoch in range(task.num_epochs))
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, self._rate)
        self._epoch = 0

    def run(self, budget_s: float) -> bool:
        """Train until the end or until another epoch would not fit ``budget_s``; return whether it has ended."""
        started_s = time.monotonic()
        if self._state_path.exists():
            self._load()
        else:
            self._fit_head()
        epoch_s = 0.0
        while self._epoch < self._task.num_epochs:
            if epoch_s and time.monotonic() - started_s + epoch_s > budget_s:
                return False
            before_s = time.monotonic()
            self._run_epoch()
            self._epoch += 1
            self._save()
            epoch_s = time.monotonic() - before_s
            logits, label_ids = self._logits(self._held_out)
            accuracy = (logits.argmax(1) == label_ids).float().mean().item()
            print(
                f"{self._task.name}: epoch {self._epoch} of {self._task.num_epochs}, {epoch_s:.0f} s, held out {accuracy:.1%}", flush=True
            )
        return True

    def export(self, directory: Path) -> None:
        """Calibrate the head on what was held out, and write the adapter."""
        logits, label_ids = self._logits(self._held_out)
        temperature = fit_temperature(logits, label_ids)
        with torch.no_grad():
            self.classifier.weight.div_(temperature)
            self.classifier.bias.div_(temperature)
        print(f"{self._task.name}: temperature {temperature:.3f}", flush=True)
        save_adapter(directory, self.trunk, self.classifier, self._task.labels, rank=RANK, alpha=ALPHA, base_model=NAME)

    def _rate(self, step: int) -> float:
        """Rise over the first steps, then fall to nothing in a line."""
        warm_up = _WARM_UP * self._num_steps
        return min((step + 1) / warm_up, max(0.0, (self._num_steps - step) / (self._num_steps - warm_up)))

    def _run_epoch(self) -> None:
        self.trunk.train()
        batches = list(_batches(self._epoch_items(self._epoch), random.Random(self._seed + self._epoch)))
        with _progress() as progress:
            bar = progress.add_task(f"{self._task.name} epoch {self._epoch + 1}", total=len(batches))
            for batch in batches:
                loss = cross_entropy(self._forward(batch), torch.tensor([item.label_id for item in batch]))
                self._optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                self._optimizer.step()
                self._schedule.step()
                progress.advance(bar)

    def _epoch_items(self, epoch: int) -> list[Encoded]:
        return self._train + self._extra[epoch :: self._task.num_epochs]

    def _fit_head(self) -> None:
        """Fit the head on the frozen trunk's vectors, which are computed once."""
        vectors = self._vectors(self._train)
        label_ids = torch.tensor([item.label_id for item in self._train])
        optimizer = torch.optim.AdamW(self.classifier.parameters(), lr=1e-2, weight_decay=_WEIGHT_DECAY)
        for _ in range(300):
            loss = cross_entropy(self.classifier(vectors), label_ids)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        held_out = torch.tensor([item.label_id for item in self._held_out])
        accuracy = (self._logits(self._held_out)[0].argmax(1) == held_out).float().mean().item()
        print(f"{self._task.name}: the head alone, held out {accuracy:.1%}", flush=True)

    @torch.no_grad()
    def _vectors(self, items: Sequence[Encoded]) -> torch.Tensor:
        self.trunk.train(False)
        order = sorted(range(len(items)), key=lambda index: len(items[index].token_ids))
        vectors = torch.empty(len(items), self.trunk.config.hidden_size)
        for first in range(0, len(order), ENCODE_BATCH_SIZE):
            indices = order[first : first + ENCODE_BATCH_SIZE]
            vectors[indices] = self._pool([items[index] for index in indices])
        return vectors

    @torch.no_grad()
    def _logits(self, items: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
        return self.classifier(self._vectors(items)), torch.tensor([item.label_id for item in items])

    def _forward(self, batch: Sequence[Encoded]) -> torch.Tensor:
        out: torch.Tensor = self.classifier(nn.functional.dropout(self._pool(batch), DROPOUT))
        return out

    def _pool(self, batch: Sequence[Encoded]) -> torch.Tensor:
        """Return the mean hidden state of each text ``[len(batch), E]`` float32."""
        mask = _mask([len(item.token_ids) for item in batch])
        hidden = nn.utils.rnn.pad_sequence([item.hidden for item in batch], batch_first=True).float()
        hidden = self._run(self.trunk.encoder.layer[self._first_layer :], hidden, mask)
        weights = mask[:, :, None].float()
        return (hidden * weights).sum(1) / weights.sum(1)

    @torch.no_grad()
    def _encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """Tokenise, and compute the layers that stay as they are."""
        self.trunk.train(False)
        label_ids = {label: label_id for label_id, label in enumerate(self._task.labels)}
        texts = [encoding.ids for encoding in self._tokenizer.encode_batch([example.text for example in examples])]
        encoded: dict[int, Encoded] = {}
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for first in range(0, len(order), ENCODE_BATCH_SIZE):
            indices = order[first : first + ENCODE_BATCH_SIZE]
            lengths = [len(texts[index]) for index in indices]
            ids = nn.utils.rnn.pad_sequence([torch.tensor(texts[index]) for index in indices], batch_first=True)
            lower = self.trunk.encoder.layer[: self._first_layer]
            hidden = self._run(lower, self.trunk.embeddings(input_ids=ids), _mask(lengths)).to(torch.bfloat16)
            for index, rows, length in zip(indices, hidden, lengths, strict=True):
                encoded[index] = Encoded(texts[index], label_ids[examples[index].label], rows[:length].clone())
        return [encoded[index] for index in range(len(texts))]

    @staticmethod
    def _run(layers: Iterable[nn.Module], hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            for layer in layers:
                hidden = layer(hidden, mask[:, None, None, :])
        return hidden.float()

    def _learned(self) -> dict[str, torch.Tensor]:
        lora = {f"{name}.{part}": getattr(module, part) for name, module in lora_modules(self.trunk) for part in ("down", "up")}
        return lora | {f"classifier.{name}": value for name, value in self.classifier.named_parameters()}

    def _save(self) -> None:
        self._state_path.parent.mkdir(parents=True, exist_ok=True)
        state = {
            "epoch": self._epoch,
            "learned": {name: value.detach() for name, value in self._learned().items()},
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "random": torch.get_rng_state(),
        }
        partial = self._state_path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self._state_path)

    def _load(self) -> None:
        state = torch.load(self._state_path, weights_only=True)
        self._epoch = state["epoch"]
        with torch.no_grad():
            for name, value in self._learned().items():
                value.copy_(state["learned"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"])


def fit_temperature(logits: torch.Tensor, label_ids: torch.Tensor) -> float:
    """Return what to divide logits by for the least cross-entropy (Guo et al. 2017)."""
    candidates = [0.5 * 1.02**power for power in range(140)]
    return min(candidates, key=lambda temperature: cross_entropy(logits / temperature, label_ids).item())


def _mask(lengths: Sequence[int]) -> torch.Tensor:
    """Return what is text ``[len(lengths), longest]``."""
    return torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]


def _batches(items: Sequence[Encoded], rng: random.Random) -> Iterator[list[Encoded]]:
    """Yield shuffled batches of texts of like length, so that little is padding."""
    order = sorted(items, key=lambda item: len(item.token_ids) + rng.random() * 4)
    batches = [order[first : first + BATCH_SIZE] for first in range(0, len(order), BATCH_SIZE)]
    rng.shuffle(batches)
    yield from batches


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
