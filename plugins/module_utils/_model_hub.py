# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Asking a model hub for a model's own configuration and the sizes of its files, with the standard library alone.

All of it is over after one deadline, name resolution included. The token goes into a header of requests to the hub
itself, never into an address, an error or a redirect to somebody else.
"""

from __future__ import annotations

import http.client
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from ansible_collections.gpuops.fleet.plugins.module_utils import _model_table
from ansible_collections.gpuops.fleet.plugins.module_utils._model_facts import (
    CONFIG_FILE,
    INDEX_FILE,
    FactsError,
    from_config,
    index_bytes,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._model_types import Model

_LARGEST_ANSWER_BYTES = 64 * 1024 * 1024  # the index of the largest models has some 10 MiB
_USER_AGENT = "gpuops-fleet/0.1 (+https://github.com/gpuops/fleet)"


class HubUnreachable(Exception):
    """Nobody answered, or nothing sensible; the text is one sentence."""


class HubRefused(Exception):
    """The hub answered that it doesn't give this model; the text says why and what to do."""


def check_url(url: str, token: str) -> str:
    """Without a slash at its end; raises ValueError for an address that a token may not be sent to."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"hub_url '{url}' is not an address; write https://HOST, such as https://huggingface.co.")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("hub_url has more than a host and a path in it; a token stands in hub_token.")
    if token and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        raise ValueError(f"hub_url '{url}' is not encrypted, so hub_token is not sent there; write https://.")
    return url.rstrip("/")


def look_up(name: str, revision: str, hub_url: str, token: str, seconds: float) -> Model:
    """Raises ValueError (bad address), HubUnreachable or HubRefused."""
    asker = _Asker(check_url(hub_url, token), token, seconds)
    found: list[Model | Exception] = []

    def ask() -> None:
        try:
            found.append(_ask(asker, name, revision or "main"))
        except (HubUnreachable, HubRefused) as problem:
            found.append(problem)
        except FactsError as problem:
            found.append(HubUnreachable(str(problem)))
        except Exception as problem:  # in a thread nobody else would see it
            found.append(HubUnreachable(f"{asker.host} can't be understood ({type(problem).__name__})."))

    # A resolver that hangs, and an answer that comes in drops, know no time-out of a socket.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    if not found:
        raise HubUnreachable(f"{asker.host} didn't answer all within {seconds:g} s.")
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def _ask(asker: _Asker, name: str, revision: str) -> Model:
    where, at = quote(name), quote(revision, safe="")
    about = asker.json(name, f"/api/models/{where}/revision/{at}?blobs=true")
    sizes = _sizes(about)
    gated = bool(about.get("gated")) if isinstance(about, Mapping) else False
    weights = sum(size for file, size in sizes.items() if _is_weights(file))
    if not weights and any(file.lower().endswith(".gguf") for file in sizes):
        return Model(name, quantization="gguf", gated=gated, origin="hub")
    if not weights:
        weights = sum(
            size for file, size in sizes.items() if file.startswith("pytorch_model") and file.endswith(".bin")
        )
    if gated and not asker.token:
        # Its files are closed, but what it weighs was told.
        known = _model_table.find(name)
        return known or Model(name, weights_bytes=weights, gated=True, origin="hub")
    config = asker.json(name, f"/{where}/resolve/{at}/{CONFIG_FILE}")
    if INDEX_FILE in sizes:
        weights = index_bytes(name, asker.json(name, f"/{where}/resolve/{at}/{INDEX_FILE}"))
    return from_config(name, config, weights, "hub", gated)


def _sizes(about: Any) -> dict[str, int]:
    """Of the files in the repository, in bytes."""
    files = about.get("siblings") if isinstance(about, Mapping) else None
    if not isinstance(files, list):
        raise HubUnreachable("The hub's answer lists no files, so it is no model hub, or speaks another language.")
    return {
        str(file["rfilename"]): file["size"] if isinstance(file.get("size"), int) else 0
        for file in files
        if isinstance(file, Mapping) and "rfilename" in file
    }


def _is_weights(file: str) -> bool:
    """Mistral's repositories have all weights a second time, in consolidated files, which vLLM leaves out."""
    return file.endswith(".safetensors") and "/" not in file and not file.startswith("consolidated")


class _SameHostRedirect(urllib.request.HTTPRedirectHandler):
    """Takes the token along only to the same server; files may lie elsewhere, and nobody there needs it."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        token = req.unredirected_hdrs.get("Authorization")
        if following is not None and token and _server(newurl) == _server(req.full_url):
            following.add_unredirected_header("Authorization", token)
        return following


def _server(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


class _Asker:
    def __init__(self, url: str, token: str, seconds: float) -> None:
        self.token = token
        self.host = str(urlsplit(url).hostname)
        self._url, self._seconds = url, seconds
        self._opener = urllib.request.build_opener(_SameHostRedirect())

    def json(self, name: str, path: str) -> Any:
        request = urllib.request.Request(self._url + path, headers={"User-Agent": _USER_AGENT})  # noqa: S310 (checked)
        if self.token:
            request.add_unredirected_header("Authorization", f"Bearer {self.token}")
        try:
            with self._opener.open(request, timeout=self._seconds) as response:
                text = response.read(_LARGEST_ANSWER_BYTES + 1)
        except urllib.error.HTTPError as error:
            error.close()
            raise self._refusal(name, error.code) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            raise HubUnreachable(f"{self.host} can't be asked ({reason}).") from None
        if len(text) > _LARGEST_ANSWER_BYTES:
            raise HubUnreachable(f"{self.host} answers with more than any model's configuration has.")
        try:
            return json.loads(text)
        except ValueError:
            raise HubUnreachable(f"{self.host} answers with something else than JSON.") from None

    def _refusal(self, name: str, status: int) -> Exception:
        if status in (401, 403) and self.token:
            return HubRefused(
                f"{self.host} doesn't give {name} for this hub_token (status {status}). Accept the model's terms with "
                "the token's account, or take a token that may read it; or correct the name."
            )
        if status in (401, 403):
            return HubRefused(
                f"{self.host} doesn't give {name} without a token (status {status}): it is private, gated or not "
                "there. Correct the name, or set hub_token."
            )
        if status == 404:
            return HubRefused(f"{self.host} has no model {name} of that name and revision. Correct them.")
        return HubUnreachable(f"{self.host} answers with status {status}.")
