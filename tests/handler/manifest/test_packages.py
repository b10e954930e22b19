"""Real uv, real interpreters, small packages: what must stay stays, the culprit is named."""

from __future__ import annotations

import subprocess
import time

import pytest
from packaging.version import Version

from handler.manifest.faults import InstallFailed
from handler.manifest.packages import Packages, uv_environment
from handler.manifest.requirements import Line, Wanted


def wants(owner, *texts, optional=False):
    lines = tuple(Line(text, f"requirements.txt:{at}") for at, text in enumerate(texts, start=1))
    return Wanted(owner, lines, optional)


async def versions(packages):
    return dict((await packages.installed()).versions)


async def test_the_probe_tells_packages_and_environment(packages, python):
    """What the interpreter has, and for which markers it stands."""
    found = await packages.installed()
    asked = [python, "-c", "import platform; print(platform.python_version())"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()

    assert dict(found.versions) == {"torch": "2.8.0+cu128", "numpy": "2.2.0"}
    assert found.environment["python_full_version"] == said


async def test_one_run_installs_for_everybody(packages):
    """Packs and the manifest's own list are resolved together."""
    outcome = await packages.install([wants("pip", "leaf<2"), wants("one", "branch")])

    assert outcome.ran
    found = await versions(packages)
    assert (found["leaf"], found["branch"]) == ("1.0", "1.0")


async def test_what_is_there_costs_milliseconds(packages):
    """The second time nothing is started but the probe."""
    wanted = [wants("one", "branch", "torch>=2", "numpy")]
    await packages.install(wanted)
    begun = time.monotonic()
    outcome = await packages.install(wanted)

    assert not outcome.ran
    assert time.monotonic() - begun < 5


async def test_a_line_that_would_replace_torch_is_refused(packages):
    """Pack, line and package are named, and nothing is installed."""
    with pytest.raises(
        InstallFailed, match=r"node pack bad: requirements.txt:2 .*torch==2.1.0"
    ) as got:
        await packages.install([wants("good", "leaf"), wants("bad", "leaf", "torch==2.1.0")])

    assert [(one["pack"], one["packages"]) for one in got.value.details] == [("bad", ["torch"])]
    assert await versions(packages) == {"torch": "2.8.0+cu128", "numpy": "2.2.0"}


async def test_a_package_whose_own_needs_would_replace_torch_is_refused(packages):
    """The resolver finds out, and the pack behind it is named."""
    with pytest.raises(InstallFailed, match="node pack bad: ") as caught:
        await packages.install(
            [wants("good", "leaf"), wants("bad", "wants-new-torch"), wants("fine", "branch")]
        )

    assert [one["pack"] for one in caught.value.details] == ["bad"]
    assert {"torch", "wants-new-torch"} <= set(caught.value.details[0]["packages"])
    assert await versions(packages) == {"torch": "2.8.0+cu128", "numpy": "2.2.0"}


async def test_packs_that_contradict_each_other_are_named(packages):
    """Each could be had alone: the one that does not go with those before it is told."""
    with pytest.raises(InstallFailed, match="node pack second: ") as caught:
        await packages.install([wants("first", "leaf==1.0"), wants("second", "leaf>=2")])
    assert "leaf" in caught.value.details[0]["packages"]


async def test_an_optional_pack_goes_without(packages):
    """The others get what they need, and the outcome says who did not, and why."""
    outcome = await packages.install(
        [
            wants("spare", "leaf==1.0", optional=True),
            wants("greedy", "torch==2.9.0", optional=True),
            wants("needed", "leaf>=2"),
        ]
    )

    assert set(outcome.dropped) == {"spare", "greedy"}
    assert (await versions(packages))["leaf"] == "2.0"


async def test_a_package_that_does_not_exist_is_named_with_its_pack(packages):
    """A typo is found in the pack that has it."""
    with pytest.raises(InstallFailed, match=r"node pack typo: .*no-such-thing"):
        await packages.install([wants("good", "leaf"), wants("typo", "no-such-thing")])


async def test_pins_of_a_lock_hold(packages):
    """With exact versions given, the resolver takes those."""
    await packages.install([wants("one", "branch")], {"leaf": "1.0"})
    assert (await versions(packages))["leaf"] == "1.0"


async def test_a_replaced_torch_is_noticed_afterwards(packages, wheels, python, plain_env):
    """A script that goes its own way is told by name."""
    kept = packages.write_constraints(await packages.installed())
    loose = Packages(
        python, plain_env, packages.constraints.parent, options=("--no-index", "-f", str(wheels))
    )
    loose.constraints.write_text("")
    await loose._run_uv([wants("x", "torch==2.1.0")])
    with pytest.raises(
        InstallFailed, match=r"install.py of x replaced torch 2.8.0\+cu128 by 2.1.0"
    ):
        await packages.check_kept(kept, "install.py of x")


async def test_a_torch_from_an_address_stays_too(packages, wheels):
    """Where the image got torch from a file, a pack that wants torch changes nothing."""
    wheel = next(wheels.glob("torch-2.1.0*"))
    packages.constraints.write_text("")
    await packages._run_uv([wants("image", f"torch @ file://{wheel}")])
    assert (await versions(packages))["torch"] == "2.1.0"
    await packages.install([wants("one", "torch>=2", "leaf")])

    assert (await versions(packages))["torch"] == "2.1.0"
    assert Version((await versions(packages))["leaf"]) >= Version("1.0")


async def test_an_interpreter_that_is_none_is_our_error(tmp_path, plain_env):
    """A wrong COMFY_PYTHON says so."""
    with pytest.raises(InstallFailed, match="cannot be run"):
        await Packages(tmp_path / "python", plain_env, tmp_path).installed()


def test_settings_of_pip_hold_for_uv():
    """An image that was set up for pip needs no second setting."""
    made = uv_environment({"PIP_INDEX_URL": "https://i", "PIP_FIND_LINKS": "/a /b"})
    assert (made["UV_DEFAULT_INDEX"], made["UV_FIND_LINKS"]) == ("https://i", "/a,/b")
    assert (
        uv_environment({"PIP_INDEX_URL": "p", "UV_DEFAULT_INDEX": "u"})["UV_DEFAULT_INDEX"] == "u"
    )
