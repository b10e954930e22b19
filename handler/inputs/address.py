"""Which addresses a URL that a caller sends may lead to: public ones, and what is allowed by name.

A name is resolved once and the connection goes to the very address that was checked: a DNS server
that answers differently the next moment gains nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from handler.errors import InputFailed, UrlNotAllowed

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolver = Callable[[str, int], Awaitable[list[str]]]
"""Gives every address of a host name as text; raises OSError where there is none."""

_DNS_TIMEOUT_S = 10.0
_PORTS = {"http": 80, "https": 443}

# What `is_global` lets through, in older Python versions at least; by the registries of IANA.
_SPECIAL = tuple(
    map(
        ip_network,
        (
            "192.0.0.0/24",  # protocol assignments
            "192.88.99.0/24",  # relays of 6to4
            "168.63.129.16/32",  # public by number, yet Azure's host agent
            "64:ff9b:1::/48",  # NAT64 of local use
            "2001::/23",  # protocol assignments, Teredo among them
            "3fff::/20",  # documentation
            "5f00::/16",  # segment routing
            "fec0::/10",  # site-local, long withdrawn
        ),
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
_COMPATIBLE = IPv6Network("::/96")


@dataclass(frozen=True, slots=True)
class _Allowed:
    """One entry of the list: a network or a host glob, for one port or (None) for all."""

    network: Network | None
    glob: str
    port: int | None


class AddressPolicy:
    """Decides where callers' URLs may lead.

    Args:
        allow: comma list of host globs (`*.corp.example`), addresses and CIDR ranges that may be
            private: on every port, or on one where the entry ends in `:port` or is an origin
            (`https://host`: port 443).
        resolver: asked for host names; the system's by default.
        dns_timeout_s: longest wait for its answer, in seconds.
    """

    def __init__(
        self,
        allow: str = "",
        resolver: Resolver | None = None,
        *,
        dns_timeout_s: float = _DNS_TIMEOUT_S,
    ) -> None:
        self._allow = tuple(_entry(text.strip()) for text in allow.split(",") if text.strip())
        self._resolver = resolver or _system_resolver
        self._dns_timeout_s = dns_timeout_s

    def __repr__(self) -> str:
        return f"<AddressPolicy public and {len(self._allow)} allowed>"

    async def resolve(self, host: str, port: int) -> list[str]:
        """Give the addresses of a host that may be connected to, in the resolver's order.

        Raises:
            UrlNotAllowed: one of the addresses is not public, and neither host nor address is
                allowed. The address is not told: it would map the network for the caller.
            InputFailed: the name has no address (caller), or DNS is silent (retryable).
        """
        host = host.strip("[]").rstrip(".").lower()
        literal = _literal(host)
        answers = [literal] if literal else await self._look_up(host, port)
        by_name = any(
            entry.port in {None, port} and fnmatchcase(host, entry.glob)
            for entry in self._allow
            if entry.glob
        )
        if not by_name and not all(self._may(address, port) for address in answers):
            raise UrlNotAllowed(
                f"{host} does not lead to a public address",
                hint=f"if this host may be used, the operator adds it to URL_ALLOW_HOSTS: {host}",
                details={"host": host},
            )
        return [str(address) for address in answers]

    def _may(self, address: Address, port: int) -> bool:
        return is_public(address) or any(
            entry.network is not None
            and entry.port in {None, port}
            and _within(address, entry.network)
            for entry in self._allow
        )

    async def _look_up(self, host: str, port: int) -> list[Address]:
        try:
            async with asyncio.timeout(self._dns_timeout_s):
                texts = await self._resolver(host, port)
        except TimeoutError as fault:
            raise InputFailed(
                f"DNS gave no answer for {host} within {self._dns_timeout_s:g} s",
                blame="platform",
                retryable=True,
            ) from fault
        except (OSError, UnicodeError) as fault:
            temporary = getattr(fault, "errno", None) == socket.EAI_AGAIN
            raise InputFailed(
                f"the host name {host} cannot be resolved",
                blame="platform" if temporary else None,
                retryable=temporary,
            ) from fault
        if not texts:
            raise InputFailed(f"the host name {host} cannot be resolved")
        return [ip_address(text) for text in texts]


# Of its own: a name server of a caller's that keeps silent would hold Python's shared threads, and
# with them all that is written to the disk.
_names = ThreadPoolExecutor(32, thread_name_prefix="dns")


async def _system_resolver(host: str, port: int) -> list[str]:
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_names, look_up)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def is_public(address: Address) -> bool:
    """Tell whether an address, and the one it may carry inside, is of the open internet."""
    if isinstance(address, IPv6Address):
        inner = _embedded(address)
        if inner is not None:
            return is_public(inner)
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(_within(address, network) for network in _SPECIAL)
    )


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """Give the IPv4 address that packets to this IPv6 address are led on to."""
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _within(address: Address, network: Network) -> bool:
    if isinstance(address, IPv6Address) and network.version == 4 and address.ipv4_mapped:
        return address.ipv4_mapped in network
    return address.version == network.version and address in network


def _literal(host: str) -> Address | None:
    """Read a host that is an address, as the system would: `0x7f.1` and `2130706433` too."""
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except (OSError, UnicodeError):
        return None


def _entry(text: str) -> _Allowed:
    scheme, mark, rest = text.lower().partition("://")
    host, port = _split_port(rest.rstrip("/") if mark else text.lower())
    if port is None:  # an origin without a port means its scheme's
        port = _PORTS.get(scheme) if mark else None
    try:
        return _Allowed(ip_network(host, strict=False), "", port)
    except ValueError:
        return _Allowed(None, host, port)


def _split_port(text: str) -> tuple[str, int | None]:
    """Split `host:port` and `[v6]:port`; a bare IPv6 address has colons and no port."""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        return host + (rest if rest.startswith("/") else ""), _port(rest.lstrip(":"))
    host, _, port = text.rpartition(":")
    if host and ":" not in host and port.isdecimal():
        return host, int(port)
    return text, None


def _port(text: str) -> int | None:
    return int(text) if text.isdecimal() else None
