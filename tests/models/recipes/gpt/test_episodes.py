"""Episodes are what the server's few-shot task writes, say nothing that is held out, and mark their answers."""

import re
from pathlib import Path
from random import Random

import numpy as np
import pytest
from tokenizers import Tokenizer

from attendant_server.gateway.few_shot_prompt import build_prompt
from attendant_server.gateway.requests import FewShotExample, FewShotRequest
from models.recipes.gpt.corpus import WorkFiles
from models.recipes.gpt.episodes import ANSWER_WEIGHT, EVEN, ON_LISTS, SERVED_TEMPLATE, TEMPLATES, EpisodeSource, Template, write_episode
from models.recipes.gpt.split import HELD_OUT_TASKS, is_held_out
from models.recipes.gpt.synthetic import (
    CASE_CHANGES,
    affix_maker,
    arithmetic_maker,
    label_maker,
    list_maker,
    recall_maker,
    word_maker,
)
from models.recipes.gpt.tasks import Pair, load_categories, load_classes, load_tasks
from models.recipes.gpt.tokenizer import END_OF_TEXT
from models.recipes.gpt.words import read_words


@pytest.fixture(scope="module")
def source(data: Path, work: WorkFiles, tokenizer: Tokenizer) -> EpisodeSource:
    return EpisodeSource(tokenizer, tasks=load_tasks(data), classes=load_classes(data), words=read_words(work.words), seed=3)


def episodes_of(source: EpisodeSource, tokenizer: Tokenizer, num_windows: int) -> list[str]:
    """Whole episodes; the cut one at each window's end is left out."""
    texts = []
    for number in range(num_windows):
        text = tokenizer.decode(source.window(number, 1025).token_ids.tolist(), skip_special_tokens=False)
        texts += text.split(END_OF_TEXT)[:-1]
    return texts


def test_the_served_template_is_what_the_server_writes_for_a_query() -> None:
    pairs = [Pair("cold", "hot"), Pair("up", "down"), Pair("in", "out")]
    text, answers = write_episode(pairs, SERVED_TEMPLATE)
    prompt = build_prompt(
        FewShotRequest(
            model="gpt", examples=[FewShotExample(input=pair.input, output=pair.output) for pair in pairs[:2]], queries=[pairs[2].input]
        )
    )
    assert text == prompt.answer(pairs[2].input, "") + pairs[2].output + prompt.separator
    assert [text[start:end] for start, end in answers] == ["hot", "down", "out"]


def test_a_window_depends_on_the_seed_and_its_number_alone(
    source: EpisodeSource, data: Path, work: WorkFiles, tokenizer: Tokenizer
) -> None:
    again = EpisodeSource(tokenizer, tasks=load_tasks(data), classes=load_classes(data), words=read_words(work.words), seed=3)
    other = EpisodeSource(tokenizer, tasks=load_tasks(data), classes=load_classes(data), words=read_words(work.words), seed=4)
    expected = source.window(7, 300)
    again.window(2, 100)
    assert np.array_equal(again.window(7, 300).token_ids, expected.token_ids)
    assert np.array_equal(again.window(7, 300).weights, expected.weights)
    assert not np.array_equal(other.window(7, 300).token_ids, expected.token_ids)
    assert not np.array_equal(source.window(8, 300).token_ids, expected.token_ids)


def test_exactly_the_answers_and_the_token_that_ends_them_count_in_full(source: EpisodeSource, tokenizer: Tokenizer) -> None:
    num_found = 0
    for number in range(12):
        window = source.window(number, 600)
        marked = ""
        for token_id, weight in zip(window.token_ids.tolist(), window.weights, strict=True):
            marked += ("+" if weight == ANSWER_WEIGHT else "-") * len(tokenizer.decode([token_id], skip_special_tokens=False))
        text = tokenizer.decode(window.token_ids.tolist(), skip_special_tokens=False)
        for example in re.finditer(r"(?:^|\n\n|endoftext\|>)(Input: [^\n]*\nOutput:) ([^\n]*\n)\n", text):
            assert set(marked[example.start(1) : example.end(1)]) == {"-"}
            assert set(marked[example.start(2) : example.end(2)]) == {"+"}
            num_found += 1
    assert num_found > 20


@pytest.mark.parametrize("template", [SERVED_TEMPLATE, *TEMPLATES])
def test_an_episode_in_any_template_says_where_its_answers_are(template: Template) -> None:
    text, answers = write_episode([Pair("cold", "hot"), Pair("up", "down")], template)
    assert [text[start:end] for start, end in answers] == ["hot", "down"]
    assert text.count(template.before_output) >= 2


def test_no_held_out_item_is_ever_an_input(source: EpisodeSource, work: WorkFiles, tokenizer: Tokenizer) -> None:
    inputs = [text for episode in episodes_of(source, tokenizer, 30) for text in re.findall(r"Input: ([^\n]*)\n", episode)]
    assert len(inputs) > 300
    # Arbitrary maps have nothing to be learned but from their own examples, so their words need not be kept.
    kept = [text for text in inputs if text not in read_words(work.words)]
    assert len(kept) > 200
    assert not any(is_held_out(text) for text in kept)


def test_makers_return_distinct_items_that_are_not_held_out(data: Path) -> None:
    words = [f"{first}{second}o" for first in "bcdfglmnprst" for second in "aeiou"]
    categories = {"animal": words[:20], "object": words[20:40], "verb": words[40:]}
    rng = Random(1)
    for maker in (word_maker(words), affix_maker(words), list_maker(words, categories), arithmetic_maker(), label_maker(categories, words)):
        for _ in range(20):
            pairs = maker(rng, 9)
            assert 1 <= len(pairs) <= 9
            assert len({pair.input for pair in pairs}) == len(pairs)
            assert not any(is_held_out(pair.input) for pair in pairs)
            assert all(pair.output for pair in pairs)


def test_an_arbitrary_map_always_gives_the_same_word_for_a_word() -> None:
    pairs = recall_maker(["ape", "bee", "cat", "dog", "elk", "fly", "gnu", "hen"])(Random(2), 30)
    assert len({pair.input for pair in pairs}) < 30
    assert len({(pair.input, pair.output) for pair in pairs}) == len({pair.input for pair in pairs})


def test_a_fifth_of_the_items_and_whole_tasks_are_held_out(data: Path) -> None:
    assert sum(is_held_out(f"word{number}") for number in range(10_000)) == pytest.approx(2000, abs=150)
    assert is_held_out("Word7") == is_held_out(" word7 ")
    tasks = {task.name: task for task in load_tasks(data)}
    assert tasks["prev_item"].is_held_out
    assert not tasks["capitalize"].is_held_out
    for task in tasks.values():
        assert {*task.training_pairs, *task.held_out_pairs} == set(task.pairs)
        assert not set(task.training_pairs) & set(task.held_out_pairs)


def test_held_out_tasks_give_neither_episodes_nor_categories(source: EpisodeSource, data: Path, tokenizer: Tokenizer) -> None:
    tasks = load_tasks(data)
    categories = load_categories(tasks)
    assert {"animal", "object", "verb"} == set(categories)
    down = {(pair.input, pair.output) for task in tasks if task.name == "prev_item" for pair in task.pairs}
    assert "prev_item" in HELD_OUT_TASKS
    for episode in episodes_of(source, tokenizer, 20):
        pairs = re.findall(r"Input: ([^\n]*)\nOutput: ([^\n]*)\n", episode)
        assert len(pairs) < 3 or not set(pairs) <= down


def test_a_focus_asks_for_ends_of_lists_and_for_case_and_letters() -> None:
    words = [f"{first}{second}x{first}" for first in "abcdefgh" for second in "mnopqrst"]
    categories = {name: [f"{name}{number}" for number in range(20)] for name in ("animal", "object")}
    num_checked = 0
    for seed in range(20):
        for pair in list_maker(words, categories, focus_share=1.0)(Random(seed), 12):
            items = re.split(r"[,; ]+", pair.input)
            if not items[0].startswith(tuple(categories)):
                assert pair.output in (items[0], items[-1])
                num_checked += 1
        pairs = word_maker(words, focus_share=1.0)(Random(seed), 12)
        assert any(all(change(pair.input.lower()) == pair.output for pair in pairs) for change in CASE_CHANGES)
    assert num_checked > 100


def test_sources_of_different_emphasis_make_different_episodes(data: Path, work: WorkFiles, tokenizer: Tokenizer) -> None:
    even, lists = (
        EpisodeSource(
            tokenizer, tasks=load_tasks(data), classes=load_classes(data), words=read_words(work.words), seed=3, emphasis=emphasis
        )
        for emphasis in (EVEN, ON_LISTS)
    )
    shared = set(episodes_of(even, tokenizer, 20)) & set(episodes_of(lists, tokenizer, 20))
    assert not {episode for episode in shared if episode.count("\n") > 6}
