"""A gRPC client of an attendant server, blocking and async: typed results, streams, deadlines, retries.

    from attendant_client import Client, QueueFullError

    with Client("127.0.0.1:9000", api_key="...") as client:
        client.wait_ready()
        answer = client.complete("attendant-gpt", "Once upon a time", max_tokens=48, temperature=0)
        print(answer.completions[0].text)

        with client.stream_complete("attendant-gpt", "Once upon a time", timeout_s=30) as stream:
            for piece in stream:
                print(piece.text, end="", flush=True)
        print(stream.summary.usage)

        try:
            vectors = client.embed("attendant-minilm", ["a cat", "a dog"]).vectors
        except QueueFullError as error:
            print("busy; come back in", error.retry_after_s, "s")

``AsyncClient`` has the same methods to await, and streams for ``async for``. It needs neither torch nor the server's code.
"""

from attendant_client.async_client import AsyncClient
from attendant_client.client import Client
from attendant_client.connection import DEFAULT_URL, Tls
from attendant_client.errors import (
    AttendantError,
    AuthenticationError,
    ConnectionFailedError,
    ContextLengthError,
    DeadlineExceededError,
    InvalidRequestError,
    ModelNotFoundError,
    NotFoundError,
    NotReadyError,
    PermissionDeniedError,
    QueueFullError,
    RequestCancelledError,
    RequestTooLargeError,
    ServerError,
    StreamTruncatedError,
    UnavailableError,
    UnsupportedParameterError,
)
from attendant_client.results import (
    ChatAnswer,
    ChatChoice,
    Classification,
    ClassificationAnswer,
    Completion,
    CompletionAnswer,
    EmbeddingAnswer,
    FewShotAnswer,
    FewShotResult,
    Model,
    PositionLogprobs,
    Receipt,
    StreamSummary,
    Timing,
    TokenLogprob,
    Tokens,
    Usage,
)
from attendant_client.retry import RetryPolicy
from attendant_client.stream import AsyncStream, Stream
from attendant_client.to_wire import ChatOptions, CompleteOptions, FewShotExample, FewShotOptions

__all__ = [
    "DEFAULT_URL",
    "AsyncClient",
    "AsyncStream",
    "AttendantError",
    "AuthenticationError",
    "ChatAnswer",
    "ChatChoice",
    "ChatOptions",
    "Classification",
    "ClassificationAnswer",
    "Client",
    "CompleteOptions",
    "Completion",
    "CompletionAnswer",
    "ConnectionFailedError",
    "ContextLengthError",
    "DeadlineExceededError",
    "EmbeddingAnswer",
    "FewShotAnswer",
    "FewShotExample",
    "FewShotOptions",
    "FewShotResult",
    "InvalidRequestError",
    "Model",
    "ModelNotFoundError",
    "NotFoundError",
    "NotReadyError",
    "PermissionDeniedError",
    "PositionLogprobs",
    "QueueFullError",
    "Receipt",
    "RequestCancelledError",
    "RequestTooLargeError",
    "RetryPolicy",
    "ServerError",
    "Stream",
    "StreamSummary",
    "StreamTruncatedError",
    "Timing",
    "Tls",
    "TokenLogprob",
    "Tokens",
    "UnavailableError",
    "UnsupportedParameterError",
    "Usage",
]
