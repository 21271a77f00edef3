"""What Ray and Serve say of a failure, as a sentence for an operator."""

import re


def what_failed(message: str) -> str:
    """Return the last line of a trace that Serve hands on, without its exception's name: there stands our own sentence."""
    lines = message.strip().splitlines()
    return re.sub(r"^[\w.]+(Error|Exception): ", "", lines[-1]) if lines else "Ray Serve could not start the application."
