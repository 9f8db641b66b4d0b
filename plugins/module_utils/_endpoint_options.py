# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What the module endpoint_check is given: checked before anything is sent, with a sentence for each mistake."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.gpuops.fleet.plugins.module_utils._endpoint import Endpoint

DEFAULT_PORTS = {"https": 443, "http": 80}
_HOST_NAME = re.compile(
    r"(?=.{1,253}\.?\Z)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*\.?", re.I | re.ASCII
)
# What a template makes of an address that is not there.
_MISSING = {"none", "null", "undefined"}
_RANGES = {
    "timeout_seconds": (1, 3600),
    "max_tokens": (1, 100_000),
    "requests": (1, 10_000),
    "max_wait_seconds": (0, 3600),
}
_DEFAULTS: dict[str, Any] = {
    "scheme": "https",
    "task": "generate",
    "health_path": "/health",
    "prompt": "Hello",
    "max_tokens": 8,
    "requests": 1,
    "streaming": True,
    "probe_routes": True,
    "public_paths": [],
    "forbidden_paths": [],
    "timeout_seconds": 60,
    "max_wait_seconds": 90,
    "validate_certs": True,
    "use_proxy": False,
}


@dataclass(frozen=True)
class Mistake:
    """option: where it is; sentence: what, and what to write instead."""

    option: str
    sentence: str


@dataclass(frozen=True)
class Options:
    """Without mistakes. values: as they were given, with defaults."""

    endpoint: Endpoint
    api_key: str
    values: Mapping[str, Any]


def read(params: Mapping[str, Any]) -> Options | list[Mistake]:
    """What was given, or all that is wrong with it."""
    values = _DEFAULTS | {name: value for name, value in params.items() if value is not None}
    mistakes: list[Mistake] = []

    def attempt(option: str, look: Callable[..., str], *arguments: Any) -> str:
        try:
            return look(*arguments)
        except ValueError as error:
            mistakes.append(Mistake(option, str(error)))
            return ""

    url = attempt("url" if "url" in values else "address", find_url, values)
    api_key = attempt("api_key_file" if "api_key_file" in values else "api_key", find_key, values)
    certificate = attempt("ca_certificate", _find_certificate, values)
    attempt("model", _check_model, str(values.get("model", "")))
    for option in _RANGES:
        attempt(option, _check_range, option, values[option])
    for option in ("health_path", "forbidden_paths", "public_paths"):
        attempt(option, _check_paths, option, values[option])
    if mistakes:
        return mistakes
    try:
        endpoint = Endpoint(
            url,
            timeout_seconds=values["timeout_seconds"],
            validate_certs=values["validate_certs"],
            use_proxy=values["use_proxy"],
            tls_fingerprint=values.get("tls_fingerprint"),
            ca_certificate=certificate,
            max_wait_seconds=values["max_wait_seconds"],
        )
    except ValueError as error:
        return [Mistake("tls_fingerprint" if values.get("tls_fingerprint") else "ca_certificate", str(error))]
    return Options(endpoint, api_key, values)


def find_url(values: Mapping[str, Any]) -> str:
    """The base address, from url or from address, port and scheme; raises ValueError with a sentence."""
    if "url" not in values and "address" not in values:
        raise ValueError("Neither url nor address is given; write where the endpoint is.")
    if "url" in values and ("address" in values or "port" in values):
        raise ValueError("url holds address and port already; give either url, or address and port.")
    return _checked_url(str(values["url"])) if "url" in values else _built_url(values)


def _built_url(values: Mapping[str, Any]) -> str:
    address, scheme = str(values["address"]), str(values["scheme"])
    if not address.strip():
        raise ValueError("address is empty; write the host's name or its IP address.")
    if "://" in address:
        raise ValueError(f"address '{address}' is a whole URL; give it as url, or leave out all but the host.")
    _check_host(f"address '{address}'", address.strip("[]"))
    port = values.get("port", DEFAULT_PORTS[scheme])
    if not 1 <= int(port) <= 65535:
        raise ValueError(f"port is {port}, but ports are numbers from 1 to 65535.")
    host = f"[{address.strip('[]')}]" if ":" in address else address
    return f"{scheme}://{host}:{port}"


def _checked_url(url: str) -> str:
    if not url.strip():
        raise ValueError("url is empty; write http://HOST:PORT or https://HOST:PORT.")
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"url '{url}' is not an address; write http://… or https://….")
    if "@" in url:  # not repeated here, as it may hold a password
        raise ValueError("url has a user or a password in it; leave them out, and give the key as api_key.")
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError as error:
        raise ValueError(
            f"url '{url}' can't be read ({error}); write http://HOST:PORT or https://HOST:PORT."
        ) from error
    if not host:
        raise ValueError(f"url '{url}' names no host; write {parts.scheme}://HOST:PORT.")
    _check_host(f"url '{url}'", host)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError(f"url '{url}' has a port that is none; ports are numbers from 1 to 65535.")
    if parts.query or parts.fragment:
        raise ValueError(f"url '{url}' has something after '?' or '#'; give the base address alone.")
    if parts.path.rstrip("/").endswith("/v1"):
        raise ValueError(f"url '{url}' ends with /v1; leave that out, because it is added here.")
    if not re.fullmatch(r"[!-~]+", url):
        raise ValueError(f"url '{url}' has a space or another letter that no address has; leave it out.")
    return url


def _check_host(where: str, host: str) -> None:
    if host.lower() in _MISSING:
        raise ValueError(f"{where} names host '{host}', which means that the address was missing where it was made.")
    if re.fullmatch(r"[0-9.]+|.*:.*", host):
        try:
            ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            raise ValueError(f"{where} names host '{host}', which is no IP address.") from None
    elif not _HOST_NAME.fullmatch(host):
        raise ValueError(f"{where} names host '{host}', which is neither a name nor an IP address.")


def find_key(values: Mapping[str, Any]) -> str:
    """The key, from api_key or api_key_file; raises ValueError with a sentence, in which the key never is."""
    given, file = values.get("api_key"), values.get("api_key_file")
    if given is not None and file is not None:
        raise ValueError("api_key and api_key_file are both given; give one of them.")
    if given is None and file is None:
        raise ValueError("Neither api_key nor api_key_file is given; without a key nothing can be proven.")
    if file is None:
        key, where = str(given), "api_key"
    else:
        key, where = _text_of("api_key_file", str(file)).strip(), f"api_key_file '{file}'"
    if not key:
        raise ValueError(f"{where} is empty; write the key of this client into it.")
    if not re.fullmatch(r"[!-~]+", key):
        raise ValueError(
            f"{where} holds a space, a line end or another letter that a key can't have; give the key alone."
        )
    return key


def _find_certificate(values: Mapping[str, Any]) -> str:
    text, file = values.get("ca_certificate"), values.get("ca_certificate_file")
    if text is not None and file is not None:
        raise ValueError("ca_certificate and ca_certificate_file are both given; give one of them.")
    if file is not None:
        text = _text_of("ca_certificate_file", str(file))
    if text is not None and "-----BEGIN CERTIFICATE-----" not in text:
        where = f"ca_certificate_file '{file}'" if file is not None else "ca_certificate"
        raise ValueError(
            f"{where} holds no certificate; it is PEM text, which begins with -----BEGIN CERTIFICATE-----."
        )
    return text or ""


def _text_of(option: str, path: str) -> str:
    place = os.path.expanduser(path)
    try:
        with open(place, encoding="utf-8") as file:
            return file.read(1024 * 1024)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise ValueError(f"{option} '{path}' can't be read: {why}.") from error


def _check_model(model: str) -> str:
    if not model.strip():
        raise ValueError("model is empty; write the name of the model that must be served, such as Qwen/Qwen3-0.6B.")
    if "://" in model:
        raise ValueError(f"model '{model}' is an address; write the model's name, such as Qwen/Qwen3-0.6B.")
    if not re.fullmatch(r"[!-~]{1,256}", model):
        raise ValueError(
            f"model '{model[:256]}' has a space or another letter that no model's name has, or is too long."
        )
    return model


def _check_range(option: str, value: int) -> str:
    lowest, highest = _RANGES[option]
    if not lowest <= value <= highest:
        raise ValueError(f"{option} is {value}; write a number from {lowest} to {highest}.")
    return option


def _check_paths(option: str, given: str | list[str]) -> str:
    for path in [given] if isinstance(given, str) else given:
        if not re.fullmatch(r"/[!-~]*", path):
            raise ValueError(f"{option} has '{path}', but a route begins with '/' and has no spaces.")
    return option
