"""A gateway over a fake replica, with tokens that are bytes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from attendant_engine.tokenizers import Tokenizer
from attendant_server.gateway.gateway import Gateway
from attendant_server.gateway.served_model import ServedModel
from tests.server.fakes import FakeLink, write_tokenizer

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.content == 'loop' %}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    "{% elif message.content == 'refuse' %}{{ raise_exception('roles must alternate') }}"
    "{% elif message.content == 'crash' %}{{ none.field.other }}{% endif %}"
    "<s>{{ message.role }}:{{ message.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(write_tokenizer(tmp_path_factory.mktemp("plain")))


@pytest.fixture(scope="session")
def chat_tokenizer_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("chat"), chat_template=CHAT_TEMPLATE)


@pytest.fixture
def link() -> FakeLink:
    return FakeLink()


@pytest.fixture
def model(tokenizer: Tokenizer, link: FakeLink) -> ServedModel:
    return ServedModel("tiny", tokenizer=tokenizer, links=[link], max_queue=8)


@pytest.fixture
def gateway(model: ServedModel) -> Iterator[Gateway]:
    gateway = Gateway({"tiny": model}, request_timeout_s=20.0)
    yield gateway
    gateway.close()
