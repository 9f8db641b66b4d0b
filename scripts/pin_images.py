"""Resolve the full tag of every image that the roles use to its digest, where a registry answers.

Prints lines for group_vars. Exit status 1 when a registry couldn't be asked; nothing is guessed.
"""

from __future__ import annotations

import pathlib
import re
import sys

import requests
import yaml

MANIFESTS = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1",
        "docker.distribution.manifest.list.v2",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.v2",
    )
)
TIMEOUT_SECONDS = 20


def split(image: str) -> tuple[str, str, str]:
    """(registry's base URL, repository, tag) of an image's name, by Docker's rules."""
    name, tag = image.rsplit(":", 1)
    first, rest = (*name.split("/", 1), "")[:2]
    if rest and ("." in first or ":" in first or first == "localhost"):
        scheme = "http" if first.split(":")[0] in ("localhost", "127.0.0.1") else "https"
        return f"{scheme}://{first}", rest, tag
    return "https://registry-1.docker.io", name if rest else f"library/{name}", tag


def token(challenge: str) -> str:
    """A pull token from the server that a registry's 401 names."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    answer = requests.get(fields.pop("realm"), params=fields, timeout=TIMEOUT_SECONDS)
    answer.raise_for_status()
    return str(answer.json()["token"])


def digest(image: str) -> str:
    base, repository, tag = split(image)
    url, headers = f"{base}/v2/{repository}/manifests/{tag}", {"Accept": MANIFESTS}
    answer = requests.head(url, headers=headers, timeout=TIMEOUT_SECONDS)
    if answer.status_code == 401:
        headers["Authorization"] = "Bearer " + token(answer.headers["WWW-Authenticate"])
        answer = requests.head(url, headers=headers, timeout=TIMEOUT_SECONDS)
    answer.raise_for_status()
    return answer.headers["Docker-Content-Digest"]


def images(roles: pathlib.Path) -> dict[str, str]:
    """variable → image, for every role variable NAME_image whose default is a full tag."""
    found = {}
    for defaults in sorted(roles.glob("*/defaults/main.yml")):
        for key, value in (yaml.safe_load(defaults.read_text()) or {}).items():
            if key.endswith("_image") and isinstance(value, str) and re.fullmatch(r"[\w./:-]+:[\w.-]+", value):
                found[key] = value
    return found


def main(arguments: list[str]) -> int:
    wanted = dict(argument.split("=", 1) for argument in arguments) or images(
        pathlib.Path(__file__).parent.parent / "roles"
    )
    failed = False
    for variable, image in wanted.items():
        try:
            print(f"{variable}: {image}@{digest(image)}")
        except (requests.RequestException, KeyError) as error:
            failed = True
            print(f"# {variable}: {image} was not resolved: {type(error).__name__}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
