"""The process in which chat templates run: reads requests on standard input, writes answers on standard output.

A frame is four bytes of length and that much data. The first frame is the templates, the others are calls, all in JSON; an
answer is a status byte and the prompt or a message. The system's own timer ends the process when a rendering takes too
much processor time, wherever it stands: no code of the template's can catch that. Knows no files and has no environment.
"""

import json
import resource
import signal
import sys
from typing import IO, Any

from jinja2 import Template, TemplateError

from attendant_engine.tokenizers.template_environment import RefusedByTemplate, TemplateFault, make_environment, render

START_CPU_S = 5.0
"""Of compiling the templates: a template's constants are computed then."""
MAX_MEMORY_BYTES = 1 << 30
"""Of addresses, the interpreter's own included; what asks for more gets a MemoryError, or ends the process."""

RENDERED, REFUSED, FAILED, FAULTED = b"\x00", b"\x01", b"\x02", b"\x03"


def main() -> None:
    """Serve until standard input ends. The only argument: processor seconds of one rendering."""
    max_render_s = float(sys.argv[1])
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    # The default of SIGPROF is to end the process; Python puts nothing in its place.
    signal.setitimer(signal.ITIMER_PROF, START_CPU_S)
    environment = make_environment()
    frame = read_frame(source)
    sources: dict[str, str] = {} if frame is None else json.loads(frame)
    templates: dict[str, Template | TemplateError] = {}
    for name, text in sources.items():
        try:
            templates[name] = environment.from_string(text)
        except TemplateError as error:
            templates[name] = error
    signal.setitimer(signal.ITIMER_PROF, 0)
    write_frame(sink, RENDERED)
    while (frame := read_frame(source)) is not None:
        call = json.loads(frame)
        signal.setitimer(signal.ITIMER_PROF, max_render_s)
        answer = _answer(templates[call["template"]], call["variables"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        write_frame(sink, answer)


def _answer(template: Template | TemplateError, variables: dict[str, Any]) -> bytes:
    try:
        if isinstance(template, TemplateError):
            raise template
        return RENDERED + render(template, variables)
    except RefusedByTemplate as error:
        return REFUSED + str(error)[:2000].encode("utf-8", "replace")
    except TemplateFault as error:
        return FAULTED + str(error).encode()
    except TemplateError as error:
        return FAILED + str(error)[:2000].encode("utf-8", "replace")


def read_frame(source: IO[bytes]) -> bytes | None:
    """Return the next frame, None at the end."""
    head = source.read(4)
    if len(head) < 4:
        return None
    size = int.from_bytes(head, "big")
    data = source.read(size)
    return data if len(data) == size else None


def write_frame(sink: IO[bytes], data: bytes) -> None:
    """Write a frame at once."""
    sink.write(len(data).to_bytes(4, "big") + data)
    sink.flush()
