"""The blocking client; safe to share between threads."""

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, cast

import grpc

from attendant.v1 import chat_pb2, completion_pb2, inference_service_pb2_grpc, models_pb2
from attendant_client import from_wire, health, results, to_wire
from attendant_client.channel import RenewableChannel
from attendant_client.connection import DEFAULT_URL, Tls, make_connection
from attendant_client.errors import ConnectionFailedError, DeadlineExceededError, NotFoundError, UnavailableError
from attendant_client.headway import Headway
from attendant_client.retry import Attempts, Contact, RetryPolicy
from attendant_client.stream import Stream

ResponseT = TypeVar("ResponseT")


class Client:
    """Every task of a server at ``url`` ("host:port" of its gRPC port).

    ``timeout_s`` is the deadline of calls that name none of their own, retries included; None waits as long as the server
    does. Each call raises an ``AttendantError``. Use it as a context manager, or ``close`` it.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        tls: Tls | bool = False,
        timeout_s: float | None = None,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._connection = make_connection(url, api_key=api_key, tls=tls)
        self._timeout_s = timeout_s
        self._retry = retry or RetryPolicy()
        self._channel = RenewableChannel(self._connection)
        self._contact = Contact(self._channel.renew)
        self._stub = inference_service_pb2_grpc.InferenceServiceStub(cast(grpc.Channel, self._channel))
        self._check_health = health.check_method(self._channel)

    def complete(
        self,
        model: str,
        prompt: to_wire.Prompts,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[to_wire.CompleteOptions],
    ) -> results.CompletionAnswer:
        """Continue one or more prompts, each text or token ids."""
        request = to_wire.complete_request(model, prompt, options)
        return from_wire.completion_answer(self._call(self._stub.Complete, request, timeout_s, request_id))

    def stream_complete(
        self,
        model: str,
        prompt: to_wire.Prompts,
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        resume: bool = True,
        **options: Unpack[to_wire.CompleteOptions],
    ) -> Stream[results.Completion]:
        """Continue prompts; pieces of the outputs come as they are generated, errors with the first of them.

        A stream that is lost is resumed behind its last piece, for ``RetryPolicy.recover_within_s``, unless ``resume`` is False.
        """
        request = completion_pb2.StreamCompleteRequest(request=to_wire.complete_request(model, prompt, options))
        return Stream(
            self._stub.StreamComplete,
            Headway(request, may_resume=resume),
            from_wire.completion_piece,
            self._attempts(timeout_s, request_id),
        )

    def chat(
        self,
        model: str,
        messages: str | Sequence[to_wire.Message],
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[to_wire.ChatOptions],
    ) -> results.ChatAnswer:
        """Write the next turn of a conversation."""
        request = to_wire.chat_request(model, messages, options)
        return from_wire.chat_answer(self._call(self._stub.Chat, request, timeout_s, request_id))

    def stream_chat(
        self,
        model: str,
        messages: str | Sequence[to_wire.Message],
        *,
        timeout_s: float | None = None,
        request_id: str | None = None,
        resume: bool = True,
        **options: Unpack[to_wire.ChatOptions],
    ) -> Stream[results.ChatChoice]:
        """Write the next turn; pieces come as they are generated, errors with the first of them.

        What is lost is resumed as in ``stream_complete``.
        """
        request = chat_pb2.StreamChatRequest(request=to_wire.chat_request(model, messages, options))
        return Stream(
            self._stub.StreamChat,
            Headway(request, may_resume=resume),
            from_wire.chat_piece,
            self._attempts(timeout_s, request_id),
        )

    def embed(
        self,
        model: str,
        inputs: to_wire.Prompts,
        *,
        dimensions: int | None = None,
        pooling: to_wire.Pooling | None = None,
        normalize: bool | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> results.EmbeddingAnswer:
        """Turn each input, text or token ids, into a vector."""
        request = to_wire.embed_request(model, inputs, dimensions=dimensions, pooling=pooling, normalize=normalize)
        return from_wire.embedding_answer(self._call(self._stub.Embed, request, timeout_s, request_id))

    def classify(
        self,
        model: str,
        inputs: str | Sequence[str] | Sequence[tuple[str, str]],
        *,
        multi_label: bool | None = None,
        timeout_s: float | None = None,
        request_id: str | None = None,
    ) -> results.ClassificationAnswer:
        """Label each text, or each pair of texts."""
        request = to_wire.classify_request(model, inputs, multi_label=multi_label)
        return from_wire.classification_answer(self._call(self._stub.Classify, request, timeout_s, request_id))

    def few_shot(
        self,
        model: str,
        *,
        queries: str | Sequence[str],
        examples: Sequence[to_wire.FewShotExample | tuple[str, str]] = (),
        labels: Sequence[str] | None = None,
        instruction: str = "",
        template: str | None = None,
        calibrate: bool = False,
        timeout_s: float | None = None,
        request_id: str | None = None,
        **options: Unpack[to_wire.FewShotOptions],
    ) -> results.FewShotAnswer:
        """Answer each query from examples in the prompt: the best of ``labels`` with probabilities, or free text without them."""
        request = to_wire.few_shot_request(
            model,
            queries=queries,
            examples=examples,
            labels=labels,
            instruction=instruction,
            template=template,
            calibrate=calibrate,
            options=options,
        )
        return from_wire.few_shot_answer(self._call(self._stub.FewShot, request, timeout_s, request_id))

    def tokenize(self, model: str, text: str, *, add_special_tokens: bool = True, timeout_s: float | None = None) -> results.Tokens:
        """Show how a model reads a text."""
        request = to_wire.tokenize_request(model, text, add_special_tokens=add_special_tokens)
        return from_wire.tokens(self._call(self._stub.Tokenize, request, timeout_s))

    def detokenize(self, model: str, token_ids: Sequence[int], *, timeout_s: float | None = None) -> str:
        """Turn token ids back into text."""
        return self._call(self._stub.Detokenize, to_wire.detokenize_request(model, token_ids), timeout_s).text

    def list_models(self, *, timeout_s: float | None = None) -> tuple[results.Model, ...]:
        """List the served models, in the order of the server's command line."""
        response = self._call(self._stub.ListModels, models_pb2.ListModelsRequest(), timeout_s)
        return tuple(from_wire.model(model) for model in response.models)

    def get_model(self, model: str, *, timeout_s: float | None = None) -> results.Model:
        """Describe one served model."""
        return from_wire.model(self._call(self._stub.GetModel, models_pb2.GetModelRequest(model=model), timeout_s).model)

    def load_model(self, model: str, directory: str | None = None, *, timeout_s: float | None = None) -> results.Model:
        """Load a model of the server's model directory; return when it is ready. Takes an administrator's key."""
        request = models_pb2.LoadModelRequest(model=model, directory=directory or "")
        return from_wire.model(self._call(self._stub.LoadModel, request, timeout_s).model)

    def unload_model(self, model: str, *, timeout_s: float | None = None) -> results.Model:
        """Take a model away; return what it was when its requests have ended. Takes an administrator's key."""
        return from_wire.model(self._call(self._stub.UnloadModel, models_pb2.UnloadModelRequest(model=model), timeout_s).model)

    def is_ready(self, model: str = "", *, timeout_s: float = 5.0) -> bool:
        """Say whether the server (or one model of it) answers now. Does not retry, and asks for no key."""
        attempts = Attempts(self._connection, RetryPolicy(max_attempts=1), timeout_s=timeout_s, request_id=None, contact=self._contact)
        try:
            return health.is_serving(self._run(self._check_health, health.request(model), attempts))
        except ConnectionFailedError:
            self._contact.renew()
            return False
        except (UnavailableError, NotFoundError, DeadlineExceededError):
            return False

    def wait_ready(self, model: str = "", *, timeout_s: float = 60.0) -> None:
        """Return as soon as the server (or one model of it) is ready. Raises ``NotReadyError`` after ``timeout_s``."""
        wait = health.Wait(self._connection.address, model, timeout_s)
        while not self.is_ready(model, timeout_s=wait.check_timeout_s):
            time.sleep(wait.pause_s())

    def close(self) -> None:
        """End calls that still run and close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _attempts(self, timeout_s: float | None, request_id: str | None) -> Attempts:
        return Attempts(
            self._connection,
            self._retry,
            timeout_s=self._timeout_s if timeout_s is None else timeout_s,
            request_id=request_id,
            contact=self._contact,
        )

    def _call(
        self, method: Callable[..., ResponseT], request: Any, timeout_s: float | None = None, request_id: str | None = None
    ) -> ResponseT:
        return self._run(method, request, self._attempts(timeout_s, request_id))

    def _run(self, method: Callable[..., ResponseT], request: Any, attempts: Attempts) -> ResponseT:
        while True:
            try:
                response = method(request, **attempts.arguments())
            except grpc.RpcError as error:
                time.sleep(attempts.failed(error))
            else:
                attempts.succeeded()
                return response
