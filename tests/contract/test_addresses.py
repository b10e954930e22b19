"""URLs that callers send reach the open internet and what the operator allows, nothing else."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest
from contract.file_server import FileServer, Trap
from contract.graphs import inverted, refused

if TYPE_CHECKING:
    from live import LiveServer

PRIVATE = [
    "http://169.254.169.254/latest/meta-data/",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://168.63.129.16/metadata",
    "http://100.100.100.200/latest/meta-data/",
    "http://10.0.0.1/x.png",
    "http://172.16.0.1/x.png",
    "http://192.168.1.1/x.png",
    "http://100.64.0.1/x.png",
    "http://0.0.0.0/x.png",
    "http://[::]/x.png",
    "http://[::ffff:10.0.0.1]/x.png",
    "http://[64:ff9b::10.0.0.1]/x.png",
    "http://[fe80::1]/x.png",
    "http://0xa000001/x.png",
    "http://167772161/x.png",
    "http://10.1/x.png",
    "https://10.0.0.1/x.png",
    "http://10.0.0.1:22/x.png",
    "http://someone:word@10.0.0.1/x.png",
    "http://224.0.0.1/x.png",
    "http://255.255.255.255/x.png",
]


@pytest.mark.parametrize("url", PRIVATE)
def test_addresses_that_are_not_public_are_refused(server: LiveServer, url: str) -> None:
    """An address of the host's own network is refused at once, with the remedy named."""
    begun = time.monotonic()

    body = refused(server.prompt(inverted(url)), 400, "url_not_allowed")

    assert time.monotonic() - begun < 5, "something was dialled"
    assert "URL_ALLOW_HOSTS" in body["hint"]
    assert body["location"] == "prompt.1.inputs.image"
    assert (body["node_id"], body["class_type"], body["blame"]) == ("1", "LoadImage", "caller")
    assert "word" not in body["error"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "LOCALHOST.", "127.1", "0x7f.0.0.1", "2130706433"]
)
def test_the_own_machine_is_never_dialled(strict_server: LiveServer, host: str) -> None:
    """However loopback is written, no connection is made where the operator has not allowed it."""
    with Trap("127.0.0.1") as trap:
        url = f"http://{host}:{trap.port}/x.png"

        body = refused(strict_server.prompt(inverted(url)), 400, "url_not_allowed")

        assert not trap.dialled()
    assert "URL_ALLOW_HOSTS" in body["hint"]


def test_loopback_of_ipv6_is_never_dialled(server: LiveServer) -> None:
    """Allowing 127.0.0.1 does not allow ::1."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with Trap("::1") as trap:
        url = f"http://[::1]:{trap.port}/x.png"

        refused(server.prompt(inverted(url)), 400, "url_not_allowed")

        assert not trap.dialled()


def test_another_loopback_address_is_never_dialled(server: LiveServer) -> None:
    """Allowing one address allows that one alone."""
    with Trap("127.0.0.2") as trap:
        url = f"http://127.0.0.2:{trap.port}/x.png"

        refused(server.prompt(inverted(url)), 400, "url_not_allowed")

        assert not trap.dialled()


@pytest.mark.parametrize("hops", [1, 3])
def test_a_redirect_to_a_private_address_is_never_dialled(
    server: LiveServer, source: FileServer, hops: int
) -> None:
    """A source that may be asked cannot lead on to one that may not."""
    with Trap("127.0.0.2") as trap:
        url = f"http://127.0.0.2:{trap.port}/secret.png"
        for hop in range(hops):
            url = source.redirect(f"/hop{hop}", url)

        body = refused(server.prompt(inverted(url)), 400, "url_not_allowed")

        assert not trap.dialled()
    assert "URL_ALLOW_HOSTS" in body["hint"]
    assert source.asked[-1][0] == "/hop0"


@pytest.mark.parametrize(
    "target", ["http://169.254.169.254/latest/meta-data/", "//[fd00:ec2::254]/", "http://10.1/"]
)
def test_a_redirect_to_the_metadata_is_refused(
    server: LiveServer, source: FileServer, target: str
) -> None:
    """As the caller's own URL would be; nothing is dialled."""
    url = source.redirect("/meta", target)
    begun = time.monotonic()

    body = refused(server.prompt(inverted(url)), 400, "url_not_allowed")

    assert time.monotonic() - begun < 5, "something was dialled"
    assert body["location"] == "prompt.1.inputs.image"


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "gopher://x/"])
def test_a_redirect_to_another_scheme_is_refused(
    server: LiveServer, source: FileServer, target: str
) -> None:
    """A redirect may not leave http(s)."""
    url = source.redirect("/away", target)

    body = refused(server.prompt(inverted(url)), 400, "input_failed")

    assert target.partition(":")[0] in body["error"]


def test_redirects_in_a_ring_end(server: LiveServer, source: FileServer) -> None:
    """A source that leads to itself is given up, with the reason."""
    url = source.redirect("/ring", source.url("/ring"))

    body = refused(server.prompt(inverted(url)), 400, "input_failed")

    assert "redirects" in body["error"]


def test_the_ports_of_server_and_engine_are_no_source(strict_server: LiveServer) -> None:
    """A caller cannot read the engine's routes through an input."""
    for base in (strict_server.engine_url, strict_server.url):
        refused(strict_server.prompt(inverted(f"{base}/history")), 400, "url_not_allowed")
