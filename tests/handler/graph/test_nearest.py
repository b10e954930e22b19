"""Near names."""

from __future__ import annotations

import pytest

from handler.graph.nearest import Suggestions, extension, leaf, nearest, stem

SAMPLERS = ["euler", "euler_ancestral", "heun", "dpm_2", "dpmpp_2m", "dpmpp_2m_sde", "lcm", "ddim"]
FILES = ["sdxl/base_1.0.safetensors", "flux1-dev.safetensors", "v1-5-pruned.ckpt", "vae/ae.sft"]


@pytest.mark.parametrize(
    ("name", "candidates", "first"),
    [
        ("eular", SAMPLERS, "euler"),
        ("DPM++ 2M", SAMPLERS, "dpmpp_2m"),
        ("EULER", SAMPLERS, "euler"),
        ("base_1.0.safetensors", FILES, "sdxl/base_1.0.safetensors"),
        ("SDXL\\base_1.0.safetensors", FILES, "sdxl/base_1.0.safetensors"),
        ("flux1-dev.gguf", FILES, "flux1-dev.safetensors"),
        ("flux1-dev", FILES, "flux1-dev.safetensors"),
        ("models/v1-5-pruned.safetensors", FILES, "v1-5-pruned.ckpt"),
    ],
)
def test_the_nearest_comes_first(name, candidates, first):
    """Case, folder, slash and extension do not hide what was meant."""
    assert nearest(name, candidates)[0] == first


@pytest.mark.parametrize("name", ["zzz", "", "   ", "x" * 10_000_000])
def test_nothing_near_is_nothing(name):
    """No guess is better than a bad one, also for a file sent as a name."""
    assert nearest(name, SAMPLERS) == ()


def test_at_most_five_are_given_the_exact_one_first():
    """A long list gives its nearest, even where hundreds are like the name."""
    names = [f"folder/model_{number}.safetensors" for number in range(3000)]
    near = nearest("model_1234.ckpt", names)

    assert len(near) == 5
    assert near[0] == "folder/model_1234.safetensors"


def test_short_names_of_a_long_list_are_found():
    """Names of less than three letters have no letter triples, and still count."""
    assert nearest("b7", [f"{letter}{n}" for letter in "abc" for n in range(100)])[0] == "b7"


def test_a_higher_cutoff_gives_less():
    """Names that share a word are near by default and not above 0.9."""
    assert nearest("LoadImages", ["LoadImageMask"]) == ("LoadImageMask",)
    assert nearest("LoadImages", ["LoadImageMask"], cutoff=0.95) == ()


def test_suggestions_end_with_their_budget():
    """After the last paid look nothing is near; what is no text costs nothing."""
    suggestions = Suggestions(1)

    assert suggestions.near(5, SAMPLERS) == ()
    assert suggestions.near("eular", [None, 7, *SAMPLERS])[0] == "euler"
    assert suggestions.near("eular", SAMPLERS) == ()


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a/b.PNG", ("b.PNG", "png", "b")),
        ("a\\b.tar.gz", ("b.tar.gz", "gz", "b.tar")),
        ("plain", ("plain", "", "plain")),
        ("v1.5 final", ("v1.5 final", "", "v1.5 final")),
        (".hidden", (".hidden", "hidden", "")),
    ],
)
def test_names_are_cut_into_leaf_extension_and_stem(name, parts):
    """Slashes of both kinds part folders, and an extension has letters and digits only."""
    assert (leaf(name), extension(name), stem(name)) == parts
