# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The name by which clients ask the server of a certificate."""

from __future__ import annotations

DOCUMENTATION = r"""
name: certificate_host
author: The gpuops.fleet contributors (@gpuops)
version_added: 0.1.0
short_description: The name by which clients ask the server of a certificate
description:
  - Returns the first host name that a certificate is good for; where it has none but wildcards, its first address.
  - It needs the Python library C(cryptography) on the controller, as ansible-core itself does.
options:
  _input:
    description: The certificate as PEM text; of a chain the first, which is the server's own.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show where to ask
  ansible.builtin.debug:
    msg: "{{ lookup('ansible.builtin.file', 'fullchain.pem') | gpuops.fleet.certificate_host }}"
    # => llm.example.org
"""

RETURN = r"""
_value:
  description: A name, or an address; empty where the certificate has neither.
  type: str
"""

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError

try:
    from cryptography import x509
except ImportError:  # ansible-core has it; its sanity tests look at plugins where it is missing
    HAS_CRYPTOGRAPHY = False
else:
    HAS_CRYPTOGRAPHY = True


def certificate_host(certificate: str) -> str:
    """Of the first certificate in the text. Its common name counts for nothing, as with every client today."""
    if not HAS_CRYPTOGRAPHY:
        raise AnsibleFilterError("The Python library cryptography is missing on the controller; install it.")
    try:
        own = x509.load_pem_x509_certificates(certificate.encode())[0]
        given = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ""
    except ValueError as error:
        raise AnsibleFilterError(f"This is no certificate as PEM text: {error}.") from error
    names = [name for name in given.get_values_for_type(x509.DNSName) if "*" not in name]
    addresses = [str(address) for address in given.get_values_for_type(x509.IPAddress)]
    return str(next(iter(names + addresses), ""))


class FilterModule:
    """Make the filter known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"certificate_host": certificate_host}
