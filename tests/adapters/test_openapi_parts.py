"""Pieces of operations."""

from __future__ import annotations

from adapters.openapi_parts import (
    ERRORS,
    answer,
    get,
    header_table,
    id_parameter,
    json_content,
    parameter,
)
from handler import errors
from handler.errors import HandlerError

SCHEMA = {"$ref": "#/components/schemas/M"}


def test_a_body_refers_to_its_schema():
    """With an example where there is one."""
    assert json_content("M") == {"application/json": {"schema": SCHEMA}}
    assert json_content("M", {"id": "x"})["application/json"]["example"] == {"id": "x"}


def test_an_answer_tells_its_headers():
    """Where it has any."""
    text = {"type": "string"}
    told = header_table({"ETag": "the tag"})
    assert told == {"ETag": {"description": "the tag", "schema": text}}
    assert answer("Fine.", "M", {"ETag": "the tag"})["headers"] == told
    assert "headers" not in answer("Fine.", "M")


def test_a_part_of_the_path_is_required():
    """Whatever its name; other parameters are not."""
    assert id_parameter("name")["required"] is True
    assert "required" not in parameter("limit", "how many")
    assert parameter("X", "y", "header")["in"] == "header"


def test_a_get_may_have_a_bad_answer():
    """With the same body."""
    assert set(get("x", "about", "M")["responses"]) == {"200"}
    assert set(get("x", "about", "M", "503")["responses"]) == {"200", "503"}


def test_every_status_of_a_job_is_explained():
    """But those that name a route or a method, and a part of an output."""
    kinds = [one for one in vars(errors).values() if isinstance(one, type)]
    statuses = {str(one.status) for one in kinds if issubclass(one, HandlerError)}
    assert statuses - set(ERRORS) == {"403", "404", "405", "416"}
