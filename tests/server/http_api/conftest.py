"""The application in front of the fake gateway, and an HTTP client that calls it in process."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from attendant_server.config import Settings
from attendant_server.http_api.app import create_app
from tests.server.http_api.fakes import FakeGateway

MAX_BODY_BYTES = 20_000


@pytest.fixture
async def gateway() -> FakeGateway:
    return FakeGateway()


@pytest.fixture
def app(gateway: FakeGateway) -> FastAPI:
    return create_app(gateway, Settings(max_body_bytes=MAX_BODY_BYTES))


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client
