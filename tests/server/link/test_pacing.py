"""Pieces are gathered where carrying each alone would cost the model its processor, and no longer than that."""

import asyncio

from attendant_engine.types import EngineOutput, PooledOutput, SequenceOutput
from attendant_server.link.pacing import MAX_WAIT_S, Pacer, wait_s


def _piece(idx: int, token_id: int) -> SequenceOutput:
    return SequenceOutput(request_id=str(idx), token_ids=(token_id,))


def _pieces(token_id: int, count: int = 200) -> list[EngineOutput]:
    return [_piece(idx, token_id) for idx in range(count)]


def test_few_streams_wait_for_nothing_and_many_never_long() -> None:
    assert wait_s(1, 2) == wait_s(2, 2) == wait_s(30, 64) == 0.0
    assert 0.0 < wait_s(16, 2) < wait_s(32, 2) < MAX_WAIT_S == wait_s(1000, 2)
    assert wait_s(64, 16) < wait_s(64, 4)


async def test_few_streams_get_every_token_as_it_comes() -> None:
    seen: list[EngineOutput] = []
    pacer = Pacer(seen.append, num_cores=8)
    for token_id in range(5):
        pacer.add([_piece(0, token_id)])
    assert seen == [_piece(0, token_id) for token_id in range(5)]


async def test_many_streams_get_theirs_merged_and_in_order_without_another_step() -> None:
    seen: list[EngineOutput] = []
    is_over = asyncio.Event()

    def dispatch(output: EngineOutput) -> None:
        seen.append(output)
        if len(seen) == 400:
            is_over.set()

    pacer = Pacer(dispatch, num_cores=1)
    pacer.add(_pieces(1))
    assert seen == _pieces(1), "nothing was handed on just before"
    for token_id in (2, 3, 4):
        pacer.add(_pieces(token_id))
    assert len(seen) == 200
    await asyncio.wait_for(is_over.wait(), 10)
    assert seen[200:] == [SequenceOutput(request_id=str(idx), token_ids=(2, 3, 4)) for idx in range(200)]


async def test_beginnings_ends_errors_and_vectors_do_not_wait() -> None:
    seen: list[EngineOutput] = []
    pacer = Pacer(seen.append, num_cores=1)
    pacer.add(_pieces(1))
    pacer.add(_pieces(2))
    seen.clear()
    begin = SequenceOutput(request_id="new", token_ids=(7,), seed=1)
    end = SequenceOutput(request_id="3", token_ids=(8,), finish_reason="length")
    vector = PooledOutput(request_id="pooled")
    pacer.add([*_pieces(3, 3), begin, end, vector])
    assert seen == [begin, SequenceOutput(request_id="3", token_ids=(2, 8), finish_reason="length"), vector]
    pacer.flush()
    assert seen[3] == SequenceOutput(request_id="0", token_ids=(2, 3)) and len(seen) == 3 + 199


async def test_nothing_is_left_over_after_a_flush() -> None:
    seen: list[EngineOutput] = []
    pacer = Pacer(seen.append, num_cores=1)
    pacer.add(_pieces(1))
    pacer.add(_pieces(2))
    pacer.flush()
    assert len(seen) == 400
    pacer.flush()
    assert len(seen) == 400
