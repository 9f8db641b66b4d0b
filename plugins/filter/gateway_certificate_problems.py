# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter gpuops.fleet.gateway_certificate_problems."""

from __future__ import annotations

DOCUMENTATION = r"""
name: gateway_certificate_problems
author: The gpuops.fleet contributors (@gpuops)
version_added: 0.1.0
short_description: What can't work with a certificate and its key
description:
  - Says in one sentence each what can't work with a server's certificate and its private key.
  - It needs the Python library C(cryptography) on the controller, as ansible-core itself does.
options:
  _input:
    description: The certificate with its chain, as PEM text; the server's own comes first.
    type: str
    required: true
  private_key:
    description: Its key, as PEM text without a passphrase.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show what is wrong
  ansible.builtin.debug:
    msg: "{{ certificate | gpuops.fleet.gateway_certificate_problems(private_key) }}"
  vars:
    certificate: "{{ lookup('ansible.builtin.file', 'fullchain.pem') }}"
    private_key: "{{ lookup('ansible.builtin.file', 'privkey.pem') }}"
"""

RETURN = r"""
_value:
  description: Sentences; none where both are empty, or nothing is wrong.
  type: list
  elements: str
"""

import datetime
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

try:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
except ImportError:  # ansible-core has it; its sanity tests look at plugins where it is missing
    HAS_CRYPTOGRAPHY = False
else:
    HAS_CRYPTOGRAPHY = True

# What the OpenSSL of Debian and Ubuntu refuses (SSL_CTX_set_security_level(3), level 2), and so HAProxy at its start.
SMALLEST_RSA_BITS = 2048
SMALLEST_CURVE_BITS = 224
# By the identifiers of PKCS #1, X9.62, DSS and OIW.
WEAK_SIGNATURES = {
    "1.2.840.113549.1.1.4": "MD5",
    "1.2.840.113549.1.1.5": "SHA-1",
    "1.3.14.3.2.29": "SHA-1",
    "1.2.840.10045.4.1": "SHA-1",
    "1.2.840.10040.4.3": "SHA-1",
}


def gateway_certificate_problems(certificate: str, private_key: str, now: datetime.datetime | None = None) -> list[str]:
    """One sentence for each thing that can't work; what is said never holds a part of the key."""
    if not certificate.strip() and not private_key.strip():
        return []
    if not certificate.strip() or not private_key.strip():
        missing, given = "gateway_tls_certificate", "gateway_tls_private_key"
        if certificate.strip():
            missing, given = given, missing
        return [f"{given} is set and {missing} is not; set both, or none to have them made on the host."]
    if not HAS_CRYPTOGRAPHY:
        raise AnsibleFilterError("The Python library cryptography is missing on the controller; install it.")
    try:
        chain = x509.load_pem_x509_certificates(certificate.encode())
    except ValueError:
        return ["gateway_tls_certificate holds no certificate; it must be PEM text with -----BEGIN CERTIFICATE-----."]
    try:
        key = load_pem_private_key(private_key.encode(), password=None)
    except (TypeError, ValueError):
        return ["gateway_tls_private_key is no usable private key; it must be PEM text, and not encrypted."]
    now = now or datetime.datetime.now(tz=datetime.UTC)
    own, problems = chain[0], list(_weak(chain))
    if _public(own.public_key()) != _public(key.public_key()):
        problems.append("gateway_tls_certificate and gateway_tls_private_key do not match; take both of one order.")
    ends, begins = _moment(own, "not_valid_after"), _moment(own, "not_valid_before")
    if ends <= now:
        problems.append(f"gateway_tls_certificate expired at {ends:%Y-%m-%d %H:%M} UTC; renew it.")
    if begins > now:
        problems.append(
            f"gateway_tls_certificate is not valid before {begins:%Y-%m-%d %H:%M} UTC; wait, or mend the clock of the "
            "controller."
        )
    return problems


def _weak(chain: Sequence[Any]) -> Iterator[str]:
    """The server's own comes first. Who signed himself is trusted for his key, so that signature says nothing."""
    for number, certificate in enumerate(chain, start=1):
        which = "gateway_tls_certificate" if number == 1 else f"Certificate {number} in gateway_tls_certificate"
        try:
            key = certificate.public_key()
        except (UnsupportedAlgorithm, ValueError):
            key = None
        if isinstance(key, rsa.RSAPublicKey) and key.key_size < SMALLEST_RSA_BITS:
            yield (
                f"{which} has an RSA key of {key.key_size} bits, which OpenSSL refuses; take one whose key has "
                f"at least {SMALLEST_RSA_BITS}."
            )
        if isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < SMALLEST_CURVE_BITS:
            yield (
                f"{which} has a key on the curve {key.curve.name}, whose {key.key_size} bits OpenSSL refuses; take "
                "one of P-256 or P-384."
            )
        digest = WEAK_SIGNATURES.get(certificate.signature_algorithm_oid.dotted_string)
        if digest and certificate.issuer != certificate.subject:
            yield f"{which} is signed with {digest}, which OpenSSL refuses; have it signed anew, with SHA-256."


def _moment(certificate: Any, name: str) -> datetime.datetime:
    """In UTC; older versions of the library give it without a zone."""
    moment: datetime.datetime = getattr(certificate, f"{name}_utc", None) or getattr(certificate, name)
    return moment.replace(tzinfo=datetime.UTC)


def _public(key: Any) -> bytes:
    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


class FilterModule:
    """Make the filter known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"gateway_certificate_problems": gateway_certificate_problems}
