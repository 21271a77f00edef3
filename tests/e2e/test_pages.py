"""The playground and the reference in a real browser, in front of the bundled models and one that chats."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from attendant_engine.engine import Engine
from attendant_engine.stats import StepOutput
from attendant_server.config import ModelSettings, Settings
from tests.e2e.browser import Browser
from tests.e2e.checkpoints import CHAT_TEMPLATE, write_llama
from tests.e2e.local_server import ServerThread
from tests.external_tools import find_chromium

# Most of the time goes into fetching and unpacking a browser, once.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

_MODELS = Path(__file__).resolve().parents[2] / "models"
_BUNDLED = ("stories260k", "tiny-encoder", "tiny-classifier")
_LOADED = "!document.getElementById('try').hidden || !document.getElementById('missing').hidden"
_ANSWER = "document.getElementById('answer').innerText"
_CURL = "document.getElementById('curl').textContent"


_STEP_PAUSE_S = 0.01
"""Without it a stream may be over before the browser, when others have its core, has shown a piece or let it be stopped."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    chat = write_llama(tmp_path_factory.mktemp("pages") / "chat", chat_template=CHAT_TEMPLATE)
    models = [ModelSettings(name=name, path=str(_MODELS / name)) for name in _BUNDLED]
    models.append(ModelSettings(name="chat", path=str(chat)))
    settings = Settings(models=tuple(models), http_port=0, grpc_port=0, device="cpu", log_level="error")
    step = Engine.step

    def slow_step(self: Engine) -> StepOutput:
        time.sleep(_STEP_PAUSE_S)
        return step(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "step", slow_step)
        with ServerThread(settings) as server:
            yield server


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(find_chromium(), profile_dir=tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, server: ServerThread) -> Iterator[Browser]:
    """The playground as it first opens; afterwards nothing may have complained, and nothing have come from elsewhere."""
    browser.problems.clear()
    browser.urls.clear()
    browser.set_width(1280)
    browser.open(f"{server.url}/", until=_LOADED)
    yield browser
    assert browser.problems == []
    assert all(url.startswith((server.url, "about:")) for url in browser.urls)


def choose(page: Browser, task: str) -> None:
    page.run(f"document.getElementById('tab-{task}').click()")


def fill(page: Browser, field: str, value: str) -> None:
    page.run(
        f"(() => {{ const field = document.getElementById('{field}'); field.value = {json.dumps(value)};"
        " field.dispatchEvent(new Event('input', { bubbles: true })); })()"
    )


def send(page: Browser) -> str:
    """Press Send and return the whole answer as text."""
    page.run("document.getElementById('send').click()")
    page.wait_for("document.getElementById('answer').getAttribute('aria-busy') === 'false'")
    return str(page.run(_ANSWER))


def post(server: ServerThread, path: str, body: dict[str, Any]) -> Any:
    return httpx.post(f"{server.url}{path}", json=body, timeout=60).json()


def test_a_completion_grows_piece_by_piece_into_what_the_api_answers(page: Browser, server: ServerThread) -> None:
    page.run(
        "window.lengths = []; new MutationObserver(() => lengths.push(document.getElementById('answer').textContent.length))"
        ".observe(document.getElementById('answer'), { childList: true, subtree: true })"
    )
    fill(page, "complete-temperature", "0")
    answer = send(page)
    body = {"model": "stories260k", "prompt": "Once upon a time", "max_tokens": 64, "temperature": 0}
    assert answer.strip() == ("Once upon a time" + post(server, "/v1/completions", body)["choices"][0]["text"]).strip()
    assert len(set(page.run("lengths"))) > 5
    assert "64 generated" in page.run("document.getElementById('facts').innerText")


def test_the_shell_line_shown_answers_the_same(page: Browser, server: ServerThread) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed here")
    choose(page, "classify")
    fill(page, "classify-input", 'It\'s "good" $HOME \\ and\nbad')
    send(page)
    rows = page.run(
        "[...document.querySelectorAll('#answer .bars tr')].map((row) => [row.cells[0].innerText, parseFloat(row.cells[2].innerText)])"
    )
    pasted = subprocess.run(["bash", "-c", page.run(_CURL)], capture_output=True, text=True, timeout=30)
    answered = json.loads(pasted.stdout)["data"]
    told = post(server, "/v1/classify", {"model": "tiny-classifier", "input": ['It\'s "good" $HOME \\ and', "bad"]})["data"]
    for entry, same, shown in zip(answered, told, (rows[:2], rows[2:]), strict=True):
        assert entry["probs"] == pytest.approx(same["probs"], abs=1e-5)
        assert dict(shown) == pytest.approx({label: 100 * p for label, p in same["probs"].items()}, abs=0.06)
        assert shown[0][0] == same["label"]


def test_vectors_are_drawn_and_compared(page: Browser) -> None:
    choose(page, "embed")
    assert "64 numbers" in send(page)
    assert (
        page.run("[...document.querySelectorAll('#answer svg path')].map((path) => path.getAttribute('d').split('M').length - 1)")
        == [64] * 3
    )
    assert page.run("document.querySelectorAll('#answer .matrix td.number').length") == 9


def test_few_shot_scores_labels_or_writes_an_answer(page: Browser) -> None:
    choose(page, "few-shot")
    send(page)
    widths = page.run("[...document.querySelectorAll('#answer .filled')].map((bar) => parseFloat(bar.style.width))")
    assert [round(sum(widths[i : i + 2])) for i in (0, 2)] == [100, 100]
    fill(page, "few-shot-labels", "")
    assert "She smiled and danced." in send(page)
    assert page.run("document.querySelectorAll('#answer .filled').length") == 0


def test_a_model_with_a_template_chats_and_each_task_keeps_its_own_answer(page: Browser) -> None:
    choose(page, "chat")
    said = send(page)
    assert page.run("document.getElementById('model').value") == "chat"
    choose(page, "complete")
    assert page.run(_ANSWER) == "Nothing sent yet."
    choose(page, "chat")
    assert page.run(_ANSWER) == said


def test_a_refusal_is_shown_as_the_servers_sentence(page: Browser, server: ServerThread) -> None:
    choose(page, "embed")
    fill(page, "embed-input", "")
    told = post(server, "/v1/embeddings", {"model": "tiny-encoder", "input": []})["error"]["message"]
    assert send(page) == told
    # The browser itself notes every answer that is no success.
    assert [problem for problem in page.problems if "400" not in problem] == []
    page.problems.clear()


def test_a_stream_can_be_stopped(page: Browser) -> None:
    fill(page, "complete-max_tokens", "500")
    fill(page, "complete-temperature", "0")
    page.run("document.getElementById('send').click()")
    page.wait_for(f"{_ANSWER}.length > 30 && (document.getElementById('stop').click(), true)")
    page.wait_for("document.getElementById('answer').getAttribute('aria-busy') === 'false'")
    assert page.run(_ANSWER).endswith("Stopped.")


def test_the_keyboard_alone_moves_between_tasks(page: Browser) -> None:
    page.run("document.getElementById('tab-complete').focus()")
    seen = []
    for key in ("ArrowRight", "ArrowLeft", "ArrowLeft", "Home", "End"):
        page.press(key)
        seen.append(page.run("document.activeElement.id"))
    assert seen == ["tab-chat", "tab-complete", "tab-few-shot", "tab-complete", "tab-few-shot"]
    assert page.run("document.querySelector('[aria-selected=true]').id") == "tab-few-shot"


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_is_wider_than_the_screen(page: Browser, server: ServerThread, width: int) -> None:
    page.set_width(width)
    for task in ("complete", "chat", "embed", "classify", "few-shot"):
        choose(page, task)
        send(page)
        assert page.run("document.documentElement.scrollWidth") <= width, task
    page.open(f"{server.url}/docs", until="document.getElementById('reference').getAttribute('aria-busy') === 'false'")
    page.run("document.querySelectorAll('details').forEach((box) => (box.open = true))")
    assert page.run("document.documentElement.scrollWidth") <= width


def test_the_reference_shows_every_operation_and_opens_the_one_linked_to(page: Browser, server: ServerThread) -> None:
    document = httpx.get(f"{server.url}/openapi.json").json()
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    page.open(f"{server.url}/docs#fewShot", until="document.getElementById('reference').getAttribute('aria-busy') === 'false'")
    assert sorted(page.run("[...document.querySelectorAll('section > details')].map((box) => box.id)")) == sorted(names)
    assert page.run("[...document.querySelectorAll('details[open]')].map((box) => box.id)") == ["fewShot"]
