"""Converting images, with Pillow as the independent reader of what libvips wrote."""

from __future__ import annotations

import io
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, JpegImagePlugin

from handler.errors import ConversionFailed
from handler.media.convert import ConvertOutput, convert, convertible
from handler.media.describe import describe

SAMPLES = Path(__file__).parent / "samples"


def pixels(size: tuple[int, int] = (160, 120), *, alpha: bool = False) -> np.ndarray:
    """Give a picture with gradients, hard edges and grain, so that every option shows."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    grain = np.random.default_rng(7).normal(0, 6, (height, width, 3))
    colour = np.stack([128 + 100 * np.sin(x / 9) * np.cos(y / 7), x * 1.5, y * 2.0], -1) + grain
    colour[20:50, 30:80] = (255, 0, 0)
    colour[60:90, 90:140] = (0, 0, 255)
    colour[50:75, 66:90] = (255, 255, 255)
    layers = [np.clip(colour, 0, 255)]
    if alpha:
        layers.append(np.clip(255 - np.hypot(x - 80, y - 60) * 2, 0, 255)[..., None])
    return np.concatenate(layers, -1).astype("uint8")


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(pixels()).save(path)
    return path


@pytest.fixture
def cutout(tmp_path) -> Path:
    path = tmp_path / "cutout.png"
    Image.fromarray(pixels(alpha=True)).save(path)
    return path


def ask(source: Path, format_name: str, **options) -> Path:
    target = source.with_name(f"result.{format_name}")
    request = ConvertOutput.model_validate({"format": format_name, "options": options})
    convert(source, target, request)
    return target


def same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("format_name", "pillow"),
    [("jpeg", "JPEG"), ("jpg", "JPEG"), ("webp", "WEBP"), ("avif", "AVIF"), ("png", "PNG")],
)
def test_an_image_becomes_the_format_asked_for(photo, format_name, pillow):
    """Another library reads the result: its format, its size, and nearly its pixels."""
    with Image.open(ask(photo, format_name)) as result:
        assert (result.format, result.size, result.mode) == (pillow, (160, 120), "RGB")
        assert np.abs(np.asarray(result).astype(int) - pixels()).mean() < 9


CHANGES = [
    ("jpeg", {"quality": 40}),
    ("jpeg", {"progressive": True}),
    ("jpeg", {"chromaSubsampling": "4:4:4"}),
    ("jpeg", {"optimizeCoding": False}),
    ("jpeg", {"trellisQuantisation": True}),
    ("jpeg", {"overshootDeringing": True}),
    ("jpeg", {"optimizeScans": True}),
    ("jpeg", {"quantisationTable": 3}),
    ("jpeg", {"mozjpeg": True}),
    ("webp", {"quality": 40}),
    ("webp", {"alphaQuality": 20}),
    ("webp", {"lossless": True}),
    ("webp", {"nearLossless": True}),
    ("webp", {"smartSubsample": True}),
    ("webp", {"preset": "drawing"}),
    ("webp", {"effort": 0}),
    ("avif", {"quality": 20}),
    ("avif", {"lossless": True}),
    ("avif", {"effort": 1}),
    ("avif", {"chromaSubsampling": "4:2:0"}),
    ("png", {"compressionLevel": 0}),
    ("png", {"palette": True}),
    ("png", {"progressive": True}),
]


@pytest.mark.parametrize(("format_name", "options"), CHANGES, ids=str)
def test_every_option_changes_the_bytes(cutout, format_name, options):
    """No option is accepted and ignored."""
    plain = ask(cutout, format_name).rename(cutout.with_name("plain"))
    assert not same(plain, ask(cutout, format_name, **options))


@pytest.mark.parametrize("options", [{"quality": 5}, {"effort": 1}])
def test_the_options_of_a_palette_change_the_bytes(cutout, options):
    """Quality and effort act on top of the palette."""
    plain = ask(cutout, "png", palette=True).rename(cutout.with_name("plain"))
    assert not same(plain, ask(cutout, "png", **options))


def test_jpeg_options_are_in_the_file(photo):
    """Progression, subsampling and tables are what was asked."""
    with Image.open(ask(photo, "jpeg", quality=90, progressive=True)) as result:
        assert result.info["progressive"] == 1
        assert JpegImagePlugin.get_sampling(result) == 2
    with Image.open(ask(photo, "jpeg", chromaSubsampling="4:4:4")) as result:
        assert "progressive" not in result.info
        assert JpegImagePlugin.get_sampling(result) == 0


def test_mozjpeg_makes_a_smaller_progressive_file(photo):
    """That is what it is for."""
    plain = ask(photo, "jpeg").stat().st_size
    result = ask(photo, "jpeg", mozjpeg=True)
    assert result.stat().st_size < plain
    with Image.open(result) as image:
        assert image.info["progressive"] == 1


@pytest.mark.parametrize("format_name", ["webp", "avif"])
def test_lossless_keeps_every_pixel(photo, format_name):
    """The decoded picture equals the source."""
    with Image.open(ask(photo, format_name, lossless=True)) as result:
        assert np.array_equal(np.asarray(result), pixels())


@pytest.mark.parametrize("format_name", ["webp", "avif", "png"])
def test_alpha_is_kept_where_the_format_has_it(cutout, format_name):
    """Transparency survives."""
    with Image.open(ask(cutout, format_name)) as result:
        assert result.mode == "RGBA"
        assert (
            np.abs(np.asarray(result)[..., 3].astype(int) - pixels(alpha=True)[..., 3]).mean() < 3
        )


def test_alpha_is_laid_on_black_for_jpeg(tmp_path):
    """As sharp does."""
    Image.new("RGBA", (32, 32), (255, 255, 255, 0)).save(tmp_path / "clear.png")
    with Image.open(ask(tmp_path / "clear.png", "jpeg")) as result:
        assert result.getpixel((16, 16)) == (0, 0, 0)


def test_the_picture_is_turned_upright(tmp_path):
    """EXIF orientation is applied and then gone."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels()).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    with Image.open(ask(tmp_path / "turned.jpg", "webp")) as result:
        assert result.size == (120, 160)
        assert not result.getexif()
        upright = np.rot90(pixels(), k=-1)
        assert np.abs(np.asarray(result).astype(int) - upright).mean() < 9


def test_a_colour_profile_is_converted_to_srgb(tmp_path):
    """Colours look the same in a reader that knows no profile."""
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    assert lab.profile.xcolor_space == "Lab "
    profile = swapped_srgb()
    Image.new("RGB", (32, 32), (250, 10, 10)).save(tmp_path / "p.png", icc_profile=profile)
    with Image.open(ask(tmp_path / "p.png", "png")) as result:
        assert "icc_profile" not in result.info
        red, green, _ = result.getpixel((9, 9))
    assert green > 200 > red


def swapped_srgb() -> bytes:
    """Give an sRGB profile whose red and green primaries are exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for index in range(struct.unpack_from(">I", profile, 128)[0]):
        at = 132 + 12 * index
        name = bytes(profile[at : at + 4])
        profile[at : at + 4] = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}.get(name, name)
    return bytes(profile)


def test_the_workflow_in_a_png_is_not_handed_on(tmp_path):
    """Metadata is left out, as sharp does."""
    from PIL.PngImagePlugin import PngInfo

    note = PngInfo()
    note.add_text("prompt", "SECRET" * 9)
    Image.new("RGB", (8, 8)).save(tmp_path / "noted.png", pnginfo=note)
    for format_name in ("png", "webp", "jpeg", "avif"):
        assert b"SECRET" not in ask(tmp_path / "noted.png", format_name).read_bytes()


def test_sixteen_bits_become_eight_but_in_a_png(tmp_path):
    """Deep pictures are scaled, not cut off."""
    deep = np.full((16, 16), 0x8000, dtype="uint16")
    Image.fromarray(deep).save(tmp_path / "deep.png")
    with Image.open(ask(tmp_path / "deep.png", "png")) as result:
        assert result.mode.startswith("I;16")
    with Image.open(ask(tmp_path / "deep.png", "jpeg")) as result:
        assert result.mode == "L"
        assert abs(result.getpixel((3, 3)) - 128) < 3


def test_cmyk_becomes_rgb(tmp_path):
    """A print JPEG is brought to sRGB."""
    Image.new("CMYK", (16, 16), (0, 0, 0, 0)).save(tmp_path / "print.jpg")
    with Image.open(ask(tmp_path / "print.jpg", "webp")) as result:
        assert min(result.convert("RGB").getpixel((3, 3))) > 240


@pytest.mark.parametrize("suffix", ["bmp", "ico", "tiff", "gif"])
def test_formats_beside_the_usual_are_read(tmp_path, suffix):
    """What libvips cannot read Pillow does."""
    Image.new("RGB", (32, 32), (200, 0, 0)).save(tmp_path / f"a.{suffix}")
    with Image.open(ask(tmp_path / f"a.{suffix}", "png")) as result:
        assert result.convert("RGB").getpixel((9, 9)) == (200, 0, 0)


DELAYS = [100, 200, 50, 400]


def animate(path: Path, *, loop: int | None = 0) -> Path:
    frames = [Image.fromarray(np.roll(pixels((64, 48)), i * 9, axis=1)) for i in range(len(DELAYS))]
    options = {} if loop is None else {"loop": loop}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=DELAYS, **options)
    return path


def frame_delays(path: Path) -> list[int]:
    with Image.open(path) as image:
        delays = []
        for index in range(image.n_frames):
            image.seek(index)
            image.load()
            delays.append(round(image.info["duration"]))
        return delays


@pytest.mark.parametrize("source", ["gif", "webp", "png", "avif"])
@pytest.mark.parametrize("target", ["webp", "png", "avif"])
def test_an_animation_keeps_its_pictures_and_their_times(tmp_path, source, target):
    """Every picture and every delay arrive."""
    path = animate(tmp_path / f"dance.{source}")
    assert frame_delays(ask(path, target)) == DELAYS


@pytest.mark.parametrize(("gif_loop", "plays"), [(None, 1), (0, 0), (2, 3)])
@pytest.mark.parametrize("target", ["webp", "png"])
def test_an_animation_runs_as_often_as_before(tmp_path, gif_loop, plays, target):
    """A GIF counts repeats, the others runs."""
    path = animate(tmp_path / "dance.gif", loop=gif_loop)
    with Image.open(ask(path, target)) as result:
        assert result.info["loop"] == plays


def test_animations_honour_the_options(tmp_path):
    """An animated result is encoded as asked."""
    path = animate(tmp_path / "dance.webp")
    for format_name, options in (
        ("webp", {"quality": 10}),
        ("webp", {"lossless": True}),
        ("avif", {"quality": 10}),
        ("avif", {"effort": 0}),
        ("png", {"compressionLevel": 0}),
    ):
        plain = ask(path, format_name).rename(tmp_path / "plain")
        assert not same(plain, ask(path, format_name, **options)), (format_name, options)


def test_an_animation_keeps_its_alpha(tmp_path):
    """Clear places stay clear."""
    frames = [Image.new("RGBA", (16, 16), (i * 90, 9, 9, 0 if i else 255)) for i in range(3)]
    path = tmp_path / "ghost.png"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, disposal=1)
    with Image.open(ask(path, "webp", lossless=True)) as result:
        result.seek(2)
        assert result.convert("RGBA").getpixel((3, 3))[3] == 0


@pytest.mark.parametrize("format_name", ["jpeg", "jpg"])
def test_an_animation_does_not_become_a_jpeg(tmp_path, format_name):
    """The caller is told instead of losing all pictures but one."""
    path = animate(tmp_path / "dance.gif")
    with pytest.raises(ConversionFailed, match=f"dance.gif .* 4 pictures and {format_name} has no"):
        ask(path, format_name)


@pytest.mark.parametrize(
    ("format_name", "options"),
    [("png", {"palette": True}), ("png", {"progressive": True}), ("avif", {"lossless": True})],
)
def test_what_the_writer_of_animations_lacks_is_refused(tmp_path, format_name, options):
    """No option is ignored in an animation either."""
    path = animate(tmp_path / "dance.gif")
    with pytest.raises(ConversionFailed, match=r"an animated (PNG|AVIF)"):
        ask(path, format_name, **options)


def test_what_is_no_image_is_refused_by_name(tmp_path):
    """A film is not converted, and `convertible` says so beforehand."""
    path = tmp_path / "film.mp4"
    shutil.copy(SAMPLES / "film.mp4", path)

    assert not convertible(describe(path, path.name))
    with pytest.raises(ConversionFailed, match=r"film\.mp4 .* it is video/mp4, not an image"):
        ask(path, "webp")


def test_a_cut_image_is_an_error_and_leaves_no_file(photo):
    """Half a picture is not delivered as a whole one."""
    photo.write_bytes(photo.read_bytes()[:2000])
    with pytest.raises(ConversionFailed) as caught:
        ask(photo, "webp")

    assert caught.value.status == 422
    assert caught.value.details["filename"] == "photo.png"
    assert caught.value.__cause__ is not None
    assert sorted(path.name for path in photo.parent.iterdir()) == ["photo.png"]


def test_a_cut_animation_is_an_error_and_leaves_no_file(tmp_path):
    """The same holds for what Pillow reads."""
    path = animate(tmp_path / "dance.png")
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ConversionFailed):
        ask(path, "webp")
    assert sorted(found.name for found in tmp_path.iterdir()) == ["dance.png"]


def test_a_size_that_the_format_cannot_hold_is_an_error(tmp_path):
    """WebP ends at 16383 pixels a side."""
    Image.new("L", (17000, 2)).save(tmp_path / "long.png")
    with pytest.raises(ConversionFailed, match=r"long\.png cannot be converted to webp: "):
        ask(tmp_path / "long.png", "webp")


def test_an_unreadable_kind_of_image_is_an_error(tmp_path):
    """HEIC is an image, and one we have no decoder for."""
    path = tmp_path / "phone.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + zlib.compress(b"x" * 99))
    with pytest.raises(ConversionFailed, match=r"phone\.heic"):
        ask(path, "png")


def test_pictures_in_memory_do_not_pile_up(tmp_path):
    """After the first rounds, further conversions take no more memory."""
    Image.fromarray(pixels((640, 480))).save(tmp_path / "a.png")

    def resident_kib() -> int:
        fields = Path("/proc/self/status").read_text().split("VmRSS:")[1]
        return int(fields.split()[0])

    for _ in range(30):
        ask(tmp_path / "a.png", "jpeg")
    before = resident_kib()
    for _ in range(60):
        ask(tmp_path / "a.png", "jpeg")

    assert resident_kib() - before < 16 * 1024


def test_a_picture_of_one_colour_channel_stays_grey(tmp_path):
    """Grey is not blown up to RGB."""
    buffer = io.BytesIO()
    Image.new("L", (16, 16), 77).save(buffer, "PNG")
    (tmp_path / "grey.png").write_bytes(buffer.getvalue())
    with Image.open(ask(tmp_path / "grey.png", "jpeg")) as result:
        assert (result.mode, result.getpixel((3, 3))) == ("L", 77)
