"""Two ranks over gloo answer as one does, with the same bits in any company; and when one of them is lost, the engine is."""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attendant_engine.config import EngineConfig
from attendant_engine.engine import Engine, load_engine
from attendant_engine.errors import CheckpointError
from attendant_engine.kernels.cpu.library import load_library
from attendant_engine.parallel.frames import Frame, receive_frame
from attendant_engine.parallel.job import RankJob
from attendant_engine.parallel.peers import Peers
from attendant_engine.rank_group import RankGroup
from attendant_engine.stats import StepOutput
from attendant_engine.types import EngineRequest, GenerationRequest, PoolingRequest, SamplingParams, SequenceOutput
from attendant_engine.worker import EngineWorker, WorkerState
from tests.engine.fakes import Collected, run_all
from tests.engine.parallel import checkpoints

BACKENDS = ["torch"] if load_library() is None else ["native"]
CONFIG = EngineConfig(
    device="cpu", dtype="float32", attention_backend=BACKENDS[0], max_batch_tokens=64, max_num_seqs=16, kv_cache_memory_bytes=1 << 20
)
DEADLINE_S = 30.0
SOON_S = 8.0
"""Far less than any timeout of ours, and time for a busy machine."""


def prompt(seed: int, length: int) -> tuple[int, ...]:
    """Return random token ids."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(1, checkpoints.VOCAB_SIZE, (length,), generator=generator).tolist())


def completion(request_id: str, length: int, *, temperature: float = 0.0, n: int = 1, max_tokens: int = 12) -> GenerationRequest:
    """A request whose answer has every number that a caller can see."""
    params = SamplingParams(
        max_tokens=max_tokens, temperature=temperature, seed=len(request_id), logprobs=3, prompt_logprobs=2, ignore_eos=True
    )
    return GenerationRequest(request_id=request_id, prompt_token_ids=prompt(length, length), params=params, n=n)


REQUESTS: tuple[EngineRequest, ...] = (
    completion("greedy", 21),
    completion("drawn", 90, temperature=0.9),  # in chunks, of which others move the borders
    completion("forked", 37, temperature=1.0, n=3),  # whose last block is copied
)
CROWD = tuple(completion(f"crowd {length}", length, max_tokens=20) for length in (5, 18, 33, 71))


def numbers_of(collected: Collected, requests: Sequence[EngineRequest]) -> dict[tuple[str, int], list[object]]:
    """Return every token and log-probability of the answers, however many came at a time."""
    ids = {request.request_id for request in requests}
    numbers: dict[tuple[str, int], list[object]] = {}
    for key, said in collected.by_sequence.items():
        if key[0] in ids:
            parts = [(output.token_ids, output.logprobs or (), output.prompt_logprobs or ()) for output in said]
            numbers[key] = [number for kind in zip(*parts, strict=True) for several in kind for number in several]
    return numbers


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def engines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, Engine]]:
    """An engine of one rank and one of two, of the same checkpoint."""
    path = checkpoints.write(request.param, tmp_path_factory.mktemp(request.param))
    one = load_engine(path, "one", CONFIG)
    two = load_engine(path, "two", replace(CONFIG, tensor_parallel=2))
    yield one, two
    two.close()


def flat(values: object) -> Iterator[float]:
    """Yield every log-probability in an answer's nested numbers."""
    if isinstance(values, float):
        yield values
    elif isinstance(values, tuple | list):
        for value in values:
            yield from flat(value)
    elif hasattr(values, "logprob"):
        yield values.logprob


def test_two_ranks_say_what_one_says(engines: tuple[Engine, Engine]) -> None:
    one, two = engines
    one.reset_prefix_cache()
    two.reset_prefix_cache()
    expected, found = (run_all(engine, *REQUESTS) for engine in (one, two))
    for key in expected.by_sequence:
        assert found.token_ids(*key) == expected.token_ids(*key)
    ours, theirs = (list(flat(list(numbers_of(collected, REQUESTS).values()))) for collected in (found, expected))
    assert len(ours) == len(theirs) > 200
    assert ours == pytest.approx(theirs, abs=2e-4)
    assert ours != theirs, "the parts of sums were not added apart"


def test_company_chunks_and_a_cached_prompt_change_no_bit(engines: tuple[Engine, Engine]) -> None:
    _, two = engines
    if two.info.kernels.startswith("torch"):
        pytest.skip("without the native kernels no engine promises it")
    alone: dict[tuple[str, int], list[object]] = {}
    for request in REQUESTS:
        two.reset_prefix_cache()
        alone |= numbers_of(run_all(two, request), REQUESTS)
    two.reset_prefix_cache()
    crowded = run_all(two, *CROWD, *REQUESTS)
    assert max(step.stats.num_sequences for step in crowded.steps) > 5
    assert numbers_of(crowded, REQUESTS) == alone
    again = run_all(two, *(replace(request, params=replace(request.params, prompt_logprobs=None)) for request in CROWD), *REQUESTS)
    assert sum(step.stats.num_cached_prompt_tokens for step in again.steps) > 0
    assert numbers_of(again, REQUESTS) == alone


def test_what_fixed_the_bits_names_the_ranks(engines: tuple[Engine, Engine]) -> None:
    one, two = engines
    assert two.info.kernels == f"{one.info.kernels}, 2 ranks"
    assert two.info.digest == one.info.digest
    assert two.info.num_parameters == one.info.num_parameters
    assert two.load_stats.weight_bytes < one.load_stats.weight_bytes


def test_texts_are_classified_by_two_ranks_as_by_one(tmp_path: Path) -> None:
    path = checkpoints.write("bert", tmp_path)
    requests = [
        PoolingRequest(
            request_id=str(length),
            prompt_token_ids=prompt(length, length),
            token_type_ids=(0,) * 3 + (1,) * (length - 3),
            task="classification",
        )
        for length in (4, 17, 60)
    ]
    expected = run_all(load_engine(path, "one", CONFIG), *requests).pooled
    two = load_engine(path, "two", replace(CONFIG, tensor_parallel=2))
    try:
        together = run_all(two, *requests).pooled
        for request in requests:
            assert together[request.request_id].values == pytest.approx(expected[request.request_id].values, abs=1e-5)
            assert run_all(two, request).pooled[request.request_id].values == together[request.request_id].values
    finally:
        two.close()


class Life:
    """A worker over two ranks, and all that it said."""

    def __init__(self, path: Path) -> None:
        self.outputs: list[SequenceOutput] = []
        self.states: list[WorkerState] = []
        self.condition = threading.Condition()
        self.worker = EngineWorker(
            lambda: load_engine(path, "two", replace(CONFIG, tensor_parallel=2)), on_step=self.on_step, on_state=self.on_state
        )
        self.worker.start()
        self.wait_for(lambda: self.states == ["ready"], DEADLINE_S)

    def on_step(self, step: StepOutput) -> None:
        """Take outputs in."""
        with self.condition:
            self.outputs += [output for output in step.outputs if isinstance(output, SequenceOutput)]
            self.condition.notify_all()

    def on_state(self, state: WorkerState) -> None:
        """Take a state in."""
        with self.condition:
            self.states.append(state)
            self.condition.notify_all()

    def wait_for(self, predicate: Callable[[], bool], timeout_s: float) -> None:
        """Wait until ``predicate`` holds, or fail."""
        with self.condition:
            assert self.condition.wait_for(predicate, timeout_s), f"it did not get there in time: {self.states}"

    @property
    def peers(self) -> Peers:
        """The other rank."""
        assert self.worker.engine is not None
        peers = self.worker.engine.peers
        assert isinstance(peers, Peers)
        return peers

    @property
    def silent_s(self) -> float:
        """How long the worker's thread has shown no sign of life."""
        return time.monotonic() - self.worker.last_step_monotonic_s


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    """A worker that is ready."""
    life = Life(checkpoints.write("gpt2", tmp_path))
    yield life
    assert life.worker.stop()
    assert has_ended(life.peers)


def has_ended(peers: Peers) -> bool:
    """Whether there is no process of the other ranks any more."""
    return not any(Path(f"/proc/{pid}").exists() for pid in peers.pids)


def test_when_an_idle_rank_is_killed_the_engine_fails_and_says_why(life: Life) -> None:
    os.kill(life.peers.pids[0], signal.SIGKILL)
    life.wait_for(lambda: life.states[-1] == "failed", SOON_S)
    assert str(life.worker.load_error) == "One of the 2 processes that share the model, rank 1, was ended by SIGKILL."
    life.worker.submit(completion("late", 5))
    life.wait_for(lambda: bool(life.outputs), SOON_S)
    assert life.outputs[-1].error is not None and life.outputs[-1].error.code == "not_ready"


def test_when_a_rank_is_killed_in_a_step_what_it_served_is_given_back_to_be_served_elsewhere(life: Life) -> None:
    life.worker.submit(completion("long", 9, max_tokens=150))
    life.wait_for(lambda: len(life.outputs) > 3, DEADLINE_S)
    os.kill(life.peers.pids[0], signal.SIGKILL)
    life.wait_for(lambda: life.outputs[-1].error is not None, SOON_S)
    last = life.outputs[-1]
    assert last.error is not None and (last.finish_reason, last.error.code) == ("error", "not_ready")
    life.wait_for(lambda: life.states[-1] == "failed", SOON_S)


def test_a_rank_that_hangs_is_seen_as_an_engine_that_hangs_even_when_idle(life: Life) -> None:
    (pid,) = life.peers.pids
    os.kill(pid, signal.SIGSTOP)
    waiter = threading.Event()
    deadline_s = time.monotonic() + SOON_S
    while life.silent_s < 1.0:
        assert time.monotonic() < deadline_s, "it shows signs of life"
        waiter.wait(0.05)
    os.kill(pid, signal.SIGCONT)
    life.worker.submit(completion("after", 5))
    life.wait_for(lambda: bool(life.outputs) and life.outputs[-1].finish_reason == "length", DEADLINE_S)
    assert all(math.isfinite(value) for value in flat([output.logprobs for output in life.outputs]))


def start_rank(path: Path) -> Peers:
    """Start the second of two ranks, and nobody that it could meet."""

    def job(rank: int, rendezvous: str) -> RankJob:
        return RankJob(
            rank=rank,
            num_ranks=2,
            path=str(path),
            rendezvous=rendezvous,
            device="cpu",
            dtype="float32",
            cache_dtype="float32",
            attention_backend="torch",
            num_blocks=4,
            block_size=16,
            max_batch_tokens=64,
            num_threads=1,
        )

    return Peers(RankGroup(rank=0, num_ranks=2, device=torch.device("cpu")), job)


def test_a_rank_ends_with_the_process_that_started_it_wherever_it_is(tmp_path: Path) -> None:
    peers = start_rank(checkpoints.write("llama", tmp_path))
    (process,) = peers.processes
    assert receive_frame(process.socket) == (Frame.LOADED, bytearray())
    process.socket.close()  # while it waits to meet us
    assert process.process.wait(SOON_S) == 0
    peers.close()


def test_a_rank_that_cannot_load_is_one_sentence_of_the_load(tmp_path: Path) -> None:
    peers = start_rank(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=r"^The model directory 'gone' does not exist; name a directory in Hugging Face layout\.$"):
        peers.join()
    peers.close()
    assert has_ended(peers)
