"""YAML and JSON as trees that know their lines."""

from __future__ import annotations

import pytest

from handler.manifest.faults import ManifestInvalid
from handler.manifest.schema import parse_manifest


def faults_of(text, **options):
    with pytest.raises(ManifestInvalid) as caught:
        parse_manifest(text, **options)
    return [(fault.line, fault.path, fault.message) for fault in caught.value.faults]


def test_json_has_lines_too():
    """Tabs, escapes and all: JSON is read as JSON."""
    text = '{\n\t"apt": ["ffmpeg"],\n\t"pip": [{}],\n\t"preload": ["\\u00e9\\/x"],\n\t"nope": 1\n}'
    found = faults_of(text, is_json=True)

    assert [(line, path) for line, path, _ in found if path == "nope"] == [(5, "nope")]
    assert [(line, path) for line, path, _ in found if path == "pip[0]"] == [(3, "pip[0]")]


def test_json_values_are_those_of_json():
    """What YAML would read otherwise stays as it is."""
    manifest = parse_manifest('{"preload": ["no", "1e3", "\\ud83d\\ude00"]}', is_json=True)

    assert manifest.preload == ("no", "1e3", "😀")


@pytest.mark.parametrize(
    ("text", "is_json", "line"),
    [
        ("apt: [x\npip: ]", False, 2),
        ('{"apt": [}', True, 1),
        ('{\n"apt": [],\n"apt": []}', True, 3),
        ("apt: []\npip: []\napt: []", False, 3),
        ("apt: !!python/object:os.system []", False, 1),
        ("- a\n- b", False, 1),
        ("a: &a [*a]", False, 1),
        ("apt: [2024-13-45]", False, 1),
    ],
)
def test_a_broken_text_names_the_line(text, is_json, line):
    """Syntax, keys given twice, tags and circles are faults with a line, never a traceback."""
    assert line in [found for found, _, _ in faults_of(text, is_json=is_json)]


def test_aliases_that_explode_are_stopped():
    """A text of ten lines cannot fill the memory."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert faults_of("\n".join(lines))


def test_anchors_and_merges_work():
    """Manifests may repeat themselves by reference."""
    text = """\
models:
  before_start:
    - &first
      url: https://example.org/a.safetensors
      folder: vae
    - <<: *first
      url: https://example.org/b.safetensors
"""
    assert [model.filename for model in parse_manifest(text).before_start] == [
        "a.safetensors",
        "b.safetensors",
    ]


def test_numbers_that_mean_text_stay_text():
    """`1.10` is no 1.1, and a commit of digits is no number."""
    manifest = parse_manifest(
        "comfyui: 1.10\ncustom_nodes:\n  - {url: https://github.com/o/r, ref: 0012345}\n"
    )

    assert manifest.comfyui.version == "1.10"
    assert manifest.custom_nodes[0].source.refs == ("0012345",)
