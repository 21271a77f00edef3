"""What the recipe trains is what the engine serves, and training goes on where it stopped."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attendant_engine.config import AdapterSource
from attendant_engine.weights.loader import load_model
from models.recipes.minilm.tasks import Example, Task
from models.recipes.minilm.train import Trainer, fit_temperature
from tests.engine.models.steps import packed_inputs

MODEL = Path(__file__).parents[4] / "models" / "tiny-encoder"
WORDS = {"good": ("nice", "great", "lovely"), "bad": ("awful", "poor", "ugly")}


@pytest.fixture
def task() -> Task:
    examples = [
        Example(f"a {word} thing number {number}", label) for label, words in WORDS.items() for word in words for number in range(12)
    ]
    return Task(
        name="mood",
        labels=list(WORDS),
        train=examples,
        extra=examples[:9],
        held_out=examples[::7],
        first_layer=1,
        num_epochs=2,
        learning_rate=1e-3,
    )


def learned(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in trainer._learned().items()}


def test_an_exported_adapter_gives_the_engine_the_trainer_s_logits(task: Task, tmp_path: Path) -> None:
    trainer = Trainer(task, MODEL, tmp_path / "mood.pt", seed=1)
    assert trainer.run(budget_s=1000)
    trainer.export(tmp_path / "mood")
    adapter = AdapterSource(name="mood", path=str(tmp_path / "mood"))
    model = load_model(MODEL, dtype=torch.float32, device=torch.device("cpu"), attention_backend="torch", adapters=[adapter])
    (loaded,) = model.adapters
    assert loaded.labels == ("good", "bad") and loaded.classification_head is not None
    texts = [item.token_ids for item in trainer._held_out]
    inputs = packed_inputs(texts, is_causal=False)
    num_tokens = len(inputs.token_ids)
    with torch.inference_mode():
        hidden = model.trunk(replace(inputs, adapter_bounds=(0, num_tokens)))
        logits = loaded.classification_head(hidden, inputs.attention.cu_seqlens_q)
    expected, _ = trainer._logits(trainer._held_out)
    assert (logits.argmax(1) == expected.argmax(1)).all()
    torch.testing.assert_close(logits, expected, rtol=0.1, atol=0.1 * float(expected.abs().max()))


def test_training_in_pieces_learns_what_training_in_one_does(task: Task, tmp_path: Path) -> None:
    whole = Trainer(task, MODEL, tmp_path / "whole.pt", seed=1)
    assert whole.run(budget_s=1000)
    first = Trainer(task, MODEL, tmp_path / "pieces.pt", seed=1)
    assert not first.run(budget_s=0.0)
    second = Trainer(task, MODEL, tmp_path / "pieces.pt", seed=1)
    assert second.run(budget_s=1000)
    expected = learned(whole)
    for name, value in learned(second).items():
        torch.testing.assert_close(value, expected[name])


def test_a_temperature_makes_probabilities_say_how_often_they_are_right() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4000, 3, generator=generator)
    label_ids = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(3 * logits, label_ids) == pytest.approx(3.0, rel=0.15)
