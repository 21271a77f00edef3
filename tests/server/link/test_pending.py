"""What waits is merged: nothing is lost, and a slow reader costs one output a live sequence."""

from hypothesis import given
from hypothesis import strategies as st

from attendant_engine.types import EngineOutput, OutputError, PooledOutput, SequenceOutput, TokenLogprobs
from attendant_server.link.pending import PendingOutputs


def _logprobs(*token_ids: int) -> tuple[TokenLogprobs, ...]:
    return tuple(TokenLogprobs(token_id=token_id, logprob=-1.0, rank=1) for token_id in token_ids)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2), st.booleans()), max_size=60))
def test_whenever_it_is_read_each_sequence_gets_all_its_tokens_in_order(events: list[tuple[str, int, bool]]) -> None:
    pending, got, sent = PendingOutputs(), dict[tuple[str, int], list[int]](), dict[tuple[str, int], list[int]]()

    def read() -> None:
        taken = [output for output in pending.take() if isinstance(output, SequenceOutput)]
        assert len({(output.request_id, output.index) for output in taken}) == len(taken)
        for output in taken:
            got.setdefault((output.request_id, output.index), []).extend(output.token_ids)
            assert output.logprobs == _logprobs(*output.token_ids)

    for token_id, (request_id, index, reads) in enumerate(events):
        pending.add(SequenceOutput(request_id=request_id, index=index, token_ids=(token_id,), logprobs=_logprobs(token_id)))
        sent.setdefault((request_id, index), []).append(token_id)
        assert len(pending) <= 6
        if reads:
            read()
    read()
    assert got == sent
    assert len(pending) == 0


def test_what_only_the_first_or_the_last_output_says_survives() -> None:
    pending = PendingOutputs()
    error = OutputError(code="server_error", message="m")
    pending.add(SequenceOutput(request_id="a", seed=5, num_cached_tokens=3, prompt_logprobs=(None, *_logprobs(1)), queue_s=0.5))
    pending.add(SequenceOutput(request_id="a", token_ids=(1,)))
    pending.add(SequenceOutput(request_id="a", token_ids=(2,), finish_reason="stop", stop_token_id=2, decode_s=0.25, error=error))
    assert pending.take() == [
        SequenceOutput(
            request_id="a",
            token_ids=(1, 2),
            seed=5,
            num_cached_tokens=3,
            prompt_logprobs=(None, *_logprobs(1)),
            queue_s=0.5,
            decode_s=0.25,
            finish_reason="stop",
            stop_token_id=2,
            error=error,
        )
    ]


def test_a_single_output_and_a_vector_pass_unchanged_and_in_order() -> None:
    pending = PendingOutputs()
    outputs: list[EngineOutput] = [SequenceOutput(request_id="b", token_ids=(1,)), PooledOutput(request_id="a", values=(0.5,))]
    for output in outputs:
        pending.add(output)
    assert pending.take() == outputs


def test_discarding_forgets_every_sequence_of_a_request_and_no_other() -> None:
    pending = PendingOutputs()
    for request_id, index in (("a", 0), ("b", 0), ("a", 1)):
        pending.add(SequenceOutput(request_id=request_id, index=index))
    pending.discard("a")
    assert [output.request_id for output in pending.take()] == ["b"]
