"""The text of ``lm/``: documents in, one uint16 token file a source out, in a work directory outside the repository.

Books and stories end every document with a line ``<|endoftext|>``; the file of single sentences has none and is cut into
documents of ``SENTENCES_A_DOCUMENT`` lines. Training and validation text never share a file.
"""

import json
import lzma
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from models.recipes.gpt.tokenizer import END_OF_TEXT, end_of_text_id, train_tokenizer
from models.recipes.gpt.words import count_words, write_words

Tokens = NDArray[np.uint16]

SENTENCES = "tatoeba_english_sentences"
SENTENCES_A_DOCUMENT = 30
DOCUMENTS_A_BATCH = 64
PIECE_CHARACTERS = 20_000

TRAINING_SOURCES = (
    "ccby_children_stories",
    "pd_children_stories",
    SENTENCES,
    "pd_fiction_tier1",
    "pd_fiction_tier2",
    "pd_fiction_tier3",
    "pd_fiction_tier4",
)
"""Simplest first, as the data pack orders them."""
VALIDATION_SOURCES = ("valid_pd_books", "ccby_children_stories_valid")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkFiles:
    """Where the recipe keeps what it makes."""

    directory: Path

    @property
    def tokenizer(self) -> Path:
        """The tokenizer in Hugging Face's layout."""
        return self.directory / "tokenizer.json"

    @property
    def words(self) -> Path:
        """Words of the training text, most frequent first."""
        return self.directory / "words.txt"

    @property
    def summary(self) -> Path:
        """Bytes and tokens of each source."""
        return self.directory / "corpus.json"

    @property
    def checkpoint(self) -> Path:
        """What training resumes from."""
        return self.directory / "checkpoint.pt"

    @property
    def before_decay(self) -> Path:
        """The checkpoint at the end of the stable phase, from which training could go on for longer."""
        return self.directory / "before-decay.pt"

    @property
    def history(self) -> Path:
        """One JSON object a report of training."""
        return self.directory / "history.jsonl"

    def tokens(self, source: str) -> Path:
        """The token ids of a source, little-endian uint16."""
        return self.directory / f"{source}.bin"


def read_documents(path: Path) -> Iterator[str]:
    """Yield the documents of a compressed text file, without the marks that end them."""
    has_marks = not path.name.startswith(SENTENCES)
    lines: list[str] = []
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            is_mark = line.rstrip("\n") == END_OF_TEXT
            if not is_mark:
                lines.append(line)
            if is_mark or (not has_marks and len(lines) == SENTENCES_A_DOCUMENT):
                yield "".join(lines).strip("\n") + "\n"
                lines = []
    if "".join(lines).strip():
        yield "".join(lines).strip("\n") + "\n"


def prepare_corpus(data: Path, work: WorkFiles, *, vocab_size: int, sources: tuple[str, ...] = TRAINING_SOURCES) -> None:
    """Train the tokenizer on ``data/lm`` and write each source's tokens; what is there already is kept."""
    work.directory.mkdir(parents=True, exist_ok=True)
    paths = {source: data / "lm" / f"{source}.txt.xz" for source in (*sources, *VALIDATION_SOURCES)}
    if not work.tokenizer.exists():
        texts = (text for source in sources for text in read_documents(paths[source]))
        tokenizer = train_tokenizer(texts, vocab_size=vocab_size)
        tokenizer.save(str(work.tokenizer))
    if not work.words.exists():
        write_words(work.words, count_words(text for source in sources for text in read_documents(paths[source])))
    tokenizer = Tokenizer.from_file(str(work.tokenizer))
    summary = _read_summary(work.summary)
    for source, path in paths.items():
        if source not in summary or not work.tokens(source).exists():
            summary[source] = _encode(tokenizer, read_documents(path), work.tokens(source))
            work.summary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def open_tokens(work: WorkFiles, source: str) -> Tokens:
    """Return a source's token ids ``[N]``, mapped from the disk."""
    return np.memmap(work.tokens(source), dtype="<u2", mode="r")


def token_bytes(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """Return the UTF-8 bytes ``[V]`` that each token of a byte-level tokenizer stands for; the end mark stands for none."""
    # In a byte-level vocabulary every character of a token is one byte.
    sizes = np.zeros(tokenizer.get_vocab_size(), dtype=np.int64)
    for token, token_id in tokenizer.get_vocab().items():
        sizes[token_id] = 0 if token == END_OF_TEXT else len(token)
    return sizes


def cut_text(text: str) -> Iterator[str]:
    """Cut a long text after paragraphs, where the tokenizer cuts too, so that its cores share the work."""
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        end = text.find("\n\n", start + PIECE_CHARACTERS)
        if end < 0:
            break
        # One newline goes with each side: before a letter GPT-2's pattern splits a pair of them just so.
        yield text[start : end + 1]
        start = end + 1
    yield text[start:]


def _encode(tokenizer: Tokenizer, documents: Iterator[str], path: Path) -> Mapping[str, int]:
    end = np.array([end_of_text_id(tokenizer)], dtype="<u2")
    num_tokens = num_bytes = num_documents = 0
    unfinished = path.with_suffix(".part")
    with unfinished.open("wb") as file:
        for batch in _batched(documents):
            pieces = [list(cut_text(text)) for text in batch]
            encodings = iter(tokenizer.encode_batch([piece for parts in pieces for piece in parts], add_special_tokens=False))
            for text, parts in zip(batch, pieces, strict=True):
                for _ in parts:
                    ids = np.array(next(encodings).ids, dtype="<u2")
                    file.write(ids.tobytes())
                    num_tokens += len(ids)
                file.write(end.tobytes())
                num_tokens += 1
                num_bytes += len(text.encode())
                num_documents += 1
    unfinished.replace(path)
    return {"documents": num_documents, "bytes": num_bytes, "tokens": num_tokens}


def _batched(documents: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in documents:
        batch.append(text)
        if len(batch) == DOCUMENTS_A_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _read_summary(path: Path) -> dict[str, Mapping[str, int]]:
    summary: dict[str, Mapping[str, int]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return summary
