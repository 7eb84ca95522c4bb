"""Forms with files: a broken one is told from an empty one, and no file stays open."""

from __future__ import annotations

from typing import IO, Any

from flask import Request
from werkzeug.formparser import FormDataParser


class _NamedFields(FormDataParser):
    """Refuses a part without a name, which the usual one hands on as a field called None."""

    def parse(self, *args: Any, **kwargs: Any) -> Any:
        body, form, files = super().parse(*args, **kwargs)
        if not all(form) or not all(files):
            raise ValueError("A field of the form has no name")
        return body, form, files


class UploadRequest(Request):
    """A request whose `form` and `files` raise ValueError where the body is no whole form.

    One with a field that has no name is none. The usual request takes it for a form without fields, and leaves
    what it had read of a file open.
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
