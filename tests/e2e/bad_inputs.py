"""Bad values of the fields that every generating task has, and bad prompts; and the whole table."""

from typing import Any

from attendant.v1 import common_pb2, completion_pb2
from tests.e2e.bad_bodies import BODIES
from tests.e2e.bad_input import CONTEXT, LARGEST_ID, BadInput, Rpc, complete, id_prompt, text_prompt
from tests.e2e.bad_tasks import MODELS, TASKS
from tests.e2e.checkpoints import DECODER_VOCAB_SIZE


def _sampling(name: str, value: Any, *words: str, only_http: bool = False, param: str | None = None) -> BadInput:
    """A bad value of a sampling field, the same on both transports."""
    if name == "logit_bias" and isinstance(value, dict) and not only_http:
        wire: Any = {int(key): bias for key, bias in value.items()}
    else:
        wire = value
    shown = f"a list of {len(value)} {str(value[:1])[1:8]}" if isinstance(value, list) else str(value)[:40]
    return BadInput(
        name=f"{name} is {shown}",
        fields={name: value},
        words=words,
        param=param or name,
        rpc=None if only_http else complete(text_prompt("hello"), sampling={name: wire}),
    )


def _prompt(name: str, prompt: Any, *words: str, rpc: Rpc | None = None, **more: Any) -> BadInput:
    return BadInput(name=f"prompt {name}", **({"fields": {"prompt": prompt}, "words": words, "param": "prompt", "rpc": rpc} | more))


SAMPLING = (
    _sampling("temperature", 3, "3", "at most 2"),
    _sampling("temperature", -0.5, "-0.5", "at least 0"),
    _sampling("temperature", "hot", "number", "hot", only_http=True),
    _sampling("temperature", True, "number", "true", only_http=True),
    _sampling("temperature", [], "number", "[]", only_http=True),
    _sampling("top_p", 0, "0", "above 0"),
    _sampling("top_p", 1.5, "1.5", "at most 1"),
    _sampling("top_k", -1, "-1", "at least 0", only_http=True),
    _sampling("top_k", 2_000_000, "2000000", "at most 1000000"),
    _sampling("top_k", 2**70, "top_k", "at most 1000000", only_http=True),
    _sampling("min_p", 2, "2", "at most 1"),
    _sampling("repetition_penalty", 0, "0", "above 0"),
    _sampling("presence_penalty", 5, "5", "at most 2"),
    _sampling("frequency_penalty", -5, "-5", "at least -2"),
    _sampling("n", 0, "0", "at least 1"),
    _sampling("n", 129, "129", "at most 128"),
    _sampling("n", 1.5, "whole number", "1.5", only_http=True),
    _sampling("best_of", 0, "0", "at least 1"),
    BadInput(
        name="best_of below n",
        fields={"n": 3, "best_of": 2},
        words=("best_of", "2", "3", "at least n"),
        param="best_of",
        rpc=complete(text_prompt("hello"), sampling={"n": 3, "best_of": 2}),
    ),
    BadInput(
        name="best_of above n in a stream",
        fields={"n": 1, "best_of": 2, "stream": True},
        words=("best_of", "stream", "n"),
        param="best_of",
        code="unsupported_parameter",
        rpc=Rpc(
            method="StreamComplete",
            message=completion_pb2.StreamCompleteRequest(request=complete(text_prompt("hello"), sampling={"n": 1, "best_of": 2}).message),  # type: ignore[arg-type]
        ),
    ),
    _sampling("max_tokens", -1, "-1", "at least 0", only_http=True),
    _sampling("max_tokens", 10**12, str(10**12), "at most", only_http=True),
    _sampling("max_tokens", 4_000_000_000, "4000000000", "at most 10000000"),
    _sampling("max_tokens", "5", "whole number", '"5"', only_http=True),
    _sampling("min_tokens", -3, "-3", "at least 0", only_http=True),
    _sampling("logprobs", 21, "21", "at most 20"),
    _sampling("logprobs", -1, "-1", "at least 0", only_http=True),
    _sampling("prompt_logprobs", 100, "100", "at most 20"),
    _sampling("seed", 2**63, "seed", "below", only_http=True),
    _sampling("seed", "x", "whole number", '"x"', only_http=True),
    _sampling("stop", ["x"] * 17, "17", "at most 16"),
    _sampling("stop", [""], "at least 1", param="stop[0]"),
    _sampling("stop", ["x" * 257], "257", "at most 256", param="stop[0]"),
    _sampling("stop", 7, "stop", "string", "7", only_http=True),
    _sampling("stop_token_ids", [1] * 65, "65", "at most 64"),
    _sampling("stop_token_ids", [DECODER_VOCAB_SIZE], str(DECODER_VOCAB_SIZE), f"0 to {LARGEST_ID}"),
    _sampling("stop_token_ids", [-1], "-1", f"0 to {LARGEST_ID}", only_http=True),
    _sampling("logit_bias", {"abc": 1}, "abc", "token id", only_http=True),
    _sampling("logit_bias", {"-1": 1}, "-1", "token id", only_http=True),
    _sampling("logit_bias", {"99999": 1.0}, "99999", f"0 to {LARGEST_ID}"),
    _sampling("logit_bias", {"5": 101.0}, "101", "at most 100", param="logit_bias.5"),
    _sampling("logit_bias", {str(key): 1.0 for key in range(2000)}, "2000", "at most 1024"),
    _sampling("logit_bias", [1], "logit_bias", "object", only_http=True),
    _sampling("ignore_eos", "yes", "true or false", "yes", only_http=True),
    _sampling("priority", 1000, "1000", "at most 100", only_http=True),
    BadInput(
        name="priority out of range on the wire",
        words=("1000", "at most 100"),
        param="priority",
        rpc=complete(text_prompt("hello"), priority=1000),
    ),
    _sampling("echo", 1, "true or false", "1", only_http=True),
    _sampling("stream", "yes", "true or false", "yes", only_http=True),
    BadInput(
        name="stream_options without stream",
        fields={"stream_options": {"include_usage": True}},
        words=("stream_options", "stream"),
        param="stream_options",
    ),
    BadInput(
        name="a misspelt field",
        fields={"temprature": 1},
        words=("temprature", "did you mean 'temperature'"),
        param="temprature",
        code="unsupported_parameter",
    ),
    BadInput(name="suffix", fields={"suffix": "x"}, words=("suffix", "leave it out"), param="suffix", code="unsupported_parameter"),
    BadInput(name="hundreds of unknown fields", fields={f"x{i}": 1 for i in range(500)}, words=("503 fields", "at most 128"), param=None),
)

PROMPTS = (
    _prompt("is missing", None, "missing"),
    _prompt("is missing on the wire", None, "at least 1", rpc=complete(), fields=None),
    _prompt("is empty", "", "no tokens", rpc=complete(text_prompt(""))),
    _prompt("is an empty list", [], "at least 1", rpc=None),
    _prompt("is a list of an empty text", ["a", ""], "no tokens", param="prompt[1]", rpc=complete(text_prompt("a"), text_prompt(""))),
    _prompt("is a list of no ids", [[]], "at least 1", param="prompt[0]"),
    _prompt("is no ids on the wire", None, rpc=complete(id_prompt()), fields=None, words=("at least 1",)),
    _prompt("is a number", 7, "string", "7"),
    _prompt("is an object", {"text": "a"}, "string", "object"),
    _prompt("mixes ids and texts", [1, "a"], "whole number", '"a"', param="prompt[1]"),
    _prompt("mixes them on the wire", None, rpc=complete(id_prompt(1), text_prompt("a")), fields=None, words=("mixes", "two requests")),
    _prompt("nests too deep", [[["a"]]], "a list", param="prompt[0][0]"),
    _prompt("has a fraction", [1.5], "whole number", "1.5", param="prompt[0]"),
    _prompt("has true", [True], "whole number", "true", param="prompt[0]"),
    _prompt(
        "has an id outside the vocabulary",
        [1, DECODER_VOCAB_SIZE],
        str(DECODER_VOCAB_SIZE),
        f"0 to {LARGEST_ID}",
        rpc=complete(id_prompt(1, DECODER_VOCAB_SIZE)),
    ),
    _prompt("has a negative id", [1, -1], "-1", f"0 to {LARGEST_ID}"),
    _prompt("has an id of 65 bits", [2**64], str(2**64)),
    _prompt("has an id of 32 bits", None, str(2**32 - 1), f"0 to {LARGEST_ID}", rpc=complete(id_prompt(2**32 - 1)), fields=None),
    _prompt("is too long", "a" * 300, "300", str(CONTEXT), code="context_length_exceeded", rpc=complete(text_prompt("a" * 300))),
    _prompt("of ids is too long", [1] * 300, "300", str(CONTEXT), code="context_length_exceeded", rpc=complete(id_prompt(*[1] * 300))),
    _prompt(
        "leaves no room", "a" * CONTEXT, str(CONTEXT), "room", code="context_length_exceeded", rpc=complete(text_prompt("a" * CONTEXT))
    ),
    _prompt(
        "is too long, the second",
        ["a", "a" * 999],
        "999",
        str(CONTEXT),
        code="context_length_exceeded",
        param="prompt[1]",
        rpc=complete(text_prompt("a"), text_prompt("a" * 999)),
    ),
    _prompt(
        "is 2,000 times too long",
        "a" * 500_000,
        "500000",
        str(CONTEXT),
        code="context_length_exceeded",
        rpc=complete(text_prompt("a" * 500_000)),
    ),
    _prompt("is too many", ["a"] * 2049, "2049", "at most 2048", rpc=complete(*[text_prompt("a")] * 2049)),
    _prompt("is neither text nor ids", None, "prompt[0]", "neither", rpc=complete(common_pb2.Prompt()), fields=None),
)

HEADERS = tuple(
    BadInput(
        name=f"timeout is {value}",
        fields={},
        headers={"x-request-timeout-s": value},
        words=("x-request-timeout-s", value, "seconds above 0"),
        param="x-request-timeout-s",
        rpc=complete(text_prompt("hello")),
        metadata=(("x-request-timeout-s", value),),
    )
    for value in ("soon", "-1", "0", "nan", "1,5")
)

BAD_INPUTS = (*SAMPLING, *PROMPTS, *MODELS, *TASKS, *BODIES, *HEADERS)
