"""Requirements files as people write them."""

from __future__ import annotations

import pytest

from handler.manifest.requirements import Installed, Line, clash, load, parse, satisfied

HAVE = Installed(
    {"torch": "2.8.0+cu128", "numpy": "2.2.0", "from-web": "1.0", "my-pkg": "3.1rc1"},
    {"python_version": "3.12", "sys_platform": "linux"},
    {"from-web": {"url": "https://e.org/from_web-1.0-py3-none-any.whl"}},
)


def texts(lines):
    return [line.text for line in lines]


def test_comments_continuations_and_includes_are_understood(tmp_path):
    """One line for each thing asked, with the place it was read at."""
    (tmp_path / "more.txt").write_text("deep==1\n")
    path = tmp_path / "requirements.txt"
    path.write_text("# head\na>=1  # why\nb==2 \\\n  --hash=sha256:00\n\n-r more.txt\n-rmore.txt\n")
    lines = load(path)

    assert texts(lines) == ["a>=1", "b==2    --hash=sha256:00", "deep==1", "deep==1"]
    assert [line.place for line in lines][:3] == [
        "requirements.txt:2",
        "requirements.txt:3",
        "more.txt:1",
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_of_windows_shells_are_read(tmp_path, encoding):
    """A byte order mark is no part of the first package's name."""
    path = tmp_path / "requirements.txt"
    path.write_bytes("numpy\r\nb\r\n".encode(encoding))
    assert texts(load(path)) == ["numpy", "b"]


def test_paths_and_indexes_mean_the_same_elsewhere(tmp_path):
    """All packs are resolved together: paths become absolute, a pack's index one among others."""
    path = tmp_path / "requirements.txt"
    path.write_text(
        "./wheels/x.whl\n-e .\n-c c.txt\n--index-url https://i.org/simple\n-f https://f\n"
    )

    assert texts(load(path)) == [
        f"{tmp_path}/wheels/x.whl",
        f"-e {tmp_path}",
        f"-c {tmp_path}/c.txt",
        "--extra-index-url https://i.org/simple",
        "-f https://f",
    ]
    assert texts(parse(["-i https://i.org"], tmp_path, "pip")) == ["-i https://i.org"]


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("torch", True),
        ("torch>=2.8", True),
        ("torch==2.8.0", True),
        ("torch>=2.9", False),
        ("My_Pkg>=3", True),
        ("missing", False),
        ("missing; sys_platform == 'win32'", True),
        ("missing; python_version >= '3.10'", False),
        ("torch[extra]", False),
        ("from-web @ https://e.org/from_web-1.0-py3-none-any.whl", True),
        ("from-web @ https://e.org/other.whl", False),
        ("git+https://e.org/x", False),
        ("/srv/x.whl", False),
        ("--extra-index-url https://e.org", True),
        ("-e /srv/x", False),
    ],
)
def test_what_is_there_is_known_without_a_resolver(text, there):
    """False only means that the resolver has to look."""
    assert satisfied(Line(text, "x:1"), HAVE) is there


@pytest.mark.parametrize(
    ("text", "package"),
    [
        ("torch>=2.8", None),
        ("torch==2.1", "torch"),
        ("Torch @ https://e.org/torch.whl", "torch"),
        ("torch==2.1; sys_platform == 'win32'", None),
        ("my-pkg==1", None),
        ("-e .", None),
    ],
)
def test_a_line_that_would_replace_what_must_stay_is_found(text, package):
    """By name, before anything is run."""
    assert clash(Line(text, "x:1"), {"torch": "2.8.0+cu128"}, HAVE) == package
