"""Every way a request's fields can be wrong comes out as one sentence with the value, the bound and the field's path."""

from typing import Any

import pytest
from pydantic import ValidationError

from attendant_server.gateway.requests import ChatRequest, ClassifyRequest, CompletionRequest, EmbedRequest, FewShotRequest, TaskRequest
from attendant_server.status import ErrorView, view_error
from attendant_server.violations import show_value

PROMPT = {"model": "m", "prompt": "x"}


def _view(request_type: type[TaskRequest], data: Any) -> ErrorView:
    with pytest.raises(ValidationError) as caught:
        request_type.model_validate(data)
    return view_error(caught.value, request_type=request_type)


@pytest.mark.parametrize(
    ("request_type", "data", "param", "message"),
    [
        (CompletionRequest, {**PROMPT, "prompt": 5}, "prompt", "'prompt' must be a string or a list, not 5."),
        (CompletionRequest, {**PROMPT, "prompt": {"a": 1}}, "prompt", "'prompt' must be a string or a list, not an object."),
        (CompletionRequest, {**PROMPT, "prompt": ["a", 1]}, "prompt[1]", "'prompt[1]' must be a string, not 1."),
        (CompletionRequest, {**PROMPT, "prompt": [1, 2, "x"]}, "prompt[2]", "'prompt[2]' must be a whole number, not \"x\"."),
        (CompletionRequest, {**PROMPT, "prompt": [[1], [2, "x"]]}, "prompt[1][1]", "'prompt[1][1]' must be a whole number, not \"x\"."),
        (CompletionRequest, {**PROMPT, "prompt": []}, "prompt", "'prompt' has 0 items; it must have at least 1."),
        (CompletionRequest, {**PROMPT, "prompt": [[]]}, "prompt[0]", "'prompt[0]' has 0 items; it must have at least 1."),
        (
            CompletionRequest,
            {**PROMPT, "prompt": "a\ud800"},
            "prompt",
            "'prompt' holds a lone surrogate, which is no character; send valid Unicode.",
        ),
        (CompletionRequest, {"prompt": "x"}, "model", "'model' is missing; every request of this kind needs it."),
        (CompletionRequest, {**PROMPT, "model": ""}, "model", "'model' has 0 characters; it must have at least 1."),
        (CompletionRequest, {**PROMPT, "temperature": float("nan")}, "temperature", "'temperature' must be a finite number, not NaN."),
        (CompletionRequest, {**PROMPT, "temperature": 3}, "temperature", "'temperature' is 3; it must be at most 2."),
        (CompletionRequest, {**PROMPT, "top_p": 0}, "top_p", "'top_p' is 0; it must be above 0."),
        (CompletionRequest, {**PROMPT, "max_tokens": -1}, "max_tokens", "'max_tokens' is -1; it must be at least 0."),
        (CompletionRequest, {**PROMPT, "max_tokens": 1.5}, "max_tokens", "'max_tokens' must be a whole number, not 1.5."),
        (CompletionRequest, {**PROMPT, "max_tokens": "1"}, "max_tokens", "'max_tokens' must be a whole number, not \"1\"."),
        (CompletionRequest, {**PROMPT, "max_tokens": True}, "max_tokens", "'max_tokens' must be a whole number, not true."),
        (CompletionRequest, {**PROMPT, "logit_bias": {"7": "b"}}, "logit_bias.7", "'logit_bias.7' must be a number, not \"b\"."),
        (CompletionRequest, {**PROMPT, "logit_bias": [1]}, "logit_bias", "'logit_bias' must be an object, not a list of 1 item."),
        (CompletionRequest, 5, None, "The request must be an object, not 5."),
        (ChatRequest, {"model": "m", "messages": "hi"}, "messages", "'messages' must be a list, not \"hi\"."),
        (
            ChatRequest,
            {"model": "m", "messages": [{"role": "user"}]},
            "messages[0].content",
            "'messages[0].content' is missing; every request of this kind needs it.",
        ),
        (
            EmbedRequest,
            {"model": "m", "input": "x", "pooling": "max"},
            "pooling",
            "'pooling' is \"max\"; it must be 'mean', 'cls' or 'last'.",
        ),
        (ClassifyRequest, {"model": "m"}, None, "Give exactly one of 'input' (texts) and 'pairs' (pairs of texts)."),
        (ClassifyRequest, {"model": "m", "pairs": [["a"]]}, "pairs[0]", "'pairs[0]' has 1 item; it must have at least 2."),
        (FewShotRequest, {"model": "m", "queries": ["q"], "labels": ["a"]}, "labels", "'labels' has 1 item; it must have at least 2."),
    ],
)
def test_a_bad_value_is_named_with_its_bound(request_type: type[TaskRequest], data: Any, param: str | None, message: str) -> None:
    view = _view(request_type, data)
    assert (view.code, view.param, view.message) == ("invalid_value", param, message)
    assert (view.http_status, view.grpc_code) == (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize(
    ("request_type", "data", "param", "hint"),
    [
        (CompletionRequest, {**PROMPT, "tempratur": 1}, "tempratur", "did you mean 'temperature'?"),
        (CompletionRequest, {**PROMPT, "zzz": 1}, "zzz", "leave it out."),
        (ChatRequest, {"model": "m", "messages": [{"role": "user", "contnt": "x"}]}, "messages[0].contnt", "did you mean 'content'?"),
    ],
)
def test_an_unknown_field_is_unsupported_and_gets_a_suggestion(request_type: type[TaskRequest], data: Any, param: str, hint: str) -> None:
    view = _view(request_type, data)
    assert (view.code, view.param) == ("unsupported_parameter", param)
    assert view.message.endswith(hint)


def test_without_the_request_type_an_unknown_field_is_still_named() -> None:
    with pytest.raises(ValidationError) as caught:
        CompletionRequest.model_validate({**PROMPT, "tempratur": 1})
    assert view_error(caught.value).param == "tempratur"


def test_every_field_at_fault_has_a_violation_and_the_message_counts_them() -> None:
    view = _view(CompletionRequest, {**PROMPT, "temperature": 3, "max_tokens": -1})
    assert {violation.param for violation in view.violations} == {"temperature", "max_tokens"}
    assert view.message.endswith("(and 1 more field at fault).")


def test_any_value_is_shown_as_short_printable_ascii() -> None:
    odd = ("x" * 10**6, "\ud800\x00\n" * 50, b"\xff" * 99, 10**5000, {"a": 1}, [1] * 99, float("nan"), object(), None)
    for value in odd:
        shown = show_value(value)
        assert len(shown) <= 60
        assert shown.isascii()
        assert shown.isprintable()
