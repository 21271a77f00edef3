"""What the first rank says to the others, and they to it while they load: a kind, a size and that many bytes on a socket.

Plain integers and JSON; nothing is pickled.
"""

import socket
import struct
import threading
from collections.abc import Callable, Sequence
from enum import IntEnum
from select import poll

_HEAD = struct.Struct("<IQ")


class Frame(IntEnum):
    """What a frame is: the job of a rank, how its loading went, and then one for each thing to do together."""

    JOB = 0
    LOADED = 1
    FAILED = 2
    STEP = 3
    COPY_BLOCKS = 4
    ZERO_BLOCKS = 5
    MEET = 6


def send_frame(to: socket.socket, kind: Frame, data: bytes = b"") -> None:
    """Send one frame. Raises ``OSError`` where nobody reads any more."""
    to.sendall(_HEAD.pack(kind, len(data)) + data)


def receive_frame(source: socket.socket) -> tuple[Frame, bytearray] | None:
    """Return the next frame, None at the end."""
    head = _receive(source, _HEAD.size)
    if head is None:
        return None
    kind, size = _HEAD.unpack(head)
    data = _receive(source, size)
    return None if data is None else (Frame(kind), data)


def watch_for_hang_up(sockets: Sequence[socket.socket], then: Callable[[], None]) -> None:
    """Call ``then``, on a thread of its own, when the process at the other end of one of ``sockets`` has ended, or closed it."""
    watched = poll()
    for each in sockets:
        watched.register(each, 0)  # a hang-up is always told

    def watch() -> None:
        watched.poll()
        then()

    threading.Thread(target=watch, name="attendant-ranks", daemon=True).start()


def _receive(source: socket.socket, size: int) -> bytearray | None:
    data = bytearray(size)
    view, num_received = memoryview(data), 0
    while num_received < size:
        try:
            count = source.recv_into(view[num_received:])
        except ConnectionError:
            return None
        if count == 0:
            return None
        num_received += count
    return data
