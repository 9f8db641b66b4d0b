# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""The container rental that serves what the role vllm would serve on a host: same settings, same command line.

Pure: who calls hands over the texts of the files. A rented container has no files of ours, so its entry point carries
them: a few hundred bytes of Python, packed, because Vast.ai takes no more than 4096 for arguments and entry point.
"""

from __future__ import annotations

import ast
import base64
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils._images import says_version
from ansible_collections.gpuops.fleet.plugins.module_utils._models import ENDS_ITSELF
from ansible_collections.gpuops.fleet.plugins.module_utils._vllm import (
    CACHE_DIRECTORY,
    Settings,
    SettingsError,
    build_arguments,
    build_environment,
)

# All that may be written in such a container, also where its user is not root.
FILES_DIRECTORY = f"{CACHE_DIRECTORY}/gpufleet"
MODEL_DIRECTORY = f"{CACHE_DIRECTORY}/model"
ROUTES_FILE, ENTRYPOINT_FILE, GENERATOR_FILE = "gpufleet_routes.py", "rental_entrypoint.py", "generate_model.py"
FILES = (ROUTES_FILE, ENTRYPOINT_FILE, GENERATOR_FILE)

_OF_HOSTS = ("memory_mib", "shared_memory_mib")  # limits that no rental has

_UNPACK = "import base64,sys,zlib;exec(zlib.decompress(base64.b64decode(sys.argv[1])))"
_KEY = re.compile(r"[!-~]{16,512}", re.ASCII)
_NEEDS_GPU = re.compile(r"(^|/)vllm-openai[:@]", re.ASCII)


def compute(
    values: Mapping[str, Any],
    files: Mapping[str, str],
    *,
    image: str,
    api_key: str,
    hub_token: str = "",
    image_has_routes: bool = False,
) -> dict[str, Any]:
    """Image, entry point, arguments, environment and ports, named as the options of an instance.

    tls_args are the arguments to add where the provider ends no TLS. Raises SettingsError with one sentence.
    """
    said = Settings.from_mapping({**values, "prefetch": False})  # there the server itself downloads
    settings = replace(said, model_directory=MODEL_DIRECTORY, files_directory=FILES_DIRECTORY, tls=False)
    if not api_key:
        raise SettingsError(
            "vllm_api_key is missing: a rented container has no host that could make and keep one. Set it in "
            "group_vars, from a vault or a credential, to 16 characters or more, such as `openssl rand -hex 20` prints."
        )
    if not _KEY.fullmatch(api_key):
        raise SettingsError(
            "vllm_api_key is not usable as an API key: it needs at least 16 letters, digits and punctuation marks, "
            "without spaces."
        )
    if settings.model_source == "directory":
        raise SettingsError(
            "vllm_model_source is directory, but a rented container has no directory of yours; use hub."
        )
    if not says_version(image):
        raise SettingsError(
            f"vllm_image is {image}, which doesn't say which version runs. Give a full version tag, such as "
            "vllm/vllm-openai:v0.32.0, or a digest."
        )
    if not settings.gpu and _NEEDS_GPU.search(image):
        raise SettingsError(f"vllm_image is {image}, which needs a GPU, and this rental has none: give it a gpu.")
    environment = build_environment(settings)
    if settings.model_source == "generated":
        environment["GPUFLEET_MODEL_GENERATOR"] = pack(files[GENERATOR_FILE])
    arguments = build_arguments(settings)
    request: dict[str, Any] = {
        "image": image,
        "entrypoint": None,
        "args": arguments,
        "tls_args": None,
        "public_env": environment,
        "secret_env": {"VLLM_API_KEY": api_key} | ({"HF_TOKEN": hub_token} if hub_token else {}),
        "ports": [{"port": settings.port, "protocol": "http"}],
        "computed_from": _said(said) | ({"image_has_routes": True} if image_has_routes else {}),
    }
    if not image_has_routes:
        environment[ENDS_ITSELF] = "1"
        request["entrypoint"] = ["python3", "-c", _UNPACK, entry_point(files)]
        request["args"] = ["vllm", "serve", *arguments]
        request["tls_args"] = build_arguments(replace(settings, tls=True))[len(arguments) :]
    return request


def entry_point(files: Mapping[str, str]) -> str:
    """The program that writes the list of routes and becomes the server, packed into one word."""
    routes = {ROUTES_FILE: _bare(files[ROUTES_FILE])}
    return pack(f"{_bare(files[ENTRYPOINT_FILE])}\nmain({routes!r}, sys.argv[2:])")


def _said(settings: Settings) -> dict[str, Any]:
    """The settings that are no defaults and have an effect here: what a new version sets otherwise, nobody said."""
    values = asdict(replace(settings, served_model_name=settings.served_model_name or settings.model))
    defaults = asdict(Settings(settings.model, served_model_name=settings.model))
    without_effect = (*_OF_HOSTS, "cpu_kv_cache_gib" if settings.gpu else "gpu_memory_utilization")
    told = {name: values[name] for name in values if values[name] != defaults[name] and name not in without_effect}
    if settings.extra_environment:
        told["extra_environment"] = dict(settings.extra_environment)  # whose order says nothing
    return {"model": settings.model} | told


def pack(text: str) -> str:
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def _bare(source: str) -> str:
    """A Python program without its comments, documentation and types of functions."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
