# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Provider `runpod`: pods, by REST v2. Pods are containers; what is rented is an image, not a machine.

The marker stands in the pod's name, where people see it, and in its environment, where renaming can't reach it. What
is said here about the API comes from its published v2 specification of 2026-08 and from its official clients.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _accounts, _provider_settings, _rate_limit
from ansible_collections.gpuops.fleet.plugins.module_utils._ending import Ending, Left
from ansible_collections.gpuops.fleet.plugins.module_utils._models import (
    Instance,
    Marker,
    Offer,
    Request,
    Status,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    CAPABILITIES,
    CONSOLES,
    Ambiguous,
    AuthError,
    InvalidRequest,
    ProviderError,
    ProviderUnavailable,
    not_ours,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import runpod_billing, runpod_secrets
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import runpod_wire as wire
from ansible_collections.gpuops.fleet.plugins.module_utils._transport import Answer, Transport

NAME = wire.PROVIDER
DEFAULT_PROXY_URL = "https://{id}-{port}.proxy.runpod.net"
CLOUDS = ("SECURE", "COMMUNITY")
PAGE_SIZE = 1000
CONSOLE = CONSOLES[NAME]
LOG_LINES, LOG_SECONDS = 100, 5.0
_ID = re.compile(r"[0-9A-Za-z]{1,64}", re.ASCII)


def make(settings: Mapping[str, Any]) -> RunpodProvider:
    """Called by _provider.load; talks to nobody yet."""
    return RunpodProvider(settings)


class RunpodProvider:
    """The provider contract over RunPod's REST API, version 2."""

    name = NAME
    capabilities = CAPABILITIES[NAME]

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._account = _accounts.get(NAME, settings)
        self._settings = settings
        self._proxy_url = settings.get("proxy_url") or DEFAULT_PROXY_URL
        self._connection: Transport | None = None

    @property
    def _api(self) -> Transport:
        if not self._account.key:
            raise AuthError(
                "There is no API key for RunPod.",
                provider=NAME,
                fix="Set RUNPOD_API_KEY, or provider_settings.runpod.api_key (from a vault).",
            )
        if self._connection is None:
            # Before anything is rented: what can't be filled in would hide what was.
            for problem in _provider_settings.check(NAME, self._settings):
                raise InvalidRequest(
                    f"provider_settings.runpod.{problem.field}: {problem}", provider=NAME, fix="Correct the input."
                )
            headers = {"Authorization": f"Bearer {self._account.key}"}
            limiter = _rate_limit.Limiter(self._account)
            self._connection = Transport(
                NAME, self._account.url, headers, wire.refusal, pace=limiter.wait, heed=limiter.heed
            )
        return self._connection

    # What can be rented ----------------------------------------------------------------------------------------

    def offers(self, query: Mapping[str, Any]) -> list[Offer]:
        """A type of GPU in one of the two clouds, and in each wanted data centre; RunPod sells nothing finer."""
        if query.get("runtime", "vm") != "container" or query.get("interruptible") or not query.get("gpu"):
            return []
        count = int(query.get("gpu_count") or 1)
        found = []

        def ask(cloud: str) -> list[dict[str, Any]]:
            asked = {"include": "AVAILABILITY", "product": "POD", "count": count, "cloud": cloud}
            if query.get("minimum_cuda_version"):
                asked["minCudaVersion"] = query["minimum_cuda_version"]
            return self._rows(self._api.call("GET", "/catalog/gpus", query=asked).body, "gpus")

        with ThreadPoolExecutor(max_workers=len(CLOUDS)) as pool:
            # A thread has its own context, and with it no limit of time unless it is given ours.
            answers = [(cloud, pool.submit(copy_context().run, ask, cloud)) for cloud in CLOUDS]
        for cloud, answer in answers:
            for entry in answer.result():
                if wire.canonical(entry) == query["gpu"]:
                    found += wire.offers_from(entry, cloud, count, query.get("regions") or [])
        return found

    # What was rented -------------------------------------------------------------------------------------------

    def create(self, request: Request) -> Instance:
        if not request.image:
            raise InvalidRequest(
                "RunPod rents a container, so it needs to know of which image.",
                provider=NAME,
                fix="Set image, such as 'vllm/vllm-openai:v0.32.0'.",
            )
        references = runpod_secrets.put(self._api, request.marker, request.secret_env)
        answer = self._api.call("POST", "/pods", body=wire.create_body(request, references))
        pod = wire.pod_of(answer.body)
        if pod is None:
            raise self._unknown("a create", answer)
        created = self._as_instance(pod)
        if created is None:  # no look could find it again, so asking once more would only rent another
            raise InvalidRequest(
                f"RunPod rented pod {pod['id']}, but shows it without our marker.",
                provider=NAME,
                fix=f"It costs money: end it yourself at {CONSOLE}.",
            )
        return created

    def get(self, instance_id: str) -> Instance | None:
        answer = self._api.call("GET", _path(instance_id), accept=(404,))
        if answer.status == 404:
            if self._is_gone(answer, instance_id):
                return None
            raise self._strange(f"404 for pod {instance_id}, which its list has")
        pod = wire.pod_of(answer.body)
        if pod is None or pod["id"] != instance_id:
            raise self._strange("something that is not the pod we asked for")
        return None if wire.is_over(pod) else self._must_be_ours(pod)

    def _is_gone(self, answer: Answer, instance_id: str) -> bool:
        """Whether a 404 is about the pod: one in other words may come from a gateway, and then the list decides."""
        return wire.is_not_found(answer) or instance_id not in [pod["id"] for pod in self._all_pods()]

    def list(self) -> list[Instance]:
        instances = [self._as_instance(pod) for pod in self._all_pods()]
        return [instance for instance in instances if instance]

    def _all_pods(self) -> wire.Rows:
        """Every pod of the account that is not over."""
        pods: wire.Rows = []
        cursor: str | None = None
        while True:
            query = {"limit": PAGE_SIZE} | ({"cursor": cursor} if cursor else {})
            body = self._api.call("GET", "/pods", query=query).body
            rows = self._rows(body, "pods")
            if not all(map(wire.pod_of, rows)):
                raise self._strange("a list with a pod that says not whose it is")
            pods += rows
            paging = body.get("pagination") or {}  # the first version of the specification had none
            if not isinstance(paging, dict):
                raise self._strange("a list that says not whether it is complete")
            if not paging.get("hasNextPage"):
                return [pod for pod in pods if not wire.is_over(pod)]
            if not paging.get("nextCursor") or paging["nextCursor"] == cursor:
                raise ProviderUnavailable(
                    "RunPod's list of pods has a next page, but no way to it, so it is incomplete.",
                    provider=NAME,
                    fix="Run again.",
                )
            cursor = paging["nextCursor"]

    def _rows(self, body: Any, name: str) -> wire.Rows:
        """What stands under that name, each with an id."""
        rows = body.get(name) if isinstance(body, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) and row.get("id") for row in rows):
            raise self._strange(f"no list of {name}")
        return rows

    def start(self, instance_id: str) -> Instance:
        return self._act(instance_id, "start")

    def stop(self, instance_id: str) -> Instance:
        return self._act(instance_id, "stop")

    def _act(self, instance_id: str, action: str) -> Instance:
        """409 means that this action makes no sense now: then it is as wanted already, or the answer says why not."""
        self.get(instance_id)  # what is not ours is not touched
        path = f"{_path(instance_id)}/action"
        answer = self._api.call("POST", path, body={"action": action}, accept=(409,))
        if answer.status != 409:
            pod = wire.pod_of(answer.body)
            if pod is None:
                raise self._unknown(f"a {action}", answer)
            return self._must_be_ours(pod)
        now = self.get(instance_id)
        wanted = (Status.STOPPED,) if action == "stop" else (Status.RUNNING, Status.PENDING)
        if now is None or now.status not in wanted:
            raise wire.refusal(answer)
        return now

    def delete(self, instance_id: str) -> bool:
        ours = self.get(instance_id)  # raises for what is not ours, which is not touched
        if ours is None:
            return False

        def order() -> str | None:
            answer = self._api.call("DELETE", _path(instance_id), accept=(404,))
            if answer.status != 404:
                return ""
            return None if self._is_gone(answer, instance_id) else wire.refusal(answer).message

        def look() -> Left | None:
            now = self.get(instance_id)
            return Left(now.price_per_hour_usd) if now else None

        known = Left(ours.price_per_hour_usd)
        if not Ending(NAME, f"pod {instance_id}", CONSOLE, order, look, known).finish():
            return False
        self._remove_secrets(ours.marker)
        return True

    def billed_usd(self, instance_ids: Collection[str], since_seconds: float) -> dict[str, float]:
        return runpod_billing.billed_usd(self._api, instance_ids, since_seconds)

    def log(self, instance_id: str, words: str) -> str:
        """What the pod and its machine printed last: only there a failing pull of its image can be seen."""
        events = self._api.stream(f"{_path(instance_id)}/logs", {"tail": LOG_LINES}, LOG_SECONDS)
        return "\n".join(line for line in map(wire.log_line, events) if line and words in line)

    def clean_up(self, deployment_id: str) -> bool:
        """The secrets that an interrupted run left, once no pod of the deployment is left that could want them."""
        left = runpod_secrets.of_deployment(self._api, deployment_id)
        if not left or any(one.marker.deployment_id == deployment_id for one in self.list()):
            return False
        return runpod_secrets.remove(self._api, left)

    def _remove_secrets(self, marker: Marker) -> None:
        """Those of an instance whose pod is gone, unless another pod has its name. What stays here, clean_up finds."""
        try:
            every = runpod_secrets.of_deployment(self._api, marker.deployment_id)
            mine = [one for one in every if one.instance == marker.name]
            ours = (marker.deployment_id, marker.name)
            if mine and not any((one.marker.deployment_id, one.marker.name) == ours for one in self.list()):
                runpod_secrets.remove(self._api, mine)
        except ProviderError:
            return

    def _must_be_ours(self, pod: Mapping[str, Any]) -> Instance:
        instance = self._as_instance(pod)
        if instance is None:
            raise not_ours(NAME, f"Pod {pod.get('id')}", "name and environment")
        return instance

    def _as_instance(self, pod: Mapping[str, Any]) -> Instance | None:
        return wire.instance_from(pod, self._proxy_url)

    def _strange(self, what: str) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"RunPod answered with {what}.", provider=NAME, fix="Run again; if it stays so, look at api_url."
        )

    def _unknown(self, order: str, answer: Answer) -> Ambiguous:
        return Ambiguous(
            f"RunPod answered {order} with neither yes nor no, so it may have taken effect.",
            provider=NAME,
            status=answer.status,
            request_id=answer.request_id,
            fix="Run again: it looks for what was done first.",
        )


def _path(instance_id: str) -> str:
    if not _ID.fullmatch(instance_id):  # what can't be there would be told as gone
        raise InvalidRequest(
            f"{instance_id!r} is no id of runpod: those are letters and digits.",
            provider=NAME,
            fix="Take one that instance_info shows.",
        )
    return f"/pods/{instance_id}"
