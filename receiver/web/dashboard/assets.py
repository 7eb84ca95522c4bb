"""Style sheets, scripts and pictures. Each address contains a hash of the content, so browsers can cache it for
ever."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from flask import Response, url_for

from receiver.errors import NotFound

STATIC = Path(__file__).resolve().parents[1] / "static"
CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
}
"""By file name extension. The machine's own list may differ from machine to machine."""


def asset_url(name: str) -> str:
    """The address of a file under static/. It changes whenever the content changes."""
    return url_for("dashboard.asset", digest=_read(name)[1], name=name)


def answer_asset(digest: str, name: str) -> Response:
    """A file under static/. Raises NotFound if it does not exist or has changed since."""
    content, known_digest = _read(name) if name in _paths() else (b"", None)
    if known_digest != digest:
        raise NotFound("This file does not exist in this release.")
    content_type = CONTENT_TYPES.get(Path(name).suffix, "application/octet-stream")
    return Response(
        content, content_type=content_type, headers={"Cache-Control": "public, max-age=31536000, immutable"}
    )


@lru_cache(maxsize=1)
def _paths() -> dict[str, Path]:
    """The files by name: those under static/, and the files of the package flask_swagger_ui that /docs needs."""
    package = find_spec("flask_swagger_ui")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("flask_swagger_ui is not installed.", name="flask_swagger_ui")
    swagger_ui = Path(package.submodule_search_locations[0]) / "dist"
    files = {str(path.relative_to(STATIC)): path for path in STATIC.rglob("*") if path.is_file()}
    return files | {f"swagger-ui/{name}": swagger_ui / name for name in ("swagger-ui.css", "swagger-ui-bundle.js")}


@lru_cache(maxsize=100)
def _read(name: str) -> tuple[bytes, str]:
    """A file's content and its hash."""
    content = _paths()[name].read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:16]
