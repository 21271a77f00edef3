"""The other ranks, seen from the first: child processes that are told what to do and watched.

Children of the process that serves, on its machine, wherever that was placed: so one rank's end is seen at once, the ranks
end with the first, and whoever replaces a failed engine replaces all of it. Each has a socket of its own, over which the
first rank sends what a step is; what ranks owe each other within it goes through their ``RankGroup``.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from attendant_engine.errors import CheckpointError, ReplicaFaultError
from attendant_engine.models.base import ModelInputs
from attendant_engine.parallel.frames import Frame, receive_frame, send_frame, watch_for_hang_up
from attendant_engine.parallel.job import RankJob
from attendant_engine.parallel.steps import encode_integers, encode_step
from attendant_engine.rank_group import LOST, RankGroup

_BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv.pop(1)); from attendant_engine.parallel import process; process.main()"
_MEET_EVERY_S = 1.0
"""While there is nothing to do, so that a rank that hangs is found before a request meets it."""
_END_TIMEOUT_S = 1.0
"""For a process that has hung up to be gone."""


class _Process:
    """One rank's process."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            # Not in the terminal's process group: a Ctrl-C there asks the server for a drain, which takes all ranks.
            self.process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, json.dumps([os.path.abspath(entry) for entry in sys.path]), str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=2,
                start_new_session=True,
            )


class Peers:
    """Ranks 1 to N - 1 of a model, started when made; ``make_job`` says what each does, given the file at which all meet."""

    def __init__(self, group: RankGroup, make_job: Callable[[int, str], RankJob]) -> None:
        self.group = group
        self._is_lost = self._is_closed = False
        self._next_meeting_s = 0.0
        self._meeting_place = tempfile.TemporaryDirectory(prefix="attendant-ranks-", ignore_cleanup_errors=True)
        self._rendezvous = Path(self._meeting_place.name) / "ranks"
        self.processes: list[_Process] = []
        try:
            for rank in range(1, group.num_ranks):
                process = _Process()
                self.processes.append(process)
                send_frame(process.socket, Frame.JOB, make_job(rank, str(self._rendezvous)).to_bytes())
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> tuple[int, ...]:
        """The processes' ids, in the order of their ranks."""
        return tuple(process.process.pid for process in self.processes)

    def join(self) -> None:
        """Wait until every rank has loaded, and meet them. Raises ``CheckpointError`` with what one says, or that one is gone."""
        for process in self.processes:
            answer = receive_frame(process.socket)
            if answer is None:
                raise CheckpointError(self._what_ended())
            if answer[0] is not Frame.LOADED:
                raise CheckpointError(answer[1].decode())
        watch_for_hang_up([process.socket for process in self.processes], self._lose)
        self.group.connect(self._rendezvous)
        self.meet()
        if not self.group.needs_rendezvous:
            self._meeting_place.cleanup()  # or it would stay when this process is killed

    def step(self, inputs: ModelInputs) -> None:
        """Have all ranks run a step; the first is to run it too, at once."""
        self._tell(Frame.STEP, encode_step(inputs))

    def copy_blocks(self, copies: Sequence[tuple[int, int]]) -> None:
        """Have all ranks copy blocks of their caches."""
        self._tell(Frame.COPY_BLOCKS, encode_integers([block_id for pair in copies for block_id in pair]))

    def zero_blocks(self, block_ids: Sequence[int]) -> None:
        """Have all ranks overwrite blocks of their caches."""
        self._tell(Frame.ZERO_BLOCKS, encode_integers(list(block_ids)))

    def meet(self) -> None:
        """Wait until every rank has done all it was told."""
        self._tell(Frame.MEET, b"")
        try:
            self.group.meet()
        except ReplicaFaultError as error:
            raise self.fault() from error
        self._next_meeting_s = time.monotonic() + _MEET_EVERY_S

    def check(self) -> None:
        """Raise ``ReplicaFaultError`` when a rank is gone; return late, or never, when one hangs. For whoever has nothing to do."""
        if self._is_lost:
            raise self.fault()
        if time.monotonic() >= self._next_meeting_s:
            self.meet()

    def fault(self) -> ReplicaFaultError:
        """Return what to raise now that the ranks do not agree any more."""
        return ReplicaFaultError(self._what_ended())

    def close(self) -> None:
        """End every rank."""
        self._is_closed = True
        for process in self.processes:
            process.process.kill()
            process.process.wait()
            process.socket.close()
        self._meeting_place.cleanup()

    def _tell(self, kind: Frame, data: bytes) -> None:
        try:
            for process in self.processes:
                send_frame(process.socket, kind, data)
        except OSError as error:
            raise self.fault() from error

    def _lose(self) -> None:
        """Runs on the watcher's thread."""
        if not self._is_closed:
            self._is_lost = True
            self.group.abort()

    def _what_ended(self) -> str:
        deadline_s = time.monotonic() + _END_TIMEOUT_S
        while True:
            codes = {rank: process.process.poll() for rank, process in enumerate(self.processes, start=1)}
            ended = {rank: code for rank, code in codes.items() if code is not None}
            if ended:
                # One that was killed comes first: ranks end by themselves when they lose another.
                rank = min(ended, key=lambda each: ended[each] >= 0)
                how = f"was ended by {signal.Signals(-ended[rank]).name}" if ended[rank] < 0 else f"ended with code {ended[rank]}"
                return f"One of the {self.group.num_ranks} processes that share the model, rank {rank}, {how}."
            if time.monotonic() >= deadline_s:
                return LOST
            time.sleep(0.01)
