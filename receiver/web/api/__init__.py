"""The REST API under `/api/v1`, with one module for each subject."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import flask_smorest
from flask import Request, request
from marshmallow import RAISE, Schema, ValidationError
from webargs.flaskparser import FlaskParser, is_json_request
from werkzeug.exceptions import UnsupportedMediaType

from receiver.database.api_keys import Scope
from receiver.errors import InvalidInput
from receiver.queueing.form_fields import Coded, faults
from receiver.web.auth import View, requires
from receiver.web.conditional import revalidated
from receiver.web.json_body import JSON_BYTES, read_json
from receiver.web.schemas import NoQuery


class OptionalBody(Schema):
    """A JSON body that may be left out, because none of its members is required."""


class _StrictParser(FlaskParser):
    """Refuses unknown and repeated parameters: if a misspelt filter were ignored, the answer would be wrong."""

    DEFAULT_UNKNOWN_BY_LOCATION = {**FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION, "query": RAISE}  # noqa: RUF012 as declared by webargs

    def parse(self, argmap: Any, req: Request | None = None, *, location: str | None = None, **given: Any) -> Any:
        if location == "query" and isinstance(argmap, Schema) and not argmap.fields and not request.query_string:
            return {}  # no parameters allowed, and none given
        return super().parse(argmap, req, location=location, **given)

    def handle_error(self, error: ValidationError, *_: Any, **__: Any) -> NoReturn:
        (messages,) = error.messages_dict.values()  # by location
        raise InvalidInput("Some parameters are not valid.", faults(ValidationError(messages)))

    def load_querystring(self, req: Request, schema: Schema) -> Any:
        repeated = [name for name, texts in req.args.lists() if len(texts) > 1]
        if repeated:
            again = Coded("repeated_field", "It must not be given more than once.")
            raise ValidationError({name: [again] for name in repeated})
        return req.args.to_dict()  # not a MultiDict: no name is repeated

    def load_json(self, req: Request, schema: Schema) -> Any:
        req.max_content_length = JSON_BYTES
        if isinstance(schema, OptionalBody) and not req.get_data():
            return {}
        if not is_json_request(req):
            raise UnsupportedMediaType("Send the request as application/json.")
        return read_json(req.get_data())


class Blueprint(flask_smorest.Blueprint):  # type: ignore[misc]  # it has no types
    """A subject of the API."""

    ARGUMENTS_PARSER = _StrictParser()

    def __init__(self, name: str, *, tag: str | None = None) -> None:
        """`tag`: of its operations; default: its name."""
        super().__init__(name, __name__, url_prefix="/api/v1")
        self._tags = [tag or name]

    def arguments(self, schema: Schema | type[Schema], **given: Any) -> Any:
        """As in flask-smorest, but with one instance of the schema. From a class, webargs would create one for every
        request."""
        made = schema() if isinstance(schema, type) else schema
        return super().arguments(made, required=not isinstance(made, OptionalBody), **given)

    def operation(
        self,
        route: str,
        scope: Scope,
        answer: Any = None,
        *,
        status: int = 200,
        query: type[Schema] = NoQuery,
        body: type[Schema] | None = None,
        tag: str | None = None,
        conditional: bool = False,
        **described: Any,
    ) -> Callable[[View], View]:
        """Serve a view at a route, such as `GET /batches`: the scope that its key needs, and its successful answer.

        The view's name is the operation's id. It gets what `query` and `body` read, in this order. They are read after
        the key is checked. `conditional`: answers have ETags. `described`: more about the answer.
        """
        method, path = route.split()

        def declare(view: View) -> View:
            view = self.doc(operationId=view.__name__)(view)
            view = self.response(status, answer, **described)(view)
            if body is not None:
                view = self.arguments(body)(view)
            view = self.arguments(query, location="query", as_kwargs=query is NoQuery)(view)
            view = requires(scope)(revalidated(view) if conditional else view)
            self.add_url_rule(path, view_func=view, methods=[method], tags=[tag] if tag else self._tags)
            return view

        return declare
