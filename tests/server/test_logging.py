"""Every line has its request's id and stays one line, whatever is in it."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator

import pytest

from attendant_server.logging import PACKAGES, bind_request_id, configure_logging, log_event

LOGGER = logging.getLogger("attendant_server.test")


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    before = {
        name: (logging.getLogger(name).handlers[:], logging.getLogger(name).level, logging.getLogger(name).propagate) for name in PACKAGES
    }
    yield
    for name, (handlers, level, propagate) in before.items():
        logger = logging.getLogger(name)
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)


def _json_lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_carry_event_fields_and_the_bound_request_id() -> None:
    stream = io.StringIO()
    configure_logging(log_format="json", level="info", stream=stream)
    with bind_request_id("req-1"):
        log_event(LOGGER, logging.INFO, "request", tokens=3, odd=object)
    log_event(LOGGER, logging.INFO, "request", request_id="req-2")
    LOGGER.info("plain", extra={"request_id": "req-3"})
    LOGGER.info("none")
    lines = _json_lines(stream)
    assert [line.get("request_id") for line in lines] == ["req-1", "req-2", "req-3", None]
    assert (lines[0]["event"], lines[0]["tokens"], lines[0]["level"]) == ("request", 3, "info")


async def test_tasks_side_by_side_keep_their_own_request_ids() -> None:
    stream = io.StringIO()
    configure_logging(log_format="json", level="info", stream=stream)

    async def work(name: str) -> None:
        with bind_request_id(name):
            await asyncio.sleep(0)
            log_event(LOGGER, logging.INFO, name)

    await asyncio.gather(*(work(f"req-{idx}") for idx in range(5)))
    assert all(line["event"] == line["request_id"] for line in _json_lines(stream))


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_newlines_in_values_cannot_forge_a_line(log_format: str) -> None:
    stream = io.StringIO()
    configure_logging(log_format="json" if log_format == "json" else "console", level="info", stream=stream)
    log_event(LOGGER, logging.INFO, "one\ntwo", request_id="a\nERROR forged", model="\x1b[31m\r\n")
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


def test_a_trace_is_there_for_the_operator() -> None:
    stream = io.StringIO()
    configure_logging(log_format="json", level="info", stream=stream)
    log_event(LOGGER, logging.ERROR, "request", exc_info=ValueError("why"))
    assert "ValueError: why" in str(_json_lines(stream)[0]["trace"])


def test_configuring_twice_does_not_write_twice_and_the_level_counts() -> None:
    stream = io.StringIO()
    for _ in range(2):
        configure_logging(log_format="console", level="warning", stream=stream)
    LOGGER.info("quiet")
    LOGGER.warning("loud")
    assert stream.getvalue().count("\n") == 1
