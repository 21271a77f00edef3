"""What ``serve`` prints when it is ready: the addresses, the models and three lines that work as pasted.

Pure text from plain values; printing is the caller's business.
"""

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attendant_server.gateway.results import ModelCard
from attendant_server.hosting import ports

_PROMPT = "Once upon a time"
_SAMPLING = {"max_tokens": 48, "temperature": 0.7, "seed": 1}
"""Drawn, since small models repeat themselves when they are greedy; by a seed, so that every one of the lines says the same."""
_KEY = "os.environ['ATTENDANT_API_KEY']"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Example:
    """One task in the terms of curl, of the Python client and of the generated gRPC stubs."""

    path: str
    body: dict[str, Any]
    client_call: str
    rpc: str
    module: str
    message: str


def _completion(model: str) -> _Example:
    return _Example(
        path="/v1/completions",
        body={"model": model, "prompt": _PROMPT, **_SAMPLING},
        client_call=f"complete({model!r}, {_PROMPT!r}, {', '.join(f'{name}={value}' for name, value in _SAMPLING.items())})",
        rpc="Complete",
        module="completion_pb2",
        message=f"CompleteRequest(model={model!r}, prompts=[{{'text': {_PROMPT!r}}}], sampling={_SAMPLING!r})",
    )


def _embedding(model: str) -> _Example:
    return _Example(
        path="/v1/embeddings",
        body={"model": model, "input": _PROMPT},
        client_call=f"embed({model!r}, {_PROMPT!r})",
        rpc="Embed",
        module="embedding_pb2",
        message=f"EmbedRequest(model={model!r}, inputs=[{{'text': {_PROMPT!r}}}])",
    )


def _classification(model: str) -> _Example:
    return _Example(
        path="/v1/classify",
        body={"model": model, "input": _PROMPT},
        client_call=f"classify({model!r}, {_PROMPT!r})",
        rpc="Classify",
        module="classification_pb2",
        message=f"ClassifyRequest(model={model!r}, inputs=[{{'text': {_PROMPT!r}}}])",
    )


_EXAMPLES = {"completion": _completion, "embedding": _embedding, "classification": _classification}


def ready_text(
    cards: Sequence[ModelCard],
    *,
    host: str,
    http_port: int,
    grpc_port: int,
    asks_keys: bool,
    is_tls: bool = False,
    is_mutual: bool = False,
) -> str:
    """Return the text. ``asks_keys``: its lines then read the key from ``$ATTENDANT_API_KEY``.

    ``is_tls``: they trust the authority in the file that ``$ATTENDANT_TLS_CA`` names; ``is_mutual``: they show
    ``$ATTENDANT_CLIENT_CERT`` with ``$ATTENDANT_CLIENT_KEY``.
    """
    at = ports.reachable(host)
    shown = f"[{at}]" if ":" in at else at
    http, grpc = f"{'https' if is_tls else 'http'}://{shown}:{http_port}", f"{'grpcs://' if is_tls else ''}{shown}:{grpc_port}"
    lines = ["attendant is ready", f"  HTTP  {http}  (reference at {http}/docs)", f"  gRPC  {grpc}", ""]
    width = max((len(card.id) for card in cards), default=0)
    lines += [f"  {card.id:<{width}}  {card.family}, {', '.join(card.tasks)}; up to {card.max_model_len} tokens" for card in cards]
    lines += [
        "",
        "Try it:",
        *(f"  {line}" for line in example_lines(cards, http=http, grpc=grpc, asks_keys=asks_keys, is_mutual=is_mutual)),
    ]
    return "\n".join(lines)


def example_lines(cards: Sequence[ModelCard], *, http: str, grpc: str, asks_keys: bool, is_mutual: bool = False) -> tuple[str, ...]:
    """Return a shell line each for curl, the Python client and bare gRPC, for the most telling task that is served."""
    model_by_task = {task: card.id for card in reversed(cards) for task in card.tasks}
    task = next((task for task in _EXAMPLES if task in model_by_task), None)
    if task is None:
        return ()
    example = _EXAMPLES[task](model_by_task[task])
    header = ' -H "authorization: Bearer $ATTENDANT_API_KEY"' if asks_keys else ""
    keyword = f", api_key={_KEY}" if asks_keys else ""
    metadata = f", metadata=[('authorization', 'Bearer ' + {_KEY})]" if asks_keys else ""
    is_tls = http.startswith("https:")
    imports = "import os; " if asks_keys or is_tls else ""
    curl_tls = ' --cacert "$ATTENDANT_TLS_CA"' if is_tls else ""
    tls_import, channel = "", f"grpc.insecure_channel({grpc!r})"
    if is_tls:
        ca = "os.environ['ATTENDANT_TLS_CA']"
        files, contents = f"ca_file={ca}", f"open({ca}, 'rb').read()"
        if is_mutual:
            curl_tls += ' --cert "$ATTENDANT_CLIENT_CERT" --key "$ATTENDANT_CLIENT_KEY"'
            cert, key = "os.environ['ATTENDANT_CLIENT_CERT']", "os.environ['ATTENDANT_CLIENT_KEY']"
            files += f", cert_file={cert}, key_file={key}"
            contents += f", open({key}, 'rb').read(), open({cert}, 'rb').read()"
        tls_import = ", Tls"
        keyword += f", tls=Tls({files})"
        channel = f"grpc.secure_channel({grpc.removeprefix('grpcs://')!r}, grpc.ssl_channel_credentials({contents}))"
    stub = f"s.InferenceServiceStub({channel})"
    return (
        f"curl -s{curl_tls} {http}{example.path} -H 'content-type: application/json'{header} -d {shlex.quote(json.dumps(example.body))}",
        _python(f"{imports}from attendant_client import Client{tls_import}; print(Client({grpc!r}{keyword}).{example.client_call})"),
        _python(
            f"{imports}import grpc; from attendant.v1 import {example.module} as m, inference_service_pb2_grpc as s; "
            f"print({stub}.{example.rpc}(m.{example.message}{metadata}))"
        ),
    )


def _python(code: str) -> str:
    """Return a shell line that runs ``code`` with this interpreter, quoted as readably as its characters allow."""
    needs_care = any(character in code for character in '"$`\\!')
    return f"{shlex.quote(sys.executable)} -c " + (shlex.quote(code) if needs_care else f'"{code}"')
