"""A data pack of a few kilobytes in the layout of the real one, made in the test."""

import json
import lzma
from pathlib import Path
from random import Random

import pytest
from tokenizers import Tokenizer

from models.recipes.gpt.corpus import TRAINING_SOURCES, VALIDATION_SOURCES, WorkFiles, prepare_corpus

NAMES = ("fox", "crow", "hen", "lion", "mouse", "frog", "goat", "duck", "bear", "wolf", "cat", "dog", "owl", "pig")
PLACES = ("barn", "wood", "river", "hill", "garden")
VERBS = ("run", "sing", "sleep", "hide", "dance", "jump")
VOCAB_SIZE = 320


def write_story(rng: Random) -> str:
    sentences = [f"The {rng.choice(NAMES)} went to the {rng.choice(PLACES)} to {rng.choice(VERBS)}." for _ in range(12)]
    return " ".join(sentences[:6]) + "\n\n" + " ".join(sentences[6:]) + " It had 12 friends.\n"


def write_packed(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(text.encode(), preset=0))


def write_pack(data: Path) -> None:
    rng = Random(5)
    for source in (*TRAINING_SOURCES, *VALIDATION_SOURCES):
        if source.startswith("tatoeba"):
            text = "".join(f"I saw a {rng.choice(NAMES)} {rng.choice(VERBS)}.\n" for _ in range(100))
        else:
            text = "".join(f"{write_story(rng)}<|endoftext|>\n" for _ in range(8))
        write_packed(data / "lm" / f"{source}.txt.xz", text)
    folder = data / "fewshot" / "function_vectors"
    folder.mkdir(parents=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = sorted({"".join(rng.choices(letters, k=4)) for _ in range(160)})
    for name, pairs in {
        "capitalize": [(word, word.capitalize()) for word in words],
        "prev_item": [(str(number), str(number - 1)) for number in range(1, 60)],
        "animal_v_object_3": [(f"{word}, {rng.choice(NAMES)}", rng.choice(NAMES)) for word in words[:50]],
        "verb_v_adjective_3": [(f"{word}, {rng.choice(VERBS)}", rng.choice(VERBS)) for word in words[:50]],
        "object_v_verb_3": [(f"{word}, {rng.choice(VERBS)}", word) for word in words[:50]],
    }.items():
        (folder / f"{name}.json").write_text(json.dumps([{"input": first, "output": second} for first, second in pairs]))
    (data / "fewshot" / "antonym_cc0.tsv").write_text("".join(f"{word}\tun{word}\n" for word in words[:40]))
    write_packed(data / "fewshot" / "spelling_typos_dict.tsv.xz", "".join(f"{word}x\t{word}\n" for word in words))
    rows = "".join(f"{word}\t{word}e\t{word}o\t{word}i\n" for word in words[:30])
    (data / "fewshot" / "swadesh207_en_de_fr_it.tsv").write_text(f"english\tgerman\tfrench\titalian\n1 sg. | I\tich\tje\tio\n{rows}")
    rows = "".join(f"{place}\tgo_{place}\ttake me to the {place} {number}\n" for place in PLACES for number in range(20))
    for part in ("train", "val"):
        write_packed(data / "classification" / f"clinc150_{part}.tsv.xz", "domain\tintent\ttext\n" + rows)
    rows = "".join(f"{label}\t{label} thing {number}\n" for label in ("pro", "con") for number in range(60))
    for part in ("train", "dev"):
        write_packed(data / "classification" / f"pros_cons_{part}.tsv.xz", "label\ttext\n" + rows)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pack")
    write_pack(directory)
    return directory


@pytest.fixture(scope="session")
def work(data: Path, tmp_path_factory: pytest.TempPathFactory) -> WorkFiles:
    files = WorkFiles(directory=tmp_path_factory.mktemp("work"))
    prepare_corpus(data, files, vocab_size=VOCAB_SIZE)
    # The pack's few words are too rare to be counted as frequent.
    files.words.write_text("".join(f"{word}\n" for word in (*NAMES, *PLACES, *VERBS, "apple", "blue", "chair", "door")))
    return files


@pytest.fixture(scope="session")
def tokenizer(work: WorkFiles) -> Tokenizer:
    return Tokenizer.from_file(str(work.tokenizer))
