"""What a caller may ask of a conversion: `{"format": ..., "options": {...}}`.

Names, ranges and defaults are those of comfyui-api, which hands them to sharp; the options of a
format that it lacks (AVIF, PNG) are sharp's own. Which options are known depends on the format.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, ClassVar, Literal

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import InitErrorDetails, PydanticCustomError

Format = Literal["jpeg", "jpg", "webp", "avif", "png"]
Subsampling = Literal["4:2:0", "4:4:4"]
Preset = Literal["default", "photo", "picture", "drawing", "icon", "text"]


class FormatOptions(BaseModel):
    """The base of all options: camelCase outside, strict types, nothing unknown."""

    model_config = ConfigDict(
        alias_generator=to_camel, extra="forbid", frozen=True, strict=True, populate_by_name=False
    )
    format_name: ClassVar[str]

    @classmethod
    def names(cls) -> list[str]:
        """Give every option name that a caller may write, both spellings included."""
        names: list[str] = []
        for field in cls.model_fields.values():
            alias = field.validation_alias
            names += map(str, alias.choices if isinstance(alias, AliasChoices) else [alias])
        return names

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        names = cls.names()
        faults = [
            InitErrorDetails(
                type=_unknown(str(name), cls.format_name, names), loc=(name,), input=value
            )
            for name, value in data.items()
            if name not in names
        ]
        if faults:
            raise ValidationError.from_exception_data(cls.__name__, faults)
        return data


def _unknown(name: str, format_name: str, names: list[str]) -> PydanticCustomError:
    near = get_close_matches(name, names, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"valid options: {', '.join(names)}"
    # Braces would be read as placeholders of pydantic's own message template.
    return PydanticCustomError(
        "unknown_option",
        "{format} has no option '{name}'; {hint}",
        {"format": format_name, "name": name, "hint": hint},
    )


# Both spellings are read; answers have comfyui-api's, which is what `to_camel` gives.
_CODING = AliasChoices("optimizeCoding", "optimiseCoding")
_TRELLIS = AliasChoices("trellisQuantisation", "trellisQuantization")
_SCANS = AliasChoices("optimizeScans", "optimiseScans")
_TABLE = AliasChoices("quantisationTable", "quantizationTable")

# What sharp means by `mozjpeg: true` (its documentation of jpeg()).
_MOZJPEG: tuple[tuple[AliasChoices, bool | int], ...] = (
    (AliasChoices("progressive"), True),
    (_TRELLIS, True),
    (AliasChoices("overshootDeringing"), True),
    (_SCANS, True),
    (_TABLE, 3),
)


class JpegOptions(FormatOptions):
    """How to write a JPEG; `mozjpeg` switches on what MozJPEG does by default, unless given."""

    format_name: ClassVar[str] = "jpeg"

    quality: int = Field(default=80, ge=1, le=100)
    progressive: bool = False
    chroma_subsampling: Subsampling = "4:2:0"
    optimize_coding: bool = Field(default=True, validation_alias=_CODING)
    mozjpeg: bool = False
    trellis_quantisation: bool = Field(default=False, validation_alias=_TRELLIS)
    overshoot_deringing: bool = False
    optimize_scans: bool = Field(default=False, validation_alias=_SCANS)
    quantisation_table: int = Field(default=0, ge=0, le=8, validation_alias=_TABLE)

    @model_validator(mode="before")
    @classmethod
    def _fill_in_mozjpeg(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("mozjpeg") is not True:
            return data
        implied = {
            str(names.choices[0]): value
            for names, value in _MOZJPEG
            if data.keys().isdisjoint(map(str, names.choices))
        }
        return implied | data


class WebpOptions(FormatOptions):
    """How to write a WebP."""

    format_name: ClassVar[str] = "webp"

    quality: int = Field(default=80, ge=1, le=100)
    alpha_quality: int = Field(default=100, ge=0, le=100)
    lossless: bool = False
    near_lossless: bool = False
    smart_subsample: bool = False
    preset: Preset = "default"
    effort: int = Field(default=4, ge=0, le=6)


class AvifOptions(FormatOptions):
    """How to write an AVIF."""

    format_name: ClassVar[str] = "avif"

    quality: int = Field(default=50, ge=1, le=100)
    lossless: bool = False
    effort: int = Field(default=4, ge=0, le=9)
    chroma_subsampling: Subsampling = "4:4:4"


class PngOptions(FormatOptions):
    """How to write a PNG; `quality` and `effort` are those of a palette, and ask for one."""

    format_name: ClassVar[str] = "png"

    compression_level: int = Field(default=6, ge=0, le=9)
    palette: bool = False
    quality: int = Field(default=100, ge=0, le=100)
    effort: int = Field(default=7, ge=1, le=10)
    progressive: bool = False

    @model_validator(mode="before")
    @classmethod
    def _imply_palette(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.keys() & {"quality", "effort"}:
            return {"palette": True} | data
        return data


_OPTIONS: dict[str, type[JpegOptions | WebpOptions | AvifOptions | PngOptions]] = {
    "jpeg": JpegOptions,
    "jpg": JpegOptions,
    "webp": WebpOptions,
    "avif": AvifOptions,
    "png": PngOptions,
}


class ConvertOutput(BaseModel):
    """The `convert_output` of a request.

    Attributes:
        format: also the new extension, letter by letter: `jpg` and `jpeg` differ in that alone.
        options: those of the format, defaults filled in.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Format
    options: JpegOptions | WebpOptions | AvifOptions | PngOptions = Field(
        default_factory=dict,
        validate_default=True,
    )

    @field_validator("options", mode="wrap")
    @classmethod
    def _by_format(cls, value: Any, _: Any, info: ValidationInfo) -> FormatOptions:
        # A format that was refused leaves no schema to hold the options against.
        known = _OPTIONS.get(info.data.get("format", ""))
        if known is None:
            return JpegOptions.model_validate({})
        return known.model_validate({} if value is None else value)

    def public(self) -> dict[str, Any]:
        """Give the object as an answer echoes it, defaults filled in."""
        return self.model_dump(by_alias=True)
