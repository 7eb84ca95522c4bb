"""Style sheets, scripts and pictures: read once, compressed once, and cached for good under their content's hash."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from flask import Response, request, url_for

from receiver.errors import NotFound

STATIC = Path(__file__).resolve().parents[1] / "static"
CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}
"""By the end of the name. Not the machine's own list, which may differ from one to the next."""

LEAST_COMPRESSED = 1000
"""Bytes below which compression saves nothing worth having."""


@dataclass(frozen=True, slots=True)
class _Asset:
    content: bytes
    compressed: bytes | None
    digest: str
    content_type: str


def asset_url(name: str) -> str:
    """The address of a file under static/, which changes whenever its content does."""
    return url_for("dashboard.asset", digest=_asset(name).digest, name=name)


def answer_asset(digest: str, name: str) -> Response:
    """A file under static/. Raises NotFound for one that is not there, or that has changed since."""
    found = _asset(name) if name in _paths() else None
    if found is None or found.digest != digest:
        raise NotFound("This file does not exist in this release.")
    compress = found.compressed is not None and request.accept_encodings["gzip"] > 0
    answer = Response(found.compressed if compress and found.compressed else found.content)
    answer.content_type = found.content_type
    answer.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    answer.headers["Vary"] = "Accept-Encoding"
    if compress:
        answer.headers["Content-Encoding"] = "gzip"
    return answer


@lru_cache(maxsize=1)
def _paths() -> dict[str, Path]:
    """The files by name: those under static/, and of Swagger UI's, which are its package's, what /docs needs."""
    package = find_spec("flask_swagger_ui")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("flask_swagger_ui is not installed.", name="flask_swagger_ui")
    swagger_ui = Path(package.submodule_search_locations[0]) / "dist"
    files = {str(path.relative_to(STATIC)): path for path in STATIC.rglob("*") if path.is_file()}
    return files | {f"swagger-ui/{name}": swagger_ui / name for name in ("swagger-ui.css", "swagger-ui-bundle.js")}


@lru_cache(maxsize=100)
def _asset(name: str) -> _Asset:
    path = _paths()[name]
    content = path.read_bytes()
    content_type = CONTENT_TYPES.get(path.suffix, "application/octet-stream")
    compress = path.suffix in CONTENT_TYPES and len(content) >= LEAST_COMPRESSED
    compressed = gzip.compress(content, 9, mtime=0) if compress else None
    return _Asset(content, compressed, hashlib.sha256(content).hexdigest()[:16], content_type)
