# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""How the local provider talks to the Docker Engine: the client, its errors, and names and labels of our things."""

from __future__ import annotations

import functools
import io
import tarfile
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ansible_collections.gpuops.fleet.plugins.module_utils import _clock
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import InvalidRequest, ProviderUnavailable

if TYPE_CHECKING:
    from docker import APIClient

PROVIDER = "local"
SET_UP = "Run 'make setup' in a checkout, or: ansible-playbook gpuops.fleet.local_provider"

LABEL_KIND = "gpuops.fleet"  # on everything that this provider makes: instance, resolver, network
LABEL_MARKER = "gpuops.fleet.marker"  # only on instances: the whole marker
LABEL_OWNER = "gpuops.fleet.owner"
LABEL_DEPLOYMENT = "gpuops.fleet.deployment"  # on all that belongs to a deployment, also its network and resolver
LABEL_NAME = "gpuops.fleet.name"
LABEL_SIZE = "gpuops.fleet.size"
LABEL_IMAGE = "gpuops.fleet.image"  # as asked for; the engine shows a digest once the tag moved on

CALL_TIMEOUT_SECONDS = 120
_ARCHIVE_ATTEMPTS = 6


def container_name(deployment_id: str, name: str) -> str:
    """Unique for each instance: two hyphens occur in no deployment id and no name."""
    return f"gpufleet-{deployment_id}--{name}"


def connect(settings: Mapping[str, Any]) -> APIClient:
    """A client of the engine that api_url or DOCKER_HOST names, else of the one on this machine."""
    try:
        # Only here, so that who doesn't use this provider needs no library.
        import docker
        import docker.utils
    except ImportError as error:
        raise ProviderUnavailable(
            f"The Python library 'docker' is missing on the controller ({error}).",
            provider=PROVIDER,
            fix=f"{SET_UP} (or 'pip install docker' for the Python that runs Ansible).",
        ) from error
    options = docker.utils.kwargs_from_env()
    if settings.get("api_url"):
        options["base_url"] = settings["api_url"]
    try:
        return docker.APIClient(version="auto", timeout=CALL_TIMEOUT_SECONDS, **options)
    except docker.errors.DockerException as error:
        raise ProviderUnavailable(
            f"No Docker Engine answers at {options.get('base_url', 'the default socket')}: {error}",
            provider=PROVIDER,
            fix=f"{SET_UP}; or set DOCKER_HOST to an engine that runs.",
        ) from error


P = ParamSpec("P")
R = TypeVar("R")


def translated(function: Callable[P, R]) -> Callable[P, R]:
    """Turn what the Docker library raises into errors of the provider contract."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise _as_provider_error(error) from error

    return call


def _as_provider_error(error: Exception) -> Exception:
    try:
        import docker.errors
        import requests.exceptions
    except ImportError:
        return error
    if isinstance(error, docker.errors.APIError):
        status = error.status_code
        message = f"The Docker Engine refused: {error.explanation or error}"
        if status is not None and 400 <= status < 500:
            return InvalidRequest(message, provider=PROVIDER, status=status, fix="Correct the option named there.")
        return ProviderUnavailable(
            message, provider=PROVIDER, status=status, fix="Look at the log of the Docker Engine."
        )
    if isinstance(error, (docker.errors.DockerException, requests.exceptions.RequestException)):
        return ProviderUnavailable(
            f"The Docker Engine did not answer: {error}", provider=PROVIDER, fix="Check that it runs, then run again."
        )
    return error


def is_status(error: Exception, status: int, text: str = "") -> bool:
    """Whether the engine refused with that HTTP status and, if given, that text."""
    return getattr(error, "status_code", None) == status and text in str(getattr(error, "explanation", "") or "")


def is_unanswered(error: Exception) -> bool:
    """Whether the call was sent and no answer came: it may have taken effect."""
    import requests.exceptions

    return isinstance(error, requests.exceptions.RequestException) and error.response is None


def patiently(call: Callable[[], R], hopeless: Callable[[], bool]) -> R:
    """Read or write a container's files, again where the engine lost sight of them.

    It answers 500 ("no such file or directory") when several archives of one container are on their way at once, and
    when the container is being removed; hopeless() tells the second case from the first.
    """
    for attempt in range(_ARCHIVE_ATTEMPTS):
        try:
            return call()
        except Exception as error:
            if not is_status(error, 500) or attempt == _ARCHIVE_ATTEMPTS - 1 or hopeless():
                raise
            _clock.sleep(0.2 * (attempt + 1))
    raise AssertionError("unreachable: the last attempt returns or raises")


def archive(files: Mapping[str, str]) -> bytes:
    """A tar archive of small text files, as the engine takes it; their folders are created with it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, text in files.items():
            data = text.encode()
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), 0o644
            folder = tarfile.TarInfo(path.rpartition("/")[0])
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def first_file(chunks: Iterable[bytes]) -> str:
    """The text of the one file in an archive that the engine returned; empty where it stopped before the file's end.

    The engine answers 200 before it packs: of a host that is removed at that moment comes an empty or a cut archive.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
            first = tar.next()
            member = tar.extractfile(first) if first else None
            return member.read().decode() if member else ""
    except tarfile.ReadError:
        return ""
