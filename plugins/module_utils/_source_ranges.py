# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""The networks from which something may be reached, as its user writes them."""

from __future__ import annotations

import ipaddress


def check(value: str) -> str:
    """The range as it is written down everywhere; raises ValueError with a sentence for what is none.

    Everybody is a range too (0.0.0.0/0), but only for somebody who writes it.
    """
    if "%" in value:
        raise ValueError(f"'{value}' names an interface, which no range of addresses can; leave out what follows %.")
    try:
        return str(ipaddress.ip_network(value))
    except ValueError as error:
        try:
            address = ipaddress.ip_interface(value).ip
            meant = f"'{address}/{address.max_prefixlen}' for that address, or '{ipaddress.ip_network(value, False)}'"
        except ValueError:
            meant = "an address with the length of its network, such as '203.0.113.7/32'"
        raise ValueError(f"'{value}' is no range of addresses; write {meant}.") from error
