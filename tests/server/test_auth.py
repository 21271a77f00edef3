"""Keys from a file: who gets in, who does not, and what an operator hears of a bad file."""

from pathlib import Path

import pytest

from attendant_server.auth import ApiKeyFileError, ApiKeys
from attendant_server.errors import ServingError

FILE = """
# who may call
alice: alice-key-1
alice: alice-key-2
bob.lab : bob-key-33:with-colon
"""


@pytest.mark.parametrize(
    ("header", "tenant"),
    [("Bearer alice-key-1", "alice"), ("bearer  alice-key-2 ", "alice"), ("Bearer bob-key-33:with-colon", "bob.lab")],
)
def test_a_known_key_names_its_tenant(header: str, tenant: str) -> None:
    assert ApiKeys.parse(FILE).authenticate(header) == tenant


@pytest.mark.parametrize(
    "header",
    [None, "", "   ", "Bearer", "Bearer ", "Basic alice-key-1", "alice-key-1", "Bearer alice-key", "Bearer \ud800", "Bearer ALICE-KEY-1"],
)
def test_anything_else_is_refused_without_saying_what_was_close(header: str | None) -> None:
    with pytest.raises(ServingError) as caught:
        ApiKeys.parse(FILE).authenticate(header)
    assert caught.value.code == "invalid_api_key"
    assert "alice" not in caught.value.message


def test_without_a_file_everybody_is_the_nameless_tenant() -> None:
    assert ApiKeys.load(None).authenticate(None) == ""


def test_tenants_come_once_and_keys_are_not_kept() -> None:
    keys = ApiKeys.parse(FILE)
    assert keys.tenants == ("alice", "bob.lab")
    assert "alice-key-1" not in repr(keys)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("alice alice-key-1", "line 1 of the API key file has no colon"),
        ("# ok\nal ice: alice-key-1", "line 2 of the API key file has a tenant"),
        (": alice-key-1", "has a tenant"),
        ("alice: short", "has a key that is not at least 8"),
        ("alice: key with space", "has a key"),
        ("alice: schlüssel-eins", "has a key"),
        ("alice: alice-key-1\nbob: alice-key-1", "line 2 of the API key file repeats"),
        ("# nothing\n\n", "holds no key"),
    ],
)
def test_a_bad_file_is_refused_by_line_and_never_quoted(text: str, words: str) -> None:
    with pytest.raises(ApiKeyFileError, match=words) as caught:
        ApiKeys.parse(text)
    assert "key-1" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ApiKeyFileError, match="cannot be read"):
        ApiKeys.load(str(tmp_path / "absent"))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ApiKeyFileError, match="UTF-8"):
        ApiKeys.load(str(tmp_path / "binary"))


def test_the_word_admin_behind_a_key_gives_it_the_role() -> None:
    keys = ApiKeys.parse("ops: ops-key-1 admin\nops: ops-key-2\n")
    assert keys.authenticate("Bearer ops-key-1") == keys.authenticate("Bearer ops-key-2") == "ops"
    keys.require_admin("Bearer ops-key-1")
    for header, code in (
        ("Bearer ops-key-2", "permission_denied"),
        (None, "invalid_api_key"),
        ("Bearer ops-key-1 admin", "invalid_api_key"),
    ):
        with pytest.raises(ServingError) as caught:
            keys.require_admin(header)
        assert caught.value.code == code


@pytest.mark.parametrize(
    "line", ["ops: ops-key-1 Admin", "ops: ops-key-1 admin admin", "ops: ops-key-1 root", "ops: admin", "ops: short admin"]
)
def test_no_other_word_may_follow_a_key(line: str) -> None:
    with pytest.raises(ApiKeyFileError, match="line 1"):
        ApiKeys.parse(line)
