from starlette.types import Message, Receive, Scope, Send

from attendant_server.hosting.one_request_id import OneRequestId


async def test_the_applications_own_id_is_taken_off_and_everything_else_passes() -> None:
    sent: list[Message] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"X-Request-Id", b"ours"), (b"retry-after", b"1")]})
        await send({"type": "http.response.body", "body": b"x-request-id"})

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message)

    await OneRequestId(application)({"type": "http"}, receive, send)
    assert sent == [
        {"type": "http.response.start", "status": 200, "headers": [(b"retry-after", b"1")]},
        {"type": "http.response.body", "body": b"x-request-id"},
    ]
