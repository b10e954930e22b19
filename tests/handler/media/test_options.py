"""What a request may ask of a conversion."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from handler.media.options import ConvertOutput, JpegOptions, PngOptions, WebpOptions


class Request(BaseModel):
    convert_output: ConvertOutput | None = None


def parse(**convert_output) -> ConvertOutput:
    return ConvertOutput.model_validate(convert_output)


def faults(**convert_output) -> list[tuple[tuple[str, ...], str]]:
    with pytest.raises(ValidationError) as caught:
        Request.model_validate({"convert_output": convert_output})
    return [(fault["loc"], fault["msg"]) for fault in caught.value.errors()]


JPEG_DEFAULTS = {
    "quality": 80,
    "progressive": False,
    "chromaSubsampling": "4:2:0",
    "optimizeCoding": True,
    "mozjpeg": False,
    "trellisQuantisation": False,
    "overshootDeringing": False,
    "optimizeScans": False,
    "quantisationTable": 0,
}
WEBP_DEFAULTS = {
    "quality": 80,
    "alphaQuality": 100,
    "lossless": False,
    "nearLossless": False,
    "smartSubsample": False,
    "preset": "default",
    "effort": 4,
}


@pytest.mark.parametrize(
    ("format_name", "defaults"),
    [
        ("jpeg", JPEG_DEFAULTS),
        ("jpg", JPEG_DEFAULTS),
        ("webp", WEBP_DEFAULTS),
        ("avif", {"quality": 50, "lossless": False, "effort": 4, "chromaSubsampling": "4:4:4"}),
        (
            "png",
            {
                "compressionLevel": 6,
                "palette": False,
                "quality": 100,
                "effort": 7,
                "progressive": False,
            },
        ),
    ],
)
@pytest.mark.parametrize("given", [{}, {"options": {}}, {"options": None}])
def test_defaults_are_filled_in_by_format(format_name, defaults, given):
    """The echo shows the options of the format, with comfyui-api's names and defaults."""
    expected = {"format": format_name, "options": defaults}
    assert parse(format=format_name, **given).public() == expected


def test_the_schema_of_the_options_follows_the_format():
    """`lossless` is WebP's, and is not swallowed by the JPEG schema."""
    assert parse(format="webp", options={"lossless": True}).options == WebpOptions(lossless=True)


def test_an_unknown_option_is_refused_by_name_with_the_nearest_ones():
    """A typing mistake is answered with what was meant, at its place in the request."""
    assert faults(format="webp", options={"lossles": True}) == [
        (
            ("convert_output", "options", "lossles"),
            "webp has no option 'lossles'; did you mean lossless or nearLossless?",
        )
    ]


def test_an_option_of_another_format_is_refused_with_the_valid_ones():
    """Where no name is near, all are listed."""
    ((location, message),) = faults(format="avif", options={"progressive": True})

    assert location[-1] == "progressive"
    assert message.endswith("valid options: quality, lossless, effort, chromaSubsampling")


def test_every_unknown_option_is_listed():
    """Two mistakes are told at once."""
    assert len(faults(format="png", options={"lossles": 1, "pallete": True})) == 2


@pytest.mark.parametrize(
    ("format_name", "name", "value"),
    [
        ("jpeg", "quality", 0),
        ("jpeg", "quality", 101),
        ("jpeg", "quality", "high"),
        ("jpeg", "quality", True),
        ("jpeg", "mozjpeg", 1),
        ("jpeg", "chromaSubsampling", "4:2:2"),
        ("jpeg", "quantisationTable", 9),
        ("jpeg", "quantizationTable", -1),
        ("webp", "effort", 7),
        ("webp", "alphaQuality", 101),
        ("webp", "preset", "poster"),
        ("avif", "effort", 10),
        ("png", "compressionLevel", 10),
        ("png", "effort", 0),
    ],
)
def test_a_value_out_of_range_is_refused_at_its_place(format_name, name, value):
    """Nothing is clamped in silence."""
    ((location, _),) = faults(format=format_name, options={name: value})

    assert location[:2] == ("convert_output", "options")
    assert location[2].lower().replace("z", "s") == name.lower().replace("z", "s")


def test_an_unknown_format_is_the_only_fault():
    """Options of a format that is not known are not judged."""
    ((location, message),) = faults(format="bmp", options={"anything": 1})

    assert location == ("convert_output", "format")
    assert "'jpeg', 'jpg', 'webp', 'avif' or 'png'" in message


def test_options_must_be_an_object():
    """A list is refused."""
    assert faults(format="png", options=[1])[0][0] == ("convert_output", "options")


def test_a_key_beside_the_options_is_refused():
    """An option at the wrong level would be ignored otherwise."""
    assert faults(format="png", quality=3)[0][0] == ("convert_output", "quality")


@pytest.mark.parametrize(
    ("american", "british"),
    [
        ("optimizeCoding", "optimiseCoding"),
        ("optimizeScans", "optimiseScans"),
        ("trellisQuantization", "trellisQuantisation"),
        ("quantizationTable", "quantisationTable"),
    ],
)
def test_both_spellings_mean_the_same(american, british):
    """sharp takes either."""
    value = 5 if "Table" in american else False
    one, other = (parse(format="jpeg", options={name: value}) for name in (american, british))
    assert one.public() == other.public()


def test_mozjpeg_means_what_sharp_means():
    """It switches on trellis, deringing, progressive optimised scans and table 3."""
    options = parse(format="jpeg", options={"mozjpeg": True}).options

    assert isinstance(options, JpegOptions)
    assert options.progressive
    assert options.trellis_quantisation
    assert options.overshoot_deringing
    assert options.optimize_scans
    assert options.quantisation_table == 3


def test_what_is_given_beside_mozjpeg_holds():
    """An explicit value is not overruled, in either spelling."""
    options = parse(
        format="jpeg",
        options={"mozjpeg": True, "quantizationTable": 0, "trellisQuantisation": False},
    ).options

    assert isinstance(options, JpegOptions)
    assert options.quantisation_table == 0
    assert not options.trellis_quantisation
    assert options.overshoot_deringing


@pytest.mark.parametrize("given", [{"quality": 50}, {"effort": 3}])
def test_the_options_of_a_palette_ask_for_one(given):
    """As in sharp, PNG quality and effort mean a palette."""
    options = parse(format="png", options=given).options
    assert isinstance(options, PngOptions)
    assert options.palette


@pytest.mark.parametrize(
    "request_",
    [
        {"format": "jpeg", "options": {"mozjpeg": True}},
        {"format": "png", "options": {"effort": 2}},
        {"format": "webp", "options": {"nearLossless": True}},
    ],
)
def test_an_echoed_request_means_the_same_when_sent_again(request_):
    """The echo is complete."""
    echo = parse(**request_).public()
    assert parse(**echo).public() == echo


def test_the_schema_is_documented_in_camel_case():
    """OpenAPI shows the names that callers write."""
    schema = Request.model_json_schema()["$defs"]
    assert "trellisQuantisation" in schema["JpegOptions"]["properties"]
    assert "nearLossless" in schema["WebpOptions"]["properties"]
