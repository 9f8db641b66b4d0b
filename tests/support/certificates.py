# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates with their keys, valid when a test wants them to be."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)
CURVES: dict[str, ec.EllipticCurve] = {"P-192": ec.SECP192R1(), "P-256": ec.SECP256R1()}
# How an RSA signature names itself in DER, as long as the one with SHA-256.
RSA_SIGNATURES = {"SHA-256": "2a864886f70d01010b", "SHA-1": "2a864886f70d010105", "MD5": "2a864886f70d010104"}


def pair(begins: datetime.datetime, ends: datetime.datetime) -> tuple[str, str]:
    """A self-signed certificate for localhost and its key, as PEM text."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), begins, ends)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return (
        certificate.public_bytes(pem).decode(),
        key.private_bytes(pem, pkcs8, serialization.NoEncryption()).decode(),
    )


def signed(
    begins: datetime.datetime,
    ends: datetime.datetime,
    *,
    names: Sequence[str] = ("localhost",),
    key: str = "P-256",
    authority_key: str = "RSA-2048",
    digest: str = "SHA-256",
    authority_digest: str = "SHA-256",
) -> tuple[str, str]:
    """A certificate for these names with that of the private authority that signed it behind it, and its key, as PEM.

    A digest other than SHA-256 is only named: no library makes such a signature any more, and it would not verify.
    """
    own, authority = _key(key), _key(authority_key)
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a server")])
    root = (
        x509.CertificateBuilder(issuer, issuer, authority.public_key(), x509.random_serial_number(), begins, ends)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(authority, hashes.SHA256())
    )
    certificate = (
        x509.CertificateBuilder(issuer, subject, own.public_key(), x509.random_serial_number(), begins, ends)
        .add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
        .sign(authority, hashes.SHA256())
    )
    pkcs8 = serialization.PrivateFormat.PKCS8
    private = own.private_bytes(serialization.Encoding.PEM, pkcs8, serialization.NoEncryption())
    return _renamed(certificate, digest) + _renamed(root, authority_digest), private.decode()


def _key(kind: str) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    if kind in CURVES:
        return ec.generate_private_key(CURVES[kind])
    return rsa.generate_private_key(65537, int(kind.removeprefix("RSA-")))


def _name(name: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name)


def _renamed(certificate: x509.Certificate, digest: str) -> str:
    """As PEM, with another name of the digest in its signature."""
    before, after = (bytes.fromhex(RSA_SIGNATURES[name]) for name in ("SHA-256", digest))
    changed = certificate.public_bytes(serialization.Encoding.DER).replace(before, after)
    return x509.load_der_x509_certificate(changed).public_bytes(serialization.Encoding.PEM).decode()
