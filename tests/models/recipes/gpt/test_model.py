"""The exported checkpoint is the trainer's model: in our engine and in transformers it gives the same logits."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import GPT2LMHeadModel

from attendant_engine.tokenizers import Tokenizer as EngineTokenizer
from attendant_engine.weights.loader import load_model
from models.recipes.gpt.export import export_model
from models.recipes.gpt.model import GPT, ModelShape
from tests.engine.models.checkpoints import BACKENDS, CPU
from tests.engine.models.steps import packed_inputs
from tests.models.recipes.gpt.conftest import VOCAB_SIZE

SHAPE = ModelShape(vocab_size=VOCAB_SIZE, max_positions=48, width=64, num_layers=3, num_heads=2)
PROMPTS = [[5, 9, 300, 17, 2, 2, 80], list(range(40, 88))]


@pytest.fixture(scope="module")
def model() -> GPT:
    """A model whose every weight matters, and is what bfloat16 can hold."""
    torch.manual_seed(3)
    made = GPT(SHAPE)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
            parameter.copy_(parameter.bfloat16())
    return made


@pytest.fixture(scope="module")
def exported(model: GPT, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("exported")
    export_model(model, tokenizer, directory)
    return directory


def logits_of(model: GPT, prompt: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([prompt]), torch.arange(len(prompt))[None])
    return logits[0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_our_engine_gives_the_logits_of_the_trainer(model: GPT, exported: Path, backend: str) -> None:
    loaded = load_model(exported, dtype=torch.float32, device=CPU, attention_backend=backend)
    assert loaded.lm_head is not None
    hidden = loaded.trunk(packed_inputs(PROMPTS, is_causal=True))
    expected = torch.cat([logits_of(model, prompt) for prompt in PROMPTS])
    torch.testing.assert_close(loaded.lm_head(hidden), expected, rtol=1e-4, atol=1e-4)


def test_transformers_gives_the_logits_of_the_trainer(model: GPT, exported: Path) -> None:
    loaded = GPT2LMHeadModel.from_pretrained(exported, dtype=torch.float32)
    with torch.no_grad():
        logits = loaded(torch.tensor([PROMPTS[1]])).logits[0]
    torch.testing.assert_close(logits, logits_of(model, PROMPTS[1]), rtol=1e-4, atol=1e-4)


def test_the_export_is_bfloat16_the_same_bytes_again_and_readable(model: GPT, exported: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    export_model(model, tokenizer, tmp_path)
    for name in ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (exported / name).read_bytes()
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert (exported / "model.safetensors").stat().st_size == pytest.approx(2 * num_parameters, rel=0.05)
    assert json.loads((exported / "config.json").read_text())["torch_dtype"] == "bfloat16"
    engine_tokenizer = EngineTokenizer.load(exported)
    text = "The fox went to the barn, 12 times."
    assert engine_tokenizer.decode(engine_tokenizer.encode(text, add_special_tokens=True).ids) == text


def test_a_short_span_at_its_own_positions_is_a_part_of_the_window(model: GPT) -> None:
    tokens = torch.tensor([PROMPTS[1][:16]])
    with torch.no_grad():
        first = model(tokens[:, :8], torch.arange(8)[None])
        later = model(tokens[:, 8:], torch.arange(8, 16)[None])
        whole = model(tokens, torch.arange(16)[None])
    torch.testing.assert_close(first, whole[:, :8])
    assert not torch.allclose(later, whole[:, 8:])


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="the width 64 is no multiple of 3 heads"):
        ModelShape(width=64, num_heads=3)
