"""Chat templates give what transformers gives, and a bad one ends one request in bounded time."""

import json
import os
import resource
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers.models import WordLevel
from transformers.utils.chat_template_utils import render_jinja_template

from attendant_engine.errors import CheckpointError, EngineError, InvalidRequestError, RequestFaultError, UnsupportedError
from attendant_engine.tokenizers import Tokenizer
from attendant_engine.tokenizers.template_process import TemplateProcesses

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Héllo <b>"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "More"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "description": "ü", "parameters": {"type": "object"}}}]

CHATML = """{% for message in messages %}
    {%- if message.role == 'system' and not loop.first %}{{ raise_exception('system must be first') }}{% endif %}
    {{- '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + eos_token + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

FEATURES = """{{ bos_token }}
{%- set ns = namespace(count=0) %}
{%- for message in messages %}
    {%- if message.role == 'system' %}{% continue %}{% endif %}
    {%- set ns.count = ns.count + 1 %}
    {% generation %}[{{ ns.count }}|{{ message.content | upper }}]{% endgeneration %}
    {%- if ns.count > 1 %}{% break %}{% endif %}
{%- endfor %}
{%- if tools %}{{ tools | tojson(indent=2) }}{% endif %}
{%- macro show(x) %}<{{ x }}>{% endmacro %}{{ show(messages | length) }}
"""


def tokenizer_with(directory: Path, template: object, **settings: object) -> Tokenizer:
    LibraryTokenizer(WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>")).save(str(directory / "tokenizer.json"))
    values = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": template, **settings}
    (directory / "tokenizer_config.json").write_text(json.dumps(values))
    return Tokenizer.load(directory)


def expected(template: str, *, add_generation_prompt: bool, tools: list[dict[str, Any]] | None) -> str:
    rendered = render_jinja_template(
        conversations=[MESSAGES],
        tools=None if tools is None else list(tools),
        chat_template=template,
        add_generation_prompt=add_generation_prompt,
        bos_token="<s>",
        eos_token="</s>",
    )
    return str(rendered[0][0])


@pytest.mark.parametrize("template", [CHATML, FEATURES])
@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("tools", [None, TOOLS])
def test_rendering_equals_transformers(
    template: str, add_generation_prompt: bool, tools: list[dict[str, Any]] | None, tmp_path: Path
) -> None:
    tokenizer = tokenizer_with(tmp_path, template)
    assert tokenizer.has_chat_template
    ours = tokenizer.render_chat(MESSAGES, add_generation_prompt=add_generation_prompt, tools=tools)
    assert ours == expected(template, add_generation_prompt=add_generation_prompt, tools=tools)


def test_variables_of_the_call_reach_the_template(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(tmp_path, "{{ mood }}{{ eos_token }}")
    assert tokenizer.render_chat(MESSAGES, add_generation_prompt=False, mood="calm") == "calm</s>"


def test_a_template_file_wins_over_the_settings(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("from the file")
    assert tokenizer_with(tmp_path, "from the settings").render_chat(MESSAGES, add_generation_prompt=True) == "from the file"


def test_named_templates_are_chosen_by_whether_there_are_tools(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(tmp_path, [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}])
    assert tokenizer.render_chat(MESSAGES, add_generation_prompt=True) == "d"
    assert tokenizer.render_chat(MESSAGES, add_generation_prompt=True, tools=TOOLS) == "t"


def test_without_a_template_chat_is_refused(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(tmp_path, None)
    assert not tokenizer.has_chat_template
    with pytest.raises(UnsupportedError, match="no chat template"):
        tokenizer.render_chat(MESSAGES, add_generation_prompt=True)


def test_what_the_template_itself_refuses_is_the_callers_error_in_its_words(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(tmp_path, CHATML)
    with pytest.raises(InvalidRequestError, match="system must be first"):
        tokenizer.render_chat([MESSAGES[1], MESSAGES[0]], add_generation_prompt=True)


def test_a_template_that_is_none_is_refused_at_loading(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="chat template is not valid"):
        tokenizer_with(tmp_path, "{% for %}")
    with pytest.raises(CheckpointError, match="no filter named 'nope'"):
        tokenizer_with(tmp_path, "{{ messages | nope }}")
    with pytest.raises(CheckpointError, match="chat_template must be a string"):
        tokenizer_with(tmp_path, 7)


ENDLESS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
    "{% macro again(n) %}{% for i in range(9) %}{{ again(n) }}{% endfor %}{% endmacro %}{{ again(1) }}",
    "{% for i in range(99999) %}{% set x = range(99999) | map('string') | list %}{% endfor %}",
]


@pytest.mark.parametrize("template", ENDLESS)
def test_a_template_without_end_is_stopped_soon(template: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_with(tmp_path, template)
    before_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with pytest.raises(RequestFaultError, match=r"ran for more than 0.1 s of processor time|recurses without end"):
        tokenizer.render_chat(MESSAGES, add_generation_prompt=True)
    # Of the process that was ended: its start, and the bound on processor time, which load cannot break.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before_s < 2


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'x' * 10 ** 9 }}",
        "{{ 10 ** 10 ** 9 }}",
        "{{ range(10 ** 9) | list }}",
        "{{ '%1000000000d' % 1 }}",
        "{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
        "{{ 'x' | center(10 ** 8) }}",
        "{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{{ lipsum(10) }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ missing.attribute }}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 / 0 }}",
    ],
)
def test_what_a_template_may_not_do_is_one_clear_error(template: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_with(tmp_path, template)
    with pytest.raises(EngineError, match="chat template"):
        tokenizer.render_chat(MESSAGES, add_generation_prompt=True)


def test_a_stopped_template_leaves_the_next_rendering_and_other_threads_alone(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "good").mkdir()
    bad, good = tokenizer_with(tmp_path / "bad", ENDLESS[0]), tokenizer_with(tmp_path / "good", CHATML)
    quiet = good.render_chat(MESSAGES, add_generation_prompt=True)
    failures: list[EngineError] = []

    def run_bad() -> None:
        try:
            bad.render_chat(MESSAGES, add_generation_prompt=True)
        except EngineError as error:
            failures.append(error)

    thread = threading.Thread(target=run_bad)
    thread.start()
    while thread.is_alive():
        assert good.render_chat(MESSAGES, add_generation_prompt=True) == quiet
    thread.join()
    assert len(failures) == 1
    assert good.render_chat(MESSAGES, add_generation_prompt=True) == quiet


def test_loading_runs_nothing_of_a_template_not_even_its_constants(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(tmp_path, "{{ ('x' | center(10 ** 6) | list | map('center', 10 ** 5) | join) }}")
    with pytest.raises(EngineError, match="chat template"):
        tokenizer.render_chat(MESSAGES, add_generation_prompt=True)


def test_a_prompt_of_a_mebibyte_is_the_largest(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(tmp_path, "{{ messages[0].content }}")
    for text in ("x" * 2**20, "é" * 2**19):
        assert tokenizer.render_chat([{"role": "user", "content": text}], add_generation_prompt=True) == text
        with pytest.raises(InvalidRequestError, match="longer than 1048576 bytes"):
            tokenizer.render_chat([{"role": "user", "content": text + "x"}], add_generation_prompt=True)


def test_odd_text_comes_through_as_it_is(tmp_path: Path) -> None:
    tokenizer = tokenizer_with(tmp_path, "{{ messages[0].content }}")
    text = "\x00\n\r\u2028\ud800 \U0001f600 ü"
    assert tokenizer.render_chat([{"role": "user", "content": text}], add_generation_prompt=True) == text


def test_a_template_finds_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTENDANT_SECRET", "secret")
    processes = TemplateProcesses({"default": "{{ messages }}"})
    assert processes.render("default", {"messages": "m"}) == "m"
    for pid in processes.pids:
        assert b"secret" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_a_process_that_others_ended_is_replaced_and_nobody_notices() -> None:
    processes = TemplateProcesses({"default": "{{ messages }}"})
    for _ in range(3):
        assert processes.render("default", {"messages": "m"}) == "m"
        before = processes.pids
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        assert processes.render("default", {"messages": "m"}) == "m"
        assert len(processes.pids) == len(before)
        assert processes.pids != before


def test_the_processes_end_with_their_owner() -> None:
    processes = TemplateProcesses({"default": "{{ messages }}"})
    processes.warm_up()
    pids = processes.pids
    del processes
    assert pids
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
