"""What makes an application on Ray Serve the same one when it is handed over again with other models."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """What an application keeps when its models change while it runs.

    A deployment of the same ``release`` and options is left as it is. ``engine_options`` are Ray's for the engines of the
    models in ``first``; those that come later reserve nothing. ``log_path``: see ``log_pipe``, for one machine.
    """

    release: str
    link_token: str
    log_path: str | None
    first: frozenset[str]
    engine_options: Mapping[str, float]
    gateway_cpus: float
