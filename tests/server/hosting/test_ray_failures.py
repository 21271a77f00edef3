"""Serve hands traces on; an operator is told the sentence in them."""

from attendant_server.hosting.ray_failures import what_failed


def test_the_sentence_is_found_at_the_end_of_serves_trace() -> None:
    trace = (
        "The deployment failed 3 times. Error:\n  File \"x.py\", line 3\nattendant_engine.errors.CheckpointError: Model 'a': cut short.\n"
    )
    assert what_failed(trace) == "Model 'a': cut short."
    assert what_failed("RuntimeError: Model 'a': cut short.") == "Model 'a': cut short."
