# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fingerprint by which a certificate is pinned."""

from __future__ import annotations

import hashlib
import ssl
from typing import Any

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: certificate_fingerprint
short_description: The fingerprint by which a certificate is pinned
version_added: 0.1.0
author: The gpuops.fleet contributors (@gpuops)
description:
  - Returns the fingerprint of a certificate in the form in which P(gpuops.fleet.endpoint_check#module) and the role
    P(gpuops.fleet.producer#role) take it.
options:
  _input:
    description: The certificate as PEM text; of a chain the first, which is the server's own.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show the fingerprint
  ansible.builtin.debug:
    msg: "{{ lookup('ansible.builtin.file', 'fullchain.pem') | gpuops.fleet.certificate_fingerprint }}"
    # => sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef
"""

RETURN = r"""
_value:
  description: C(sha256:) and 64 digits of 0-9a-f.
  type: str
"""

_BEGIN = "-----BEGIN CERTIFICATE-----"
_END = "-----END CERTIFICATE-----"


def certificate_fingerprint(certificate: str) -> str:
    """Of the first certificate in the text."""
    _before, begun, rest = certificate.partition(_BEGIN)
    own, ended, _after = rest.partition(_END)
    try:
        if not begun or not ended:
            raise ValueError("one of its two marks is missing")
        encoded = ssl.PEM_cert_to_DER_cert(f"{_BEGIN}{own}{_END}")
    except ValueError as error:
        raise AnsibleFilterError(f"This is no certificate as PEM text, which begins with {_BEGIN}: {error}.") from error
    return f"sha256:{hashlib.sha256(encoded).hexdigest()}"


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"certificate_fingerprint": certificate_fingerprint}
