"""The OpenAPI document is true: its examples run, and answers are as its schemas say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from contract.graphs import empty, fine, plain, save
from pydantic import BaseModel, ValidationError

from adapters.openapi_models import ANSWERS

if TYPE_CHECKING:
    from live import LiveServer

MODELS: dict[str, type[BaseModel]] = {model.__name__: model for model in ANSWERS}
PREFIX = "#/components/schemas/"
BAD_GRAPH = {"1": {"class_type": "NoSuchNode", "inputs": {}}}


@pytest.fixture(scope="module")
def document(server: LiveServer) -> dict[str, Any]:
    """Give the document as the server sends it."""
    answer = server.get("/openapi.json")
    assert answer.headers["content-type"].startswith("application/json")
    found: dict[str, Any] = answer.json()
    return found


def references(value: Any) -> list[str]:
    """List the schemas that a part of the document refers to."""
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [ref for item in value.values() for ref in references(item)]
    return [ref for item in value for ref in references(item)] if isinstance(value, list) else []


def examples_of(document: dict[str, Any], path: str) -> list[Any]:
    """List the request bodies that the document shows for a route."""
    content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    shown = [entry["value"] for entry in content.get("examples", {}).values()]
    shown += [content["example"]] if "example" in content else []
    schema = document["components"]["schemas"][content["schema"]["$ref"].removeprefix(PREFIX)]
    return [*shown, *schema.get("examples", [])]


def assert_as_documented(
    document: dict[str, Any], path: str, method: str, status: int, body: Any
) -> None:
    """Hold a JSON answer against the schema that the document names for its status.

    A key that the schema does not have is a fault as well.
    """
    told = document["paths"][path][method]["responses"]
    assert str(status) in told, f"{method} {path} answered {status}, which is not documented"
    schema = told[str(status)]["content"]["application/json"]["schema"]
    model = MODELS[schema["$ref"].removeprefix(PREFIX)]
    try:
        parsed = model.model_validate(body, strict=True)
    except ValidationError as error:
        pytest.fail(f"{method} {path} {status}: {error}")
    assert_no_more_than(body, parsed.model_dump())


def assert_no_more_than(body: Any, known: Any, at: str = "") -> None:
    """Check that every key of an answer is one of its model."""
    if isinstance(body, dict) and isinstance(known, dict):
        assert not set(body) - set(known), f"undocumented at {at or 'the top'}"
        for key, value in body.items():
            assert_no_more_than(value, known[key], f"{at}.{key}")
    elif isinstance(body, list) and isinstance(known, list):
        for index, (value, entry) in enumerate(zip(body, known, strict=True)):
            assert_no_more_than(value, entry, f"{at}[{index}]")


def test_the_document_holds_together(document: dict[str, Any]) -> None:
    """Every reference leads somewhere, every operation has a name and a word about itself."""
    schemas = document["components"]["schemas"]
    operations = [op for path in document["paths"].values() for op in path.values()]
    names = [operation["operationId"] for operation in operations]

    assert document["openapi"] == "3.1.0"
    assert {ref.removeprefix(PREFIX) for ref in references(document)} <= set(schemas)
    assert len(set(names)) == len(names)
    assert all(operation["summary"] and operation["responses"] for operation in operations)


def test_both_addresses_give_the_same(server: LiveServer, document: dict[str, Any]) -> None:
    """comfyui-api's address of the document works, too."""
    assert server.get("/docs/json").json() == document


def test_every_route_is_documented_and_every_documented_route_is_there(
    server: LiveServer, document: dict[str, Any]
) -> None:
    """No path of the document is a 404, and another method on it is a 405."""
    for path, methods in document["paths"].items():
        if "{" in path:
            continue
        other = server.post(path, {}) if "get" in methods else server.get(path)
        assert other.status_code == 405, path


def test_the_examples_run(server: LiveServer, document: dict[str, Any]) -> None:
    """What Swagger's button sends is answered with a result, and that with the schema's keys."""
    examples = examples_of(document, "/prompt")

    assert len(examples) >= 3
    for example in examples:
        answer = server.post("/prompt", example)
        body = fine(answer)
        assert body["images"]
        assert_as_documented(document, "/prompt", "post", 200, body)


def test_the_example_of_interrupt_is_understood(
    server: LiveServer, document: dict[str, Any]
) -> None:
    """The example names no job that runs here: it is answered as documented for that."""
    for example in examples_of(document, "/interrupt"):
        answer = server.post("/interrupt", example)
        assert answer.status_code == 404
        assert_as_documented(document, "/interrupt", "post", 404, answer.json())


def test_results_are_as_documented(server: LiveServer, document: dict[str, Any]) -> None:
    """A result with files, texts, previews and a conversion has the documented keys and types."""
    graph = {
        "1": empty(batch=2),
        "2": save("1", title="Saver"),
        "3": {"class_type": "PreviewAny", "inputs": {"source": "words"}},
        "4": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        "5": {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}},
    }

    body = fine(server.prompt(graph, include_temp=True, convert_output={"format": "webp"}))

    assert len(body["outputs"]) == 7
    assert_as_documented(document, "/prompt", "post", 200, body)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"prompt": BAD_GRAPH}, 400),
        ({"prompt": {"1": empty()}}, 400),
        ({"prompt": {}}, 400),
        ({"prompt": {"nodes": [], "links": []}}, 400),
        ({"prompt": "text"}, 400),
        ({}, 400),
        ([], 400),
        (None, 400),
        ({"prompt": plain(), "id": 5}, 400),
        ({"prompt": plain(), "s3": {"bucket": "x"}}, 400),
    ],
    ids=str,
)
def test_refusals_are_as_documented(
    server: LiveServer, document: dict[str, Any], body: Any, status: int
) -> None:
    """Every kind of refusal has the one envelope, whole."""
    answer = server.post("/prompt", body)

    assert answer.status_code == status
    assert_as_documented(document, "/prompt", "post", status, answer.json())


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"Content-Type": "text/plain"}, b"{}", 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--x--", 415),
        ({"Content-Type": "application/json"}, b"{nope", 400),
        ({"Content-Type": "application/json"}, b"", 400),
        ({"Content-Type": "application/json"}, b"\xff\xfe", 400),
        ({"Content-Type": "application/json", "Accept": "video/mp4"}, None, 406),
    ],
    ids=str,
)
def test_refused_bodies_are_as_documented(
    server: LiveServer,
    document: dict[str, Any],
    headers: dict[str, str],
    content: bytes | None,
    status: int,
) -> None:
    """A body of another type, or one that is no JSON, has the same envelope."""
    if content is None:
        answer = server.post("/prompt", {"prompt": plain()}, headers=headers)
    else:
        answer = server.post("/prompt", None, headers=headers, content=content)

    assert answer.status_code == status
    assert_as_documented(document, "/prompt", "post", status, answer.json())


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_a_failed_run_is_as_documented(server: LiveServer, document: dict[str, Any]) -> None:
    """A node that raised is told in the envelope, on the route and in the job's record."""
    raiser = {"class_type": "TestRaise", "inputs": {"image": ["1", 0], "message": "on purpose"}}

    answer = server.prompt({"1": empty(), "2": raiser, "3": save("2")}, id="raised")

    assert answer.status_code == 500
    assert_as_documented(document, "/prompt", "post", 500, answer.json())
    record = server.get("/jobs/raised").json()
    assert record["error"]["details"] == answer.json()["details"]
    assert_as_documented(document, "/jobs/{id}", "get", 200, record)


def test_records_of_jobs_are_as_documented(server: LiveServer, document: dict[str, Any]) -> None:
    """The record of a finished job and of an unknown one have the documented keys."""
    fine(server.prompt(plain(), id="recorded"))

    known, unknown = server.get("/jobs/recorded"), server.get("/jobs/never-heard-of")

    assert (known.status_code, unknown.status_code) == (200, 404)
    for answer in (known, unknown):
        status = answer.status_code
        assert_as_documented(document, "/jobs/{id}", "get", status, answer.json())


@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/health/startup", "/health/live", "/health/ready"]
)
def test_probes_are_as_documented(server: LiveServer, document: dict[str, Any], path: str) -> None:
    """Every probe of a server that works answers 200 with the documented keys."""
    answer = server.get(path)

    assert answer.status_code == 200
    assert_as_documented(document, path, "get", 200, answer.json())


def test_models_are_as_documented(server: LiveServer, document: dict[str, Any]) -> None:
    """/models is an object of lists of names, without a path among them."""
    told = document["paths"]["/models"]["get"]["responses"]["200"]["content"]

    answer = server.get("/models")

    assert told["application/json"]["schema"]["additionalProperties"]["items"]["type"] == "string"
    listing = answer.json()
    assert "checkpoints" in listing
    assert all(isinstance(name, str) for names in listing.values() for name in names)
    assert not any(name.startswith("/") for names in listing.values() for name in names)


def test_events_are_as_documented(server: LiveServer, document: dict[str, Any]) -> None:
    """The events of a job come with the documented type."""
    fine(server.prompt(plain(), id="followed"))
    told = document["paths"]["/jobs/{id}/events"]["get"]["responses"]["200"]["content"]

    answer = server.get("/jobs/followed/events")

    assert answer.headers["content-type"].split(";")[0] in told
