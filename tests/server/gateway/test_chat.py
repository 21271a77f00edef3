"""Chat is the checkpoint's own template, and a template gone wrong ends its own request alone."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attendant_server.errors import ServingError
from attendant_server.gateway.gateway import Gateway
from attendant_server.gateway.requests import ChatRequest
from attendant_server.gateway.results import CompletionResult
from attendant_server.gateway.served_model import ServedModel
from tests.server.fakes import BOS_ID, FakeLink, call, ids_of, says


@pytest.fixture
def chatting(chat_tokenizer_path: Path, link: FakeLink) -> Iterator[Gateway]:
    gateway = Gateway({"tiny": ServedModel.load("tiny", chat_tokenizer_path, links=[link])})
    yield gateway
    gateway.close()


async def _chat(gateway: Gateway, content: str, **fields: Any) -> CompletionResult:
    return await gateway.chat(
        ChatRequest.model_validate({"model": "tiny", "messages": [{"role": "user", "content": content}], **fields}), call()
    )


async def test_the_prompt_is_what_the_template_writes_and_the_answer_may_fill_the_context(chatting: Gateway, link: FakeLink) -> None:
    link.answer = says("yes")
    result = await _chat(chatting, "hé")
    assert link.generations[0].prompt_token_ids == (BOS_ID, *ids_of("user:hé\nassistant:"))
    assert link.generations[0].params.max_tokens == 64
    assert result.choices[0].text == "yes"


async def test_streaming_gives_the_same_text(chatting: Gateway, link: FakeLink) -> None:
    link.answer = says("yes")
    request = ChatRequest.model_validate({"model": "tiny", "messages": [{"role": "user", "content": "x"}]})
    items = [item async for item in await chatting.stream_chat(request, call())]
    assert "".join(getattr(item, "text", "") for item in items) == "yes"


async def test_without_a_template_the_error_says_so_and_what_to_use(gateway: Gateway) -> None:
    with pytest.raises(ServingError, match=r"'tiny' has no chat template.*use completions") as caught:
        await _chat(gateway, "x")
    assert (caught.value.code, caught.value.param) == ("invalid_value", "messages")


@pytest.mark.parametrize(("content", "words"), [("refuse", "roles must alternate"), ("crash", "cannot render"), ("loop", "was stopped")])
async def test_a_template_that_goes_wrong_ends_its_own_request_alone(chatting: Gateway, link: FakeLink, content: str, words: str) -> None:
    link.answer = says("fine")
    bad, good = await asyncio.gather(_chat(chatting, content), _chat(chatting, "hello"), return_exceptions=True)
    assert isinstance(bad, ServingError)
    assert words in bad.message
    assert "Traceback" not in bad.message
    assert isinstance(good, CompletionResult)
    assert good.choices[0].text == "fine"
    assert chatting.num_active == 0


async def test_messages_that_are_too_long_name_the_messages(chatting: Gateway) -> None:
    with pytest.raises(ServingError) as caught:
        await _chat(chatting, "x" * 99)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
