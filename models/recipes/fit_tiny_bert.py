"""Fit the two bundled tiny BERTs: ``python fit_tiny_bert.py encoder|classifier SOURCE DESTINATION``.

SOURCE has, for the encoder, ``pairs/tatoeba_english_paraphrases.tsv.xz`` (two sentences a line); for the classifier
``classification/pros_cons_{train,test}.tsv.xz`` (label and text under a header). A minute on one core; seeded, but other
versions of torch or tokenizers give other numbers. Prints the quality that the card states.
"""

import argparse
import json
import lzma
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer
from torch.nn.functional import cross_entropy, normalize
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedModel

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCAB_SIZE = 2000
MAX_LENGTH = 128
TEMPERATURE = 0.05
BATCH_SIZE = 128
NUM_HELD_OUT = 500
LABELS = ["con", "pro"]

Row = tuple[str, str]


def read_rows(path: Path) -> list[Row]:
    """Return the two columns of a compressed table."""
    lines = lzma.decompress(path.read_bytes()).decode("utf-8").splitlines()
    return [(first, second) for first, second in (line.split("\t") for line in lines)]


def make_tokenizer(texts: Sequence[str]) -> Tokenizer:
    """Return a lower-casing WordPiece fitted to ``texts``."""
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    tokenizer.train_from_iterator(texts, WordPieceTrainer(vocab_size=VOCAB_SIZE, special_tokens=SPECIALS, show_progress=False))
    marks = [(token, SPECIALS.index(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks)
    return tokenizer


def make_config(tokenizer: Tokenizer, **settings: Any) -> BertConfig:
    """Return a shape of a fifth of a million parameters."""
    return BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=MAX_LENGTH,
        pad_token_id=0,
        **settings,
    )


def batch(tokenizer: Tokenizer, texts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return padded ids and their mask."""
    encoded = [encoding.ids[:MAX_LENGTH] for encoding in tokenizer.encode_batch(list(texts))]
    width = max(map(len, encoded))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in encoded])
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def embed(model: PreTrainedModel, tokenizer: Tokenizer, texts: Sequence[str]) -> torch.Tensor:
    """Return mean-pooled vectors of length one."""
    inputs = batch(tokenizer, texts)
    hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    return normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


def fit(model: PreTrainedModel, rows: Sequence[Row], loss_of: Callable[[list[Row]], torch.Tensor], epochs: int) -> None:
    """Minimise ``loss_of`` over shuffled batches with AdamW and a linearly falling rate."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    batches = list(shuffled_batches(rows, epochs))
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, len(batches))
    model.train()
    for index, part in enumerate(batches):
        optimizer.zero_grad()
        loss = loss_of(part)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        if index % 50 == 0:
            print(f"step {index} of {len(batches)}: loss {loss.item():.3f}")
    model.train(False)


def shuffled_batches(rows: Sequence[Row], epochs: int) -> Iterator[list[Row]]:
    """Yield full batches in a new order each epoch."""
    rng = random.Random(0)
    for _ in range(epochs):
        order = rng.sample(list(rows), len(rows))
        for first in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
            yield order[first : first + BATCH_SIZE]


def fit_encoder(source: Path, destination: Path) -> None:
    """Bring paraphrases together and other sentences of the batch apart (van den Oord et al. 2018)."""
    rows = read_rows(source / "pairs" / "tatoeba_english_paraphrases.tsv.xz")
    random.Random(1).shuffle(rows)
    held_out, training = rows[:NUM_HELD_OUT], rows[NUM_HELD_OUT:]
    tokenizer = make_tokenizer([text for row in training for text in row])
    model = BertModel(make_config(tokenizer), add_pooling_layer=False)

    def loss_of(part: list[Row]) -> torch.Tensor:
        left = embed(model, tokenizer, [row[0] for row in part])
        right = embed(model, tokenizer, [row[1] for row in part])
        similarities = left @ right.T / TEMPERATURE
        targets = torch.arange(len(part))
        return cross_entropy(similarities, targets) + cross_entropy(similarities.T, targets)

    fit(model, training, loss_of, epochs=8)
    with torch.inference_mode():
        left = embed(model, tokenizer, [row[0] for row in held_out])
        right = embed(model, tokenizer, [row[1] for row in held_out])
    found = (left @ right.T).argmax(1) == torch.arange(len(held_out))
    print(f"held out: of {len(held_out)} sentences, {found.float().mean():.1%} have their paraphrase as nearest neighbour")
    save(model, tokenizer, destination)
    kinds = ["Transformer", "Pooling", "Normalize"]
    folders = ["", "1_Pooling", "2_Normalize"]
    write_json(
        destination / "modules.json",
        [
            {"idx": index, "name": str(index), "path": folder, "type": f"sentence_transformers.models.{kind}"}
            for index, (kind, folder) in enumerate(zip(kinds, folders, strict=True))
        ],
    )
    (destination / "1_Pooling").mkdir(exist_ok=True)
    write_json(destination / "1_Pooling" / "config.json", {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True})
    write_json(destination / "sentence_bert_config.json", {"max_seq_length": MAX_LENGTH, "do_lower_case": False})


def fit_classifier(source: Path, destination: Path) -> None:
    """Tell praise from complaint in short phrases of product reviews."""
    training, test = (read_rows(source / "classification" / f"pros_cons_{part}.tsv.xz")[1:] for part in ("train", "test"))
    tokenizer = make_tokenizer([text for _, text in training])
    model = BertForSequenceClassification(
        make_config(tokenizer, id2label=dict(enumerate(LABELS)), problem_type="single_label_classification")
    )

    def loss_of(part: list[Row]) -> torch.Tensor:
        logits = model(**batch(tokenizer, [text for _, text in part])).logits
        return cross_entropy(logits, torch.tensor([LABELS.index(label) for label, _ in part]))

    fit(model, training, loss_of, epochs=3)
    with torch.inference_mode():
        guesses = torch.cat(
            [model(**batch(tokenizer, [text for _, text in test[first : first + 500]])).logits for first in range(0, len(test), 500)]
        ).argmax(1)
    right = guesses == torch.tensor([LABELS.index(label) for label, _ in test])
    print(f"test: {right.float().mean():.1%} of {len(test)} phrases")
    save(model, tokenizer, destination)


def save(model: PreTrainedModel, tokenizer: Tokenizer, destination: Path) -> None:
    """Write weights, configuration and tokenizer; the card beside them is written by hand."""
    model.save_pretrained(destination)
    tokenizer.save(str(destination / "tokenizer.json"))
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    write_json(
        destination / "tokenizer_config.json",
        {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": MAX_LENGTH, **named},
    )


def write_json(path: Path, value: object) -> None:
    """Write indented JSON with a final newline."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["encoder", "classifier"])
    parser.add_argument("source", type=Path)
    parser.add_argument("destination", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    (fit_encoder if arguments.kind == "encoder" else fit_classifier)(arguments.source, arguments.destination)
