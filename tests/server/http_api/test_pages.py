import re

import httpx
import pytest

PAGES = ["/", "/docs"]


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_needs_nothing_from_elsewhere(client: httpx.AsyncClient, path: str) -> None:
    page = await client.get(path)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in page.headers["content-security-policy"]
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert any(link.endswith(".js") for link in links)
    for link in links:
        assert link.startswith("/")
        linked = await client.get(link)
        assert linked.status_code == 200
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", linked.text), link


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_works_under_its_own_policy(client: httpx.AsyncClient, path: str) -> None:
    text = (await client.get(path)).text
    assert "style=" not in text
    assert not re.search(r"\son\w+=", text)
    assert not re.search(r"<script(?![^>]*\ssrc=)", text)


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_can_be_read_aloud(client: httpx.AsyncClient, path: str) -> None:
    text = (await client.get(path)).text
    assert '<html lang="en">' in text
    assert "<title>" in text
    assert "<main" in text
    assert "<noscript>" in text
    assert text.count("<h1>") == 1


async def test_scripts_and_styles_have_their_types(client: httpx.AsyncClient) -> None:
    assert (await client.get("/web/playground.js")).headers["content-type"].startswith("text/javascript")
    assert (await client.get("/web/page.css")).headers["content-type"].startswith("text/css")
