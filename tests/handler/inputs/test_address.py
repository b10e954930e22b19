"""Where callers' URLs may lead."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import pytest

from handler.errors import InputFailed, UrlNotAllowed
from handler.inputs.address import AddressPolicy

PUBLIC = "93.184.215.14"


def answering(*answers: str):
    """Make a resolver that gives these addresses for any name."""

    async def resolver(host: str, port: int) -> list[str]:
        return list(answers)

    return resolver


async def unreachable(host: str, port: int) -> list[str]:
    raise AssertionError(f"asked DNS for {host}")


async def test_a_public_host_gives_its_addresses_in_order():
    """Every address is handed on, so that the next one can be tried."""
    policy = AddressPolicy(resolver=answering(PUBLIC, "2606:4700::1111"))
    assert await policy.resolve("example.com", 443) == [PUBLIC, "2606:4700::1111"]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "192.0.2.1",
        "198.18.0.1",
        "192.88.99.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
        "2001::1",
        "3fff::1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "::10.0.0.1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
    ],
)
async def test_an_address_that_is_not_public_is_refused(address):
    """As the answer of DNS and, written out, as the host itself."""
    with pytest.raises(UrlNotAllowed):
        await AddressPolicy(resolver=answering(address)).resolve("evil.example", 80)
    with pytest.raises(UrlNotAllowed):
        await AddressPolicy(resolver=unreachable).resolve(address, 80)


@pytest.mark.parametrize(
    "address",
    [PUBLIC, "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"],
)
async def test_a_public_address_passes(address):
    """So does a public IPv4 address inside an IPv6 one."""
    (found,) = await AddressPolicy(resolver=unreachable).resolve(address, 80)
    assert ip_address(found) == ip_address(address)


@pytest.mark.parametrize(
    "host",
    ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.1", "017700000001", "127.0.0.1."],
)
async def test_other_spellings_of_an_ipv4_address_are_seen_through(host):
    """Decimal, octal, hexadecimal and short forms are read as the system reads them."""
    with pytest.raises(UrlNotAllowed):
        await AddressPolicy(resolver=unreachable).resolve(host, 80)


async def test_localhost_is_refused():
    """The system's own resolver is asked, and its answer is judged."""
    with pytest.raises(UrlNotAllowed):
        await AddressPolicy().resolve("localhost", 80)


async def test_one_private_answer_among_public_ones_refuses_the_host():
    """Whoever mixes them is after the private one."""
    policy = AddressPolicy(resolver=answering(PUBLIC, "10.0.0.1"))
    with pytest.raises(UrlNotAllowed):
        await policy.resolve("mixed.example", 80)


async def test_the_refusal_names_host_and_remedy_and_not_the_address():
    """The caller can act on it, and learns nothing of the network."""
    with pytest.raises(UrlNotAllowed) as caught:
        await AddressPolicy(resolver=answering("10.9.8.7")).resolve("db.corp.example", 80)

    envelope = caught.value.envelope()
    assert "db.corp.example" in envelope["error"]
    assert "URL_ALLOW_HOSTS" in envelope["hint"]
    assert "10.9.8.7" not in str(envelope)
    assert (caught.value.status, caught.value.blame) == (400, "caller")


@pytest.mark.parametrize(
    ("allow", "host", "answer"),
    [
        ("minio", "minio", "10.0.0.1"),
        ("other, MinIO ", "minio", "10.0.0.1"),
        ("minio", "MINIO.", "10.0.0.1"),
        ("*.corp.example", "a.b.corp.example", "10.0.0.1"),
        ("minio:9000", "minio", "10.0.0.1"),
        ("http://minio:9000/", "minio", "10.0.0.1"),
        ("10.0.0.0/8", "anything", "10.0.0.1"),
        ("10.0.0.0/8", "anything", "::ffff:10.0.0.1"),
        ("10.0.0.1", "10.0.0.1", "-"),
        ("10.0.0.1:9000", "anything", "10.0.0.1"),
        ("10.0.0.7/8:9000", "anything", "10.0.0.1"),
        ("::1", "::1", "-"),
        ("[::1]", "[::1]", "-"),
        ("[::1]:9000", "::1", "-"),
        ("[fd00::]/8", "fd00::5", "-"),
        ("127.0.0.1", "2130706433", "-"),
        ("*", "anything", "169.254.169.254"),
        ("0.0.0.0/0,::/0", "anything", "10.0.0.1"),
    ],
)
async def test_what_is_allowed_may_be_private(allow, host, answer):
    """Globs, addresses, ranges and origins are understood."""
    assert await AddressPolicy(allow, answering(answer)).resolve(host, 9000)


@pytest.mark.parametrize(
    ("allow", "host"),
    [
        ("minio", "minio.evil.example"),
        ("*.corp.example", "corp.example"),
        ("minio:9000", "minio"),
        ("10.0.0.1:9000", "10.0.0.1"),
        ("192.168.0.0/16", "anything"),
        ("", "anything"),
        (" , ", "anything"),
        ("300.0.0.0/8", "anything"),
    ],
)
async def test_what_is_not_allowed_stays_refused(allow, host):
    """An entry means what it says, its port included."""
    with pytest.raises(UrlNotAllowed):
        await AddressPolicy(allow, answering("10.0.0.1")).resolve(host, 8080)


@pytest.mark.parametrize(
    ("allow", "open_port"),
    [
        ("https://minio", 443),
        ("HTTPS://Minio/", 443),
        ("http://minio", 80),
        ("http://minio:9000", 9000),
        ("https://10.0.0.1", 443),
        ("https://[fd00::1]", 443),
        ("http://[fd00::1]:9000", 9000),
    ],
)
async def test_an_origin_opens_its_own_port_alone(allow, open_port):
    """Without a port it means its scheme's."""
    address = "fd00::1" if "[" in allow else "10.0.0.1"
    policy = AddressPolicy(allow, answering(address))
    assert await policy.resolve("minio", open_port)
    for port in {22, 80, 443, 8080, 9000} - {open_port}:
        with pytest.raises(UrlNotAllowed):
            await policy.resolve("minio", port)


async def test_an_allowed_range_does_not_cover_the_other_answers():
    """Each answer must be public or allowed."""
    policy = AddressPolicy("10.0.0.0/8", answering("10.0.0.1", "192.168.0.1"))
    with pytest.raises(UrlNotAllowed):
        await policy.resolve("anything", 80)


async def test_a_name_without_address_is_the_callers_fault():
    """A typing mistake in a URL will not pass."""

    async def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(InputFailed, match=r"nowhere\.example cannot be resolved") as caught:
        await AddressPolicy(resolver=unknown).resolve("nowhere.example", 80)
    assert (caught.value.blame, caught.value.retryable) == ("caller", False)


async def test_a_name_with_no_answers_at_all_is_not_found():
    """An empty list is no permission."""
    with pytest.raises(InputFailed, match="cannot be resolved"):
        await AddressPolicy(resolver=answering()).resolve("empty.example", 80)


async def test_a_passing_fault_of_dns_may_be_tried_again():
    """The resolver tells the two kinds apart."""

    async def busy(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    with pytest.raises(InputFailed) as caught:
        await AddressPolicy(resolver=busy).resolve("example.com", 80)
    assert (caught.value.blame, caught.value.retryable) == ("platform", True)


async def test_silent_dns_does_not_hold_a_job_up():
    """The wait has an end."""

    async def silent(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(InputFailed, match=r"no answer for example\.com") as caught:
        await AddressPolicy(resolver=silent, dns_timeout_s=0.01).resolve("example.com", 80)
    assert caught.value.retryable


async def test_names_are_looked_up_beside_pythons_shared_threads():
    """Silent name servers would hold them all; and whoever holds them holds up no look-up."""
    held = threading.Event()
    with ThreadPoolExecutor(1) as shared:
        asyncio.get_running_loop().set_default_executor(shared)
        waiting = asyncio.get_running_loop().run_in_executor(None, held.wait)
        try:
            async with asyncio.timeout(10):
                found = await AddressPolicy("*").resolve("localhost", 80)
        finally:
            held.set()
            await waiting

    assert {"127.0.0.1", "::1"} & set(found)


def test_its_repr_tells_no_names():
    """It may stand in a log."""
    assert repr(AddressPolicy("secret.corp,b")) == "<AddressPolicy public and 2 allowed>"
