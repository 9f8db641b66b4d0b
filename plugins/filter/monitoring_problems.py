# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter gpuops.fleet.monitoring_problems."""

from __future__ import annotations

DOCUMENTATION = r"""
name: monitoring_problems
author: The gpuops.fleet contributors (@gpuops)
version_added: 0.1.0
short_description: What can't work in the settings of the monitoring
description:
  - Says in one sentence each what can't work in the settings of the role P(gpuops.fleet.monitoring#role).
  - It needs no Prometheus and no network. No sentence holds a token or the address of a webhook.
options:
  _input:
    description: The settings, named as the variables of the role without their prefix C(monitoring_).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show what is wrong
  ansible.builtin.debug:
    msg: "{{ {'prometheus_port': 99999} | gpuops.fleet.monitoring_problems }}"
"""

RETURN = r"""
_value:
  description: Sentences; none where nothing is wrong.
  type: list
  elements: str
"""

import re
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _settings

# Name: smallest, largest, unit.
LIMITS: dict[str, tuple[int, int, str]] = {
    "interval_seconds": (1, 300, "seconds"),
    "down_after_seconds": (0, 86_400, "seconds"),
    "alert_after_seconds": (0, 86_400, "seconds"),
    "window_seconds": (10, 86_400, "seconds"),
    "disk_free_percent": (1, 99, "percent"),
    "memory_available_percent": (1, 99, "percent"),
    "container_memory_percent": (1, 100, "percent"),
    "error_rate_percent": (1, 100, "percent"),
    "latency_p99_seconds": (1, 3_600, "seconds"),
    "restarts_per_hour": (1, 1_000, "restarts"),
    "group_wait_seconds": (0, 3_600, "seconds"),
    "repeat_hours": (1, 720, "hours"),
    "retention_days": (1, 3_650, "days"),
    "retention_mib": (64, 16_777_216, "MiB"),
    "prometheus_memory_mib": (128, 1_048_576, "MiB"),
    "alertmanager_memory_mib": (48, 1_048_576, "MiB"),
    "exporter_memory_mib": (48, 1_048_576, "MiB"),
    "exporter_interval_seconds": (5, 300, "seconds"),
}
ADDRESSES = ("prometheus_address", "alertmanager_address", "exporter_address")
PORTS = ("prometheus_port", "alertmanager_port", "exporter_port")
# What the role measures of itself, under these names.
OWN_JOBS = ("prometheus", "alertmanager")
JOB = re.compile(r"[a-z][a-z0-9_]{0,31}")
HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
PATH = re.compile(r"/[A-Za-z0-9._~/-]*")
PREFIX = re.compile(r"[a-z][a-z0-9_]*[:_]")
FILE = re.compile(r"(/[A-Za-z0-9._@+-]+)+")
TOKEN = re.compile(r"[!-~]{1,512}")
TARGET_FIELDS = {"job", "host", "address", "port", "scheme", "path"}


def monitoring_problems(settings: Mapping[str, Any]) -> list[str]:
    """One sentence for each thing that can't work; settings that are missing are not looked at."""
    parts = (_targets, _relays, _webhooks, _listening, _numbers)
    return [sentence for part in parts for sentence in part(settings)]


def _targets(settings: Mapping[str, Any]) -> Iterator[str]:
    targets = settings.get("targets", [])
    for number, target in enumerate(targets, 1):
        where = (
            f"monitoring_targets: target {number} ({target.get('job', 'no job')} of {target.get('host', 'no host')})"
        )
        if unknown := sorted(set(target) - TARGET_FIELDS):
            yield f"{where} has {', '.join(unknown)}; a target has job, host, address, port, scheme and path."
        if not JOB.fullmatch(str(target.get("job", ""))) or target.get("job") in OWN_JOBS:
            yield (
                f"{where}: '{target.get('job', '')}' can't be a job; use up to 32 lower-case letters, digits or '_', "
                "but neither prometheus nor alertmanager, which are asked anyhow."
            )
        if not HOST.fullmatch(str(target.get("host", ""))):
            yield f"{where}: '{target.get('host', '')}' can't be the name of a host, as vllm-1 is."
        address = str(target.get("address", ""))
        if not _settings.is_host(address):
            yield f"{where}: the address is '{address}'; it must be a host name or an address."
        if _settings.port(target.get("port")) is None:
            yield f"{where}: the port is {target.get('port', 'missing')}; it must be between 1 and 65535."
        if target.get("scheme", "http") not in ("http", "https"):
            yield f"{where}: the scheme is '{target['scheme']}'; it must be http or https."
        if not PATH.fullmatch(str(target.get("path", "/metrics"))):
            yield f"{where}: the path is '{target['path']}'; it must begin with / and have no query, as /metrics."
    places = Counter(f"{one.get('address')}:{one.get('port')}{one.get('path', '/metrics')}" for one in targets)
    for place, times in places.items():
        if times > 1:
            yield f"monitoring_targets: {place} stands there {times} times; name it once."


def _relays(settings: Mapping[str, Any]) -> Iterator[str]:
    relays = settings.get("exporter_relays", [])
    for relay in relays:
        name = str(relay.get("name", ""))
        where = f"monitoring_exporter_relays: {name or 'a relay without a name'}"
        if not JOB.fullmatch(name):
            yield f"{where}: the name must be up to 32 lower-case letters, digits or '_'."
        if not _is_url(relay.get("url"), ("http",)):
            yield f"{where}: the url must be one of this host without user and query, as http://127.0.0.1:8404/metrics."
        if not PREFIX.fullmatch(str(relay.get("prefix", ""))):
            yield (
                f"{where}: the prefix is '{relay.get('prefix', '')}'; it must be how all of its metrics begin, and end "
                "in ':' or '_', as vllm: or haproxy_."
            )
        if relay.get("bearer_token_file") and not FILE.fullmatch(str(relay["bearer_token_file"])):
            yield f"{where}: bearer_token_file must be the absolute path of a file on the host."
    yield from _settings.repeated("monitoring_exporter_relays", "relays", (relay.get("name", "") for relay in relays))


def _webhooks(settings: Mapping[str, Any]) -> Iterator[str]:
    for number, webhook in enumerate(settings.get("webhooks", []), 1):
        where = f"monitoring_webhooks: webhook {number}"
        # Not the URL itself: many hold a secret in their path.
        if not _is_url(webhook.get("url"), ("http", "https"), query=True):
            yield f"{where} has no valid url; write it as https://alerts.example.org/hook, without a user."
        if webhook.get("bearer_token") and not TOKEN.fullmatch(str(webhook["bearer_token"])):
            yield f"{where} has a bearer_token that no header can carry; use up to 512 letters and marks."


def _is_url(value: Any, schemes: tuple[str, ...], query: bool = False) -> bool:
    text = str(value or "")
    try:
        parts = urllib.parse.urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    return (
        parts.scheme in schemes
        and _settings.is_host(host)
        and port != 0
        and "@" not in parts.netloc
        and not parts.fragment
        and (query or not parts.query)
        and re.fullmatch(r"[!-~]+", text) is not None
    )


def _listening(settings: Mapping[str, Any]) -> Iterator[str]:
    for option in (name for name in ADDRESSES if name in settings):
        yield from _settings.listening_address(f"monitoring_{option}", str(settings[option]), "or 0.0.0.0 for all")
    yield from _settings.ports("monitoring", settings, PORTS)


def _numbers(settings: Mapping[str, Any]) -> Iterator[str]:
    yield from _settings.numbers("monitoring", settings, LIMITS)
    interval, window = (
        _settings.within(settings.get(option), *LIMITS[option][:2]) for option in ("interval_seconds", "window_seconds")
    )
    if interval and window and window < 4 * interval:
        yield (
            f"monitoring_window_seconds is {window}; with monitoring_interval_seconds {interval} it must be at least "
            f"{4 * interval}, so that a rate can be computed also where a sample is missing."
        )


class FilterModule:
    """Make the filter known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"monitoring_problems": monitoring_problems}
