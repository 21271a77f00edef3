"""Bodies that are no JSON, no object, too large, or sent to the wrong place."""

from typing import Any

from tests.e2e.bad_input import MAX_BODY_BYTES, BadInput, complete, text_prompt


def _raw(name: str, raw: bytes, *words: str, **more: Any) -> BadInput:
    return BadInput(name=f"body {name}", **({"raw": raw, "words": words, "param": None} | more))


_START = b'{"model": "talker", "prompt": '
BODIES = (
    _raw("is empty", b"", "not valid JSON", "empty"),
    _raw("is no JSON", b"hello", "not valid JSON", "line 1"),
    _raw("is cut short", _START + b'"hel', "not valid JSON", "line 1"),
    _raw("has a tail", _START + b'"hello"} {}', "not valid JSON", "line 1"),
    _raw("is a list", b"[1]", "JSON object"),
    _raw("is a text", b'"hello"', "JSON object"),
    _raw("is null", b"null", "JSON object"),
    _raw("nests without end", b"[" * 200_000, "not valid JSON"),
    _raw("nests without end in a field", _START + b"[" * 100_000 + b"]" * 100_000 + b"}", "not valid JSON"),
    _raw("has NaN", _START + b'"a", "temperature": NaN}', "NaN", "not JSON"),
    _raw("has Infinity", _START + b'"a", "temperature": -Infinity}', "Infinity", "not JSON"),
    _raw("has a number beyond doubles", _START + b'"a", "temperature": 1e999}', "temperature", "finite", param="temperature"),
    _raw("has a number of 5,000 digits", _START + b'"a", "top_k": ' + b"9" * 5000 + b"}", "valid JSON"),
    _raw("has a lone surrogate", _START + b'"\\ud800"}', "surrogate"),
    _raw("has a lone surrogate as key", b'{"\\udc00": 1}', "surrogate"),
    _raw("is not UTF-8", _START + b'"\xff\xfe"}', "not valid JSON"),
    _raw("is UTF-16", '{"model": "talker"}'.encode("utf-16"), "not valid JSON"),
    _raw("has a byte order mark", b"\xef\xbb\xbf" + _START + b'"a"}', "byte order mark"),
    _raw("has a raw control character", _START + b'"a\x00b"}', "not valid JSON", "control character"),
    _raw("has another type", b"{}", "text/plain", "application/json", headers={"content-type": "text/plain"}, param="content-type"),
    _raw("has no type", b"{}", "missing", "application/json", headers={"content-type": ""}, param="content-type"),
    _raw(
        "is too large", _START + b'"' + b"a" * 10_000_000 + b'"}', f"at most {MAX_BODY_BYTES}", code="request_too_large", http_status=413,
        rpc=complete(text_prompt("a" * 10_000_000)),
    ),
    _raw("goes nowhere", b"{}", "/v2/completions", "/docs", path="/v2/completions", code="not_found", http_status=404),
    _raw("comes by the wrong method", b"{}", "PUT", "POST", method="PUT", code="method_not_allowed", http_status=405),
    _raw("is asked of a model list", b"{}", "POST", "GET", path="/v1/models", code="method_not_allowed", http_status=405),
)  # fmt: skip
