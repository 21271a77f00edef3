"""The pages for people: a playground at ``/``, the API's reference at ``/docs``. Static files of the package, nothing from elsewhere."""

from collections.abc import Mapping
from importlib.resources import files

from fastapi import APIRouter
from starlette.responses import Response

from attendant_server.errors import ServingError

_MEDIA_TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HEADERS: Mapping[str, str] = {
    # Nothing but our own files runs, and no other page may frame ours.
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def page_routes() -> APIRouter:
    """Return the pages and their files, read once."""
    router = APIRouter(include_in_schema=False)
    pages = {
        entry.name: (entry.read_bytes(), _MEDIA_TYPES[suffix])
        for entry in (files("attendant_server") / "web").iterdir()
        if (suffix := entry.name[entry.name.rfind(".") :]) in _MEDIA_TYPES
    }

    def page(name: str) -> Response:
        if name not in pages:
            raise ServingError("not_found", "there is no such page; the pages are / and /docs")
        content, media_type = pages[name]
        return Response(content, headers={"content-type": media_type, **_HEADERS})

    @router.get("/")
    async def playground() -> Response:
        return page("playground.html")

    @router.get("/docs")
    async def reference() -> Response:
        return page("reference.html")

    @router.get("/web/{name}")
    async def page_file(name: str) -> Response:
        return page(name)

    return router
