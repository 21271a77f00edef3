"""Few-shot: the prompt's shape, labels scored as whole sequences, answers stopped at the separator, the prefix warmed once."""

import asyncio
import math
from collections.abc import Iterable
from typing import Any

import pytest

from attendant_engine.tokenizers import Tokenizer
from attendant_engine.types import EngineOutput, EngineRequest, GenerationRequest, OutputError, SequenceOutput, TokenLogprobs
from attendant_server.errors import ServingError
from attendant_server.gateway.few_shot_prompt import build_prompt
from attendant_server.gateway.gateway import Gateway
from attendant_server.gateway.label_scores import encode_labels, probabilities
from attendant_server.gateway.requests import FewShotRequest
from attendant_server.gateway.results import FewShotResult
from tests.server.fakes import BOS_ID, FakeLink, call, ids_of, model_info, says, spoken

EXAMPLES = [{"input": "2+2", "output": "4"}, {"input": "1+1", "output": "2"}]


@pytest.fixture(autouse=True)
def _long_context(link: FakeLink) -> None:
    link.info = model_info(max_model_len=400)


def _request(**fields: Any) -> FewShotRequest:
    return FewShotRequest.model_validate({"model": "tiny", "queries": ["q"], "max_tokens": 32, **fields})


async def _few_shot(gateway: Gateway, **fields: Any) -> FewShotResult:
    return await gateway.few_shot(_request(**fields), call())


def _text_of(request: GenerationRequest) -> str:
    assert request.prompt_token_ids[0] == BOS_ID
    return bytes(request.prompt_token_ids[1:]).decode("utf-8")


def _by_text(logprob_by_ending: dict[str, float]) -> Any:
    """Score a prompt: the logprob of its last token is that of the ending it has, all others zero."""

    def answer(request: EngineRequest) -> Iterable[EngineOutput]:
        assert isinstance(request, GenerationRequest)
        text, start = _text_of(request), request.params.prompt_logprobs_start
        logprob = next(value for ending, value in logprob_by_ending.items() if text.endswith(ending))
        count = len(request.prompt_token_ids) - start
        scores = (*[0.0] * (count - 1), logprob)
        yield SequenceOutput(
            request_id=request.request_id,
            finish_reason="length",
            prompt_logprobs=tuple(TokenLogprobs(token_id=0, logprob=score, rank=1) for score in scores),
            num_cached_tokens=10,
        )

    return answer


def test_zero_one_and_many_examples_are_written_alike() -> None:
    assert build_prompt(_request()).query("q") == "Input: q\nOutput: "
    assert build_prompt(_request(instruction="Add.")).query("q") == "Add.\n\nInput: q\nOutput: "
    assert build_prompt(_request(examples=EXAMPLES)).query("q") == "Input: 2+2\nOutput: 4\n\nInput: 1+1\nOutput: 2\n\nInput: q\nOutput: "


def test_a_template_of_ones_own_and_braces_in_values_are_taken_as_they_are() -> None:
    request = _request(template="{{Q}} {input} => {output};", examples=[{"input": "{output}", "output": "{x}"}])
    prompt = build_prompt(request)
    assert prompt.query("{input}") == "{Q} {output} => {x};{Q} {input} => "
    assert prompt.separator == ";"


def test_reasoning_comes_between_input_and_output() -> None:
    prompt = build_prompt(_request(examples=[{"input": "a", "output": "b", "reasoning": "r"}]))
    assert prompt.query("q").endswith("Reasoning: r\nOutput: b\n\nInput: q\nReasoning: ")
    assert prompt.answer("q", "why").endswith("Input: q\nReasoning: why\nOutput: ")


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"template": "{input}"}, "template", "lacks {output}"),
        ({"template": ""}, "template", "lacks {input}"),
        ({"template": "{output} {input}"}, "template", "another order"),
        ({"template": "{input} {output} {reasoning}"}, "template", "another order"),
        ({"template": "{input}{input}{output}"}, "template", "{input} twice"),
        ({"template": "{input} {output} {"}, "template", "a brace without its partner"),
        ({"template": "{input} {output} {x}"}, "template", 'the field "{x}"'),
        ({"template": "{input!r} {output}"}, "template", "as they are"),
        ({"template": "{input:>9999999999} {output}"}, "template", "as they are"),
        ({"template": "{input.__class__} {output}"}, "template", 'the field "{input.__class__}"'),
        ({"template": "{} {input} {output}"}, "template", 'the field "{}"'),
        ({"template": "{input}{reasoning}{output}", "examples": EXAMPLES}, "examples[0].reasoning", "'examples[0]' has no reasoning"),
        ({"template": "{input}{output}", "examples": [{**EXAMPLES[0], "reasoning": "r"}]}, "template", "no {reasoning} to put it in"),
        ({"labels": ["a", "b", "a"]}, "labels", "twice"),
        ({"calibrate": True}, "calibrate", "there are none"),
        ({"queries": ["q"] * 1000, "labels": [str(number) for number in range(1000)]}, "queries", "asks for 1000000 sequences"),
        ({"queries": ["x" * 400]}, "queries", "this model takes at most 400"),
        ({"queries": ["x" * 400], "labels": ["a", "b"]}, "queries", "this model takes at most 400"),
    ],
)
async def test_what_does_not_fit_is_said(gateway: Gateway, link: FakeLink, fields: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(ServingError) as caught:
        await _few_shot(gateway, **fields)
    assert (caught.value.param, words in caught.value.message) == (param, True), caught.value.message
    assert link.submitted == []


async def test_labels_get_the_softmax_of_their_whole_sequences(gateway: Gateway, link: FakeLink) -> None:
    link.answer = _by_text({"yes": -1.0, "not at all": -3.0})
    result = await _few_shot(gateway, labels=["yes", "not at all"])
    (answer,) = result.data
    weights = [math.exp(-1.0), math.exp(-3.0)]
    assert (answer.label, answer.text) == ("yes", "yes")
    assert [label for label, _, _ in answer.probs] == ["yes", "not at all"]
    assert [prob for _, prob, _ in answer.probs] == pytest.approx([weight / sum(weights) for weight in weights])
    assert [logprob for _, _, logprob in answer.probs] == [-1.0, -3.0]
    assert answer.score == answer.probs[0][1]
    boundary = len("Input: q\nOutput: ") + 1
    for request in link.generations:
        assert (request.params.max_tokens, request.params.prompt_logprobs, request.params.prompt_logprobs_start) == (0, 0, boundary)
    assert (result.usage.cached_tokens, result.usage.completion_tokens) == (20, 0)


async def test_calibration_divides_by_the_content_free_query(gateway: Gateway, link: FakeLink) -> None:
    link.answer = _by_text({"N/A\nOutput: a": -1.0, "N/A\nOutput: b": -4.0, "a": -2.0, "b": -3.0})
    plain, calibrated = await _few_shot(gateway, labels=["a", "b"]), await _few_shot(gateway, labels=["a", "b"], calibrate=True)
    assert plain.data[0].label == "a"
    assert len(calibrated.data) == 1
    weights = [math.exp(-2.0 + 1.0), math.exp(-3.0 + 4.0)]
    assert [prob for _, prob, _ in calibrated.data[0].probs] == pytest.approx([weight / sum(weights) for weight in weights])
    assert calibrated.data[0].label == "b"
    assert [logprob for _, _, logprob in calibrated.data[0].probs] == [-2.0, -3.0]


async def test_an_answer_is_generated_up_to_the_separator_and_stripped(gateway: Gateway, link: FakeLink) -> None:
    link.answer = says(" forty two\n\nInput: more", ends="length")
    result = await _few_shot(gateway, queries=["q", "r"], examples=EXAMPLES)
    assert [(answer.index, answer.text, answer.label) for answer in result.data] == [(0, "forty two", None), (1, "forty two", None)]
    assert _text_of(link.generations[1]).endswith("Input: r\nOutput:")
    assert link.generations[0].params.temperature == 0.0
    assert result.usage.completion_tokens == 2 * len(" forty two\n\n")


async def test_chain_of_thought_writes_its_reasoning_first_and_labels_follow_from_it(gateway: Gateway, link: FakeLink) -> None:
    scores = _by_text({"why\nOutput: a": -1.0, "why\nOutput: b": -2.0})

    def answer(request: EngineRequest) -> Iterable[EngineOutput]:
        assert isinstance(request, GenerationRequest)
        return scores(request) if request.params.max_tokens == 0 else spoken(request, " why\nOutput: a\n\n", ends="length")

    link.answer = answer
    reasoned = [{"input": "i", "output": "o", "reasoning": "r"}]
    assert (await _few_shot(gateway, examples=reasoned, labels=["a", "b"])).data[0].label == "a"
    assert _text_of(link.generations[0]).endswith("Input: q\nReasoning:")
    assert _text_of(link.generations[1]).endswith("Input: q\nReasoning:  why\nOutput: a")


async def test_the_first_query_runs_alone_and_the_others_together_on_its_replica(gateway: Gateway, link: FakeLink) -> None:
    task = asyncio.ensure_future(_few_shot(gateway, queries=["a", "b", "c"], examples=EXAMPLES))
    while not link.submitted:
        await asyncio.sleep(0.001)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(link.submitted) == 1
    for output in spoken(link.generations[0], "x"):
        link.emit(output)
    while len(link.submitted) < 3:
        await asyncio.sleep(0.001)
    for request in link.generations[1:]:
        for output in spoken(request, "y"):
            link.emit(output)
    assert [answer.text for answer in (await task).data] == ["x", "y", "y"]


async def test_one_failing_query_ends_the_request_and_leaves_nothing_running(gateway: Gateway, link: FakeLink) -> None:
    def answer(request: EngineRequest) -> Iterable[EngineOutput]:
        assert isinstance(request, GenerationRequest)
        if "Input: bad" in _text_of(request):
            yield SequenceOutput(
                request_id=request.request_id, finish_reason="error", error=OutputError(code="server_error", message="fault")
            )
        elif "Input: slow" not in _text_of(request):
            yield from spoken(request, "x")

    link.answer = answer
    with pytest.raises(ServingError, match="fault"):
        await _few_shot(gateway, queries=["ok", "slow", "bad"])
    assert gateway.num_active == 0
    assert len(link.aborted) == 1


def test_probabilities_of_hopeless_labels_are_still_numbers() -> None:
    assert probabilities([-1e6, -1e6]) == [0.5, 0.5]
    assert probabilities([-1e6, -1.0]) == [0.0, 1.0]


def test_labels_share_one_boundary_where_letters_join_across_it(tokenizer: Tokenizer) -> None:
    tokens = encode_labels(tokenizer, "Output: ", ["é", "è", "x"])
    assert tokens.boundary == 1 + len("Output: ")
    assert [ids[tokens.boundary :] for ids in tokens.token_ids] == [ids_of("é"), ids_of("è"), ids_of("x")]
