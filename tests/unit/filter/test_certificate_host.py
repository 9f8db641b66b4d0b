# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The name under which a server is asked, from its certificate."""

from __future__ import annotations

import datetime

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.gpuops.fleet.plugins.filter.certificate_host import certificate_host
from support.certificates import DAY, signed

NOW = datetime.datetime(2026, 11, 22, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("names", "host"),
    [
        (["llm.example.org", "www.example.org"], "llm.example.org"),
        (["203.0.113.5", "*.example.org", "llm.example.org"], "llm.example.org"),
        (["*.example.org", "2001:db8::5"], "2001:db8::5"),
        (["*.example.org"], ""),
    ],
)
def test_it_is_the_first_that_a_client_can_ask_for(names: list[str], host: str) -> None:
    chain, _key = signed(NOW - DAY, NOW + DAY, names=names)
    assert certificate_host(chain) == host
    authority = "-----BEGIN" + chain.rpartition("-----BEGIN")[2]
    assert certificate_host(authority) == "", "it has no names at all"


@pytest.mark.parametrize("text", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nMII"])
def test_what_is_no_certificate_is_refused_in_a_sentence(text: str) -> None:
    with pytest.raises(AnsibleFilterError, match="This is no certificate as PEM text"):
        certificate_host(text)
