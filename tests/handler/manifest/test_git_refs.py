"""Addresses of repositories, read without asking anybody."""

from __future__ import annotations

import pytest

from handler.manifest.git_refs import GitUrlRefused, advertised, choose, is_address, parse

SHA = "0123456789abcdef0123456789abcdef01234567"
HUB = "https://github.com/owner/repo"
LAB = "https://gitlab.com/group/sub/deep/repo"
BUCKET = "https://bitbucket.org/team/repo"

FORMS = [
    (HUB, HUB, ()),
    (f"{HUB}/", HUB, ()),
    (f"{HUB}.git", f"{HUB}.git", ()),
    (f"git+{HUB}.git", f"{HUB}.git", ()),
    (f"{HUB}@v1.2", HUB, ("v1.2",)),
    (f"{HUB}.git@{SHA}", f"{HUB}.git", (SHA,)),
    (f"{HUB}@feature/x", HUB, ("feature/x",)),
    (f"{HUB}/tree/main", HUB, ("main",)),
    (f"{HUB}/tree/feature/x", HUB, ("feature/x", "feature")),
    (f"{HUB}/tree/feature%2Fx", HUB, ("feature/x", "feature")),
    (f"{HUB}/tree/main/nodes/", HUB, ("main/nodes", "main")),
    (f"{HUB}/commit/{SHA}", HUB, (SHA,)),
    (f"{HUB}/commits/{SHA}", HUB, (SHA,)),
    (f"{HUB}/releases/tag/v1.0", HUB, ("v1.0",)),
    (f"{HUB}/releases/tag/release/1", HUB, ("release/1",)),
    (f"{LAB}/-/tree/main", LAB, ("main",)),
    (f"{LAB}/-/tree/main?ref_type=heads", LAB, ("main",)),
    (f"{LAB}/-/commit/{SHA}", LAB, (SHA,)),
    (f"{LAB}/-/tags/v2", LAB, ("v2",)),
    (f"{LAB}.git", f"{LAB}.git", ()),
    (f"{LAB}@v2", LAB, ("v2",)),
    ("https://gitlab.com/group/src/repo", "https://gitlab.com/group/src/repo", ()),
    (f"{BUCKET}/src/main", BUCKET, ("main",)),
    (f"{BUCKET}/src/main/folder/file.py", BUCKET, ("main/folder/file.py", "main/folder", "main")),
    (f"{BUCKET}/commits/{SHA}", BUCKET, (SHA,)),
    ("git@github.com:owner/repo.git", "git@github.com:owner/repo.git", ()),
    ("git@github.com:owner/repo.git@v1", "git@github.com:owner/repo.git", ("v1",)),
    ("ssh://git@host.org:2222/o/repo@v1", "ssh://git@host.org:2222/o/repo", ("v1",)),
    (
        "https://git.example.org:8443/a/b/c/repo@x",
        "https://git.example.org:8443/a/b/c/repo",
        ("x",),
    ),
]


@pytest.mark.parametrize(("text", "url", "refs"), FORMS, ids=[form[0] for form in FORMS])
def test_every_form_gives_repository_and_ref(text, url, refs):
    """All forms of the contract are understood, and branches with a slash too."""
    source = parse(text)

    assert (url, refs) == (source.url, source.refs)


def test_name_is_the_repository_without_suffix():
    """The folder of a pack is called as its repository."""
    assert parse(f"{HUB}.git@v1").name == "repo"
    assert parse("git@host:repo.git").name == "repo"


def test_secret_of_an_address_is_kept_apart():
    """User and password are neither in the address nor in what is shown."""
    source = parse("https://user:t%40ken@github.com/owner/repo@v1")

    assert (source.url, source.refs) == ("https://github.com/owner/repo", ("v1",))
    assert source.credentials == "user:t@ken"
    assert "ken" not in repr(source)


REFUSED = [
    ("-u./evil", "no address"),
    ("ext::sh -c id", "no address"),
    ("ext::sh", "runs commands"),
    ("fd::17", "runs commands"),
    ("https://github.com/o/r@--upload-pack=x", "can be no ref"),
    ("https://github.com/o/r/tree/-x", "can be no ref"),
    ("https://github.com/o/r/tree/a..b", "can be no ref"),
    ("https://github.com/o/r@", "without a ref"),
    ("https://github.com/o/r#main", "after an `@`"),
    ("https://github.com/owner", "OWNER/REPO"),
    ("https://github.com/owner/repo/issues/1", "OWNER/REPO"),
    ("ssh://-oProxyCommand=x/o/r", "no host"),
    ("-oProxyCommand=x@host:o/r", "no address"),
    ("git@-oProxyCommand=x:o/r", "no host"),
    ("file:///srv/repo", "not allowed"),
    ("/srv/repo", "not allowed"),
    ("../repo", "not allowed"),
    ("ftp://host/o/r", "scheme"),
    ("https://github.com/o/.git", "name"),
    ("https:///o/r", "no host"),
]


@pytest.mark.parametrize(("text", "why"), REFUSED, ids=[form[0] for form in REFUSED])
def test_what_could_harm_is_refused(text, why):
    """Options in disguise, helpers that run commands and local folders get nowhere."""
    with pytest.raises(GitUrlRefused, match=why):
        parse(text)


def test_local_folders_may_be_allowed_and_helpers_never():
    """The operator can allow folders of the machine."""
    assert parse("/srv/repo@v1", allow_local=True).url == "/srv/repo"
    assert parse("file:///srv/tree/a/repo@x", allow_local=True).refs == ("x",)
    with pytest.raises(GitUrlRefused):
        parse("ext::sh", allow_local=True)


def test_ref_may_stand_beside_the_address_but_not_twice():
    """`ref` of an object is the same as `@ref`, and one of both is enough."""
    assert parse(HUB, ref="a/b").refs == ("a/b",)
    with pytest.raises(GitUrlRefused, match="already"):
        parse(f"{HUB}@v1", ref="v2")
    with pytest.raises(GitUrlRefused, match="no ref"):
        parse(HUB, ref="--help")


def test_names_of_a_registry_are_no_addresses():
    """A plain word is looked up in the registry."""
    assert not is_address("comfyui-impact-pack@1.0.0")
    for text in ("https://x/y", "git@host:o/r", "/srv/x", "./x", "ext::sh"):
        assert is_address(text)


A, B, C = "a" * 40, "b" * 40, "c" * 40
REFS = advertised(
    f"{A}\tHEAD\n{A}\trefs/heads/main\n{B}\trefs/heads/feature/x\n"
    f"{C}\trefs/tags/v1\n{B}\trefs/tags/v1^{{}}\n{A}\trefs/tags/light\nnot a line\n"
)


@pytest.mark.parametrize(
    ("text", "commit", "fetch", "moves"),
    [
        (HUB, A, "HEAD", True),
        (f"{HUB}@main", A, "refs/heads/main", True),
        (f"{HUB}/tree/feature/x/nodes", B, "refs/heads/feature/x", True),
        (f"{HUB}@v1", B, "refs/tags/v1", False),
        (f"{HUB}/releases/tag/light", A, "refs/tags/light", False),
        (f"{HUB}/commit/{SHA}", SHA, SHA, False),
        (f"{HUB}@{'b' * 9}", B, B, False),
        (f"{HUB}@0123456", None, "0123456", False),
    ],
)
def test_what_the_repository_advertises_decides(text, commit, fetch, moves):
    """The longest candidate that exists is taken; an annotated tag means its commit."""
    found = choose(parse(text), REFS)

    assert found is not None
    assert (commit, fetch, moves) == (found.commit, found.fetch, found.moves)


@pytest.mark.parametrize("text", [f"{HUB}@nope", f"{HUB}/releases/tag/main", f"{HUB}/commit/main"])
def test_a_ref_that_is_not_there_is_not_guessed(text):
    """A branch is no release, a word is no commit, and nothing stands in."""
    assert choose(parse(text), REFS) is None
