"""The payload a caller sends, as a schema. The same on every platform."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
)

from handler.credentials import Credential
from handler.errors import InvalidPayload, WorkflowFormatUi
from handler.graph.nearest import nearest
from handler.graph.ui_format import is_ui_format
from handler.media.options import ConvertOutput
from handler.records import TARGET_KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from handler.targets import Target

MISSPELT = 0.8
LARGEST_EXTRA = 1 << 20
"""Of `webhook_extra`: every post of the job has it, and the outbox is everybody's."""
MOST_CREDENTIALS = 100
MOST_PATTERNS = 16_384
"""Characters of all patterns with `*`: each URL costs a look at every one of them."""
_NO_TYPE = "`type` must be one of bearer, basic, header, query, s3"

EXAMPLE_GRAPH: dict[str, Any] = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 3368652},
    },
    "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
    "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "inverted"}},
}


class Timeouts(BaseModel):
    """This job's own limits, in seconds; what is left out is as the operator set it."""

    model_config = ConfigDict(extra="forbid")

    queue_s: float | None = Field(None, gt=0, description="longest wait for the engine")
    no_progress_s: float | None = Field(None, gt=0, description="longest silence of the run")
    total_s: float | None = Field(None, gt=0, description="the whole job, fetching included")


class PromptRequest(BaseModel):
    """The body of `POST /prompt`. Unknown keys are ignored, as comfyui-api does."""

    model_config = ConfigDict(
        extra="ignore",
        hide_input_in_errors=True,
        json_schema_extra={"examples": [{"prompt": EXAMPLE_GRAPH}]},
    )

    prompt: dict[str, Any] = Field(
        description=(
            "The graph in ComfyUI's API format: node id -> `{class_type, inputs, _meta?}`. A file "
            "input takes a URL (http(s), s3, gs, a link of Hugging Face or Azure), a data URI, "
            "base64, or a name in the input folder. An input that lists models takes a URL, a name "
            "of the manifest's catalogue, or a file name."
        )
    )
    id: Annotated[str, Field(min_length=1, max_length=512)] | None = Field(
        None, description="Names the job and begins its file names; drawn when left out."
    )
    convert_output: ConvertOutput | None = Field(
        None, description="Convert every image that comes out."
    )
    extra_data: dict[str, Any] | None = Field(
        None,
        repr=False,
        description=(
            "Handed to ComfyUI: `api_key_comfy_org` for partner nodes, `extra_pnginfo`. Kept in "
            "memory for this job only, never in an answer or a log."
        ),
    )
    include_temp: bool = Field(False, description="Give temporary previews as outputs, too.")
    previews: bool = Field(False, description="Send pictures of the work so far as events.")
    timeouts: Timeouts | None = None
    credentials: list[Credential] = Field(
        default_factory=list,
        max_length=MOST_CREDENTIALS,
        repr=False,
        description=(
            "What is sent to get at protected files: the first entry whose `url_pattern` is of the "
            "URL counts. Kept in memory for this job only, never in an answer or a log."
        ),
    )

    webhook_v2: SecretStr | None = Field(
        None,
        max_length=8192,
        description=(
            "Told how the job ended, by one post signed as Standard Webhooks has it. The request "
            "is answered with 202 at once."
        ),
    )
    webhook: SecretStr | None = Field(
        None,
        max_length=8192,
        description="comfyui-api's older form: one post per output, unsigned.",
    )
    webhook_extra: Any = Field(None, description="Comes back in every post, as it is.")
    webhook_secret: SecretStr | None = Field(
        None,
        max_length=1024,
        description="Signs this job's posts in place of WEBHOOK_SECRET: `whsec_` and base64.",
    )
    archive: Literal["zip"] | None = Field(None, description="All outputs as one file.")
    _targets: tuple[Any, ...] = PrivateAttr(default=())

    @property
    def targets(self) -> tuple[Target, ...]:
        """Where the outputs go; the first one's URLs are an answer's `images`."""
        return self._targets

    @property
    def asynchronous(self) -> bool:
        """Whether it reads so that the caller does not wait for the result."""
        hooked = self.webhook is not None or self.webhook_v2 is not None
        return hooked or any(target.is_async for target in self._targets)

    @field_validator("webhook_extra")
    @classmethod
    def _small(cls, value: Any) -> Any:
        if len(orjson.dumps(value, default=str)) > LARGEST_EXTRA:
            raise ValueError(f"more than {LARGEST_EXTRA} bytes")
        return value

    @field_validator("webhook", "webhook_v2", "webhook_secret")
    @classmethod
    def _empty_is_none(cls, value: SecretStr | None) -> SecretStr | None:
        return value if value is not None and value.get_secret_value() else None

    @field_validator("credentials", mode="before")
    @classmethod
    def _null_is_none(cls, value: Any) -> Any:
        return [] if value is None else value

    @field_validator("credentials")
    @classmethod
    def _matched_soon(cls, value: list[Credential]) -> list[Credential]:
        patterns = (one.url_pattern for one in value)
        if sum(len(pattern) for pattern in patterns if "*" in pattern) > MOST_PATTERNS:
            raise ValueError(f"patterns with `*` of more than {MOST_PATTERNS} characters in all")
        return value

    @field_validator("prompt", mode="before")
    @classmethod
    def _leave_graph_faults_to_the_pipeline(cls, value: Any) -> Any:
        # A UI-format graph, a list or a text gets a better answer there than a type error here.
        return value if isinstance(value, dict) else {"": value}


def parse_payload(raw: Any) -> PromptRequest:
    """Check a decoded JSON body.

    Raises:
        InvalidPayload: every fault with its path in `details`.
    """
    if not isinstance(raw, dict):
        raise InvalidPayload(
            f"the payload must be a JSON object with the key `prompt`, not {_kind(raw)}"
        )
    if "prompt" not in raw:
        _tell_a_bare_graph(raw)
    refuse_misspelt(raw, [*PromptRequest.model_fields, *TARGET_KINDS])
    try:
        request = PromptRequest.model_validate(raw)
        named = {kind: raw[kind] for kind in TARGET_KINDS if raw.get(kind) is not None}
        request._targets = _targets(named) if named else ()  # noqa: SLF001 - ours
    except ValidationError as error:
        raise invalid_payload(error) from error
    _see_webhook(request)
    return request


def _see_webhook(request: PromptRequest) -> None:
    """Refuse what is for a webhook where there is none: its key is misspelt, or forgotten."""
    if request.webhook is not None or request.webhook_v2 is not None:
        return
    for key in ("webhook_secret", "webhook_extra"):
        if getattr(request, key) is not None:
            raise InvalidPayload(
                f"{key}: there is no webhook that it is for",
                location=key,
                hint="send `webhook_v2` with the URL that is to be told",
            )


def _targets(named: dict[str, Any]) -> tuple[Target, ...]:
    from handler.targets import Targets

    return tuple(Targets.model_validate(named).targets())


def _tell_a_bare_graph(raw: dict[str, Any]) -> None:
    """The first thing many people post is the graph itself, or RunPod's form of a job."""
    if is_ui_format(raw):
        raise WorkflowFormatUi(
            "the graph is in the format of ComfyUI's Save, which cannot be run",
            hint='in ComfyUI choose "Export (API)", and send it as {"prompt": <graph>}',
        )
    inner = raw.get("input")
    if isinstance(inner, dict) and inner.keys() & {"prompt", "workflow"}:
        raise InvalidPayload(
            "the payload stands in `input`, as RunPod has it",
            location="input",
            hint="send what is in `input`, or use `comfyfn serve --as runpod`",
        )
    nodes = [node for node in raw.values() if isinstance(node, dict) and "class_type" in node]
    if nodes:
        raise InvalidPayload(
            "this is a bare graph", location="prompt", hint='send it as {"prompt": <graph>}'
        )


def refuse_misspelt(raw: dict[str, Any], known: Iterable[str]) -> None:
    """Unknown keys are ignored, as comfyui-api does, unless one is nearly a known one.

    Raises:
        InvalidPayload: naming the key, and the one that was meant.
    """
    known = list(known)
    for key in (key for key in raw if key not in known):
        near = nearest(key, known, limit=1, cutoff=MISSPELT)
        if near:
            raise InvalidPayload(
                f"{key[:80]}: there is no such key",
                location=key[:80],
                hint=f"did you mean {near[0]}?",
            )


def invalid_payload(error: ValidationError) -> InvalidPayload:
    """Turn pydantic's faults into ours, without the values: they may be secret or large."""
    faults = [
        {
            "location": ".".join(str(part) for part in fault["loc"]),
            # Pydantic's own text has the value in it.
            "message": _NO_TYPE
            if fault["type"] == "union_tag_invalid"
            else fault["msg"].removeprefix("Value error, "),
        }
        for fault in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    first = faults[0]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return InvalidPayload(
        f"{first['location']}: {first['message']}{more}",
        location=first["location"],
        details=faults,
    )


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a text", int: "a number", float: "a number", bool: "a boolean"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
