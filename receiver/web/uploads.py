"""Forms with files. A broken form is refused, not read as an empty one, and no file stays open."""

from __future__ import annotations

from typing import IO, Any

from flask import Request
from werkzeug.formparser import FormDataParser


class _NamedFields(FormDataParser):
    """Refuses a part without a name. Werkzeug's parser would return it as a field named None."""

    def parse(self, *args: Any, **kwargs: Any) -> Any:
        body, form, files = super().parse(*args, **kwargs)
        if not all(form) or not all(files):
            raise ValueError("A field of the form has no name")
        return body, form, files


class UploadRequest(Request):
    """A request whose `form` and `files` raise ValueError if the body is not a complete, valid form.

    Werkzeug's own class would return a form without fields, and leave a partly read file open.
    """

    form_data_parser_class = _NamedFields

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._begun: list[IO[bytes]] = []

    def make_form_data_parser(self) -> FormDataParser:
        parser = super().make_form_data_parser()
        parser.silent = False
        return parser

    def _get_file_stream(self, *args: Any, **kwargs: Any) -> IO[bytes]:
        stream = super()._get_file_stream(*args, **kwargs)
        self._begun.append(stream)
        return stream

    def close(self) -> None:
        super().close()
        for stream in self._begun:
            stream.close()
