"""Which addresses webhooks may be sent to: the public internet's, and what is allowed besides.

May import: `domain`, `http`. The URL of a webhook is a customer's word. One that leads inside (a
metadata service, a database, a neighbour) must not be followed, however it is spelled: so what
counts is the address that its name was resolved to, and the connection is made to that very one.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import TypeAlias

from integration_hub.domain.errors import BlockedAddress, ValidationError
from integration_hub.http.sockets import Addresses

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

#: Source: IANA IPv4 Special-Purpose Address Registry; RFC 6890 and those that it lists. The last
#: one is Azure's host, which answers every virtual machine there, at a public address.
_BLOCKED_V4 = {
    "0.0.0.0/8": "this network",
    "10.0.0.0/8": "private",
    "100.64.0.0/10": "of a carrier's network (RFC 6598)",
    "127.0.0.0/8": "loopback",
    "169.254.0.0/16": "link-local, where clouds keep their metadata",
    "172.16.0.0/12": "private",
    "192.0.0.0/24": "for protocol assignments",
    "192.0.2.0/24": "for documentation",
    "192.31.196.0/24": "a sink for DNS (AS112)",
    "192.52.193.0/24": "a relay (AMT)",
    "192.88.99.0/24": "a 6to4 relay",
    "192.168.0.0/16": "private",
    "192.175.48.0/24": "a sink for DNS (AS112)",
    "198.18.0.0/15": "for benchmarks",
    "198.51.100.0/24": "for documentation",
    "203.0.113.0/24": "for documentation",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
    "168.63.129.16/32": "a cloud's own host",
}
#: Source: IANA IPv6 Special-Purpose Address Registry, and RFC 4291 for what is deprecated.
_BLOCKED_V6 = {
    "::/128": "unspecified",
    "::1/128": "loopback",
    "::ffff:0:0/96": "an IPv4 address in IPv6's clothes",
    "::/96": "an IPv4 address in IPv6's clothes",
    "64:ff9b:1::/48": "a local NAT64",
    "100::/64": "a black hole",
    "2001::/23": "for protocol assignments, Teredo among them",
    "2001:db8::/32": "for documentation",
    "2002::/16": "6to4",
    "2620:4f:8000::/48": "a sink for DNS (AS112)",
    "3fff::/20": "for documentation",
    "5f00::/16": "segment routing",
    "fc00::/7": "private",
    "fe80::/10": "link-local",
    "fec0::/10": "site-local",
    "ff00::/8": "multicast",
}
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
#: RFC 6052: the address of an IPv4 host as hosts without IPv4 see it; what counts is that host.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_BLOCKED: list[tuple[Network, str]] = [
    (ipaddress.ip_network(network), why) for network, why in {**_BLOCKED_V4, **_BLOCKED_V6}.items()
]
#: Names of metadata services, which a network may resolve to any address.
_BLOCKED_NAMES = frozenset(
    {
        "instance-data",
        "instance-data.ec2.internal",
        "localhost",
        "metadata",
        "metadata.azure.internal",
        "metadata.goog",
        "metadata.google.internal",
    }
)


class AddressGuard:
    """Lets connections be made to the public internet, and to the networks in `allowed`.

    `allowed` are networks such as ``10.20.0.0/16`` or single addresses, for those who deliver
    inside. Raises `ValidationError` for what is none.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        networks = [allowed] if isinstance(allowed, str) else allowed
        self._allowed = [_network(each) for each in networks]

    def __call__(self, host: str, addresses: Addresses, *, method: str, url: str) -> Addresses:
        """Of the addresses that a host was resolved to, those that may be connected to.

        Raises `BlockedAddress` where there is none.
        """
        refused = None
        allowed = []
        for each in addresses:
            why = self.why_blocked(str(each[4][0]), host)
            if why is None:
                allowed.append(each)
            else:
                refused = refused or (str(each[4][0]), why)
        if not allowed:
            address, why = refused or (None, "it has none")
            raise BlockedAddress(address, why, method=method, url=url)
        return allowed

    def why_blocked(self, address: str, host: str = "") -> str | None:
        """Why an address must not be connected to; None if it may."""
        parsed = ipaddress.ip_address(address.partition("%")[0])
        if any(parsed in each for each in self._allowed):
            return None
        if host.lower().rstrip(".") in _BLOCKED_NAMES:
            return "the name of a host's own services"
        return _why(parsed)


def _why(address: Address) -> str | None:
    if address in _NAT64:
        return _why(ipaddress.IPv4Address(address.packed[-4:]))
    for network, why in _BLOCKED:
        if address in network:
            return why
    if address.version == 6 and address not in _GLOBAL_V6:
        return "none of the public internet"
    return None


def _network(given: str) -> Network:
    try:
        return ipaddress.ip_network(given)
    except ValueError as error:
        problem = f"must be a network such as 10.20.0.0/16 ({error})"
        raise ValidationError("allowed", given, problem) from None
