"""Who counts as one visitor."""

from __future__ import annotations

import ipaddress


def network(address: str) -> str:
    """Return what the visitors' limits go by: an IPv4 address, or the /64 that an IPv6 address is in; other text as it is.

    One line at home has at least a /64, with 2^64 addresses to come from (RFC 6177). nginx counts in the same way: `$network`
    in bokeh_dyno/start/routing/http.conf.erb.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # a unix socket's, or none
        return address
    if parsed.version == 4:
        return address
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
