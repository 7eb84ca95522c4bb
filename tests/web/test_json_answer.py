"""Answers with parts that already are JSON text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask

from receiver.web.json_answer import JSONProvider, ReadyJson


def written(content: Any) -> str:
    return JSONProvider(Flask(__name__)).dumps(content)


def test_ready_text_is_inserted_unchanged() -> None:
    spaced = '{"a" : [1,  2]}'
    text = written({"before": 1, "one": ReadyJson(spaced), "list": [ReadyJson("[]"), "ü", ReadyJson("null")]})
    assert spaced in text
    assert json.loads(text) == {"before": 1, "one": {"a": [1, 2]}, "list": [[], "ü", None]}
    assert '"ü"' in text


def test_ready_text_alone_is_the_answer() -> None:
    assert written(ReadyJson("[1]")) == "[1]"


def test_texts_are_not_mistaken_for_the_placeholder() -> None:
    # Inserted text is not searched, and the placeholder cannot be guessed.
    hostile = json.dumps([JSONProvider._PLACEHOLDER, "@", "%s", "\\0", "\\g<0>"])
    assert json.loads(written([ReadyJson(hostile), ReadyJson("2")])) == [json.loads(hostile), 2]


def test_value_that_is_not_json_is_refused() -> None:
    with pytest.raises(TypeError):
        written({"a": object()})
