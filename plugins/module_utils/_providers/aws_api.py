# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Calls to AWS by boto3, with the same rules for repeating them as every other provider has.

boto3's own retries are off: it would repeat what may have taken effect. What is repeated is decided here: a question
after throttling, 5xx and a lost connection; an order only after throttling, which says that nothing was done. A lost
answer to an order is Ambiguous: look before trying again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, TypeVar

from ansible_collections.gpuops.fleet.plugins.module_utils import _accounts, _clock, _rate_limit, _transport
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    Ambiguous,
    AuthError,
    InvalidRequest,
    ProviderUnavailable,
    RateLimited,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import aws_wire as wire
from ansible_collections.gpuops.fleet.plugins.module_utils._rate_limit import Quota

T = TypeVar("T")

_QUOTA = Quota(40, 0.05)  # EC2 gives each account and region 100 questions at once, then 20 a second
_HURRIED_READ_SECONDS = 10.0
_THREADS = 8
_QUESTIONS = ("describe_", "get_")
_WHO_AM_I = "get_caller_identity"
_NEVER_SENT = ("EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError")
_NO_CREDENTIALS = (
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "ProfileNotFound",
    "TokenRetrievalError",
    "SSOError",
    "UnauthorizedSSOTokenError",
    "LoginRefreshRequired",
)
# Reading the description of EC2 takes longer than most calls: once for a process is enough.
_SHARED: dict[str, Any] = {}
_SHARED_LOCK = threading.Lock()


class Api:
    """The calls of one run. Credentials come from where boto3 looks for them, never from the settings."""

    def __init__(self, provider: str, settings: Mapping[str, Any]) -> None:
        self.provider = provider
        self._url = settings.get("api_url") or None  # else boto3 looks for AWS_ENDPOINT_URL itself
        self._given_regions = tuple(settings.get("regions") or ())
        self._limiter = _rate_limit.Limiter(_accounts.get(provider, settings), quota=_QUOTA)
        self._clients: dict[tuple[str, str, bool], Any] = {}
        self._lock = threading.Lock()
        self._session: Any = None
        self._regions: tuple[str, ...] = ()
        self._known_caller = False
        self._caller_lock = threading.Lock()

    @property
    def default_region(self) -> str:
        """Where to rent when nobody says where."""
        found = _accounts.aws_region({"regions": self._given_regions})
        if found is None:
            raise InvalidRequest(
                "Nobody says in which region of AWS to rent.",
                provider=self.provider,
                fix="Give the instance regions, or set provider_settings.aws.regions or AWS_REGION.",
            )
        return found

    def regions(self) -> tuple[str, ...]:
        """Where something of ours may live: those in the settings, else all that are enabled for the account."""
        if not self._regions:
            self._regions = self._given_regions
        if not self._regions:
            try:
                first = self.default_region
            except InvalidRequest:
                first = "us-east-1"  # only to ask which there are
            listed = self.call("ec2", first, "describe_regions")["Regions"]
            self._regions = tuple(sorted(one["RegionName"] for one in listed))
        return self._regions

    def everywhere(self, work: Callable[[str], T]) -> dict[str, T]:
        """What that comes to in each region; one that fails fails all."""
        regions = self.regions()
        with ThreadPoolExecutor(min(_THREADS, len(regions))) as pool:
            calls = {region: pool.submit(_in_limit(work, _clock.seconds_left()), region) for region in regions}
            return {region: call.result() for region, call in calls.items()}

    def pages(self, region: str, operation: str, key: str, **parameters: Any) -> list[dict[str, Any]]:
        """All pages of a list."""
        found: list[dict[str, Any]] = []
        token: dict[str, str] = {}
        while True:
            page = self.call("ec2", region, operation, **parameters, **token)
            found += page[key]
            if not page.get("NextToken"):
                return found
            token = {"NextToken": page["NextToken"]}

    def call(self, service: str, region: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """Send it and return the answer, or raise an error of the contract."""
        if operation != _WHO_AM_I:
            self._refuse_root(region)
        question = operation.startswith(_QUESTIONS)
        attempts = _transport.ATTEMPTS if _clock.seconds_left() is None else _transport.HURRIED_ATTEMPTS
        for attempt in range(attempts):
            last = attempt == attempts - 1
            self._limiter.wait("GET" if question else "POST", operation)
            try:
                return self._send(service, region, operation, parameters)
            except RateLimited:
                if last or not _transport.pause(_transport.pause_seconds(attempt)):
                    raise
            except ProviderUnavailable:
                if not question or last or not _transport.pause(_transport.pause_seconds(attempt)):
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _refuse_root(self, region: str) -> None:
        """Before anything else is asked or ordered, by whichever thread comes first."""
        with self._caller_lock:
            if self._known_caller:
                return
            if str(self.call("sts", region, _WHO_AM_I).get("Arn")).endswith(":root"):
                raise AuthError(
                    "These are the credentials of the account's root user, who may do everything, and can't be "
                    "limited to what a fleet needs.",
                    provider=self.provider,
                    fix="Use a user or a role with the policy of docs/providers/aws.md, and delete root's access keys.",
                )
            self._known_caller = True

    def _send(self, service: str, region: str, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """One attempt."""
        try:
            # Only when a call is made: an inventory from its cache needs no SDK.
            import boto3  # noqa: F401
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError as error:
            raise InvalidRequest(
                f"The Python library boto3, which provider aws needs, is missing here ({error.name}).",
                provider=self.provider,
                fix="Install boto3 for the Python that runs Ansible.",
            ) from error
        what, question = f"{service} {operation}", operation.startswith(_QUESTIONS)
        if _clock.seconds_left() == 0:
            raise self._unavailable("there was no time left to wait for it")
        try:
            answer: dict[str, Any] = getattr(self._client(service, region), operation)(**parameters)
        except ClientError as error:
            refusal = wire.refusal(error.response, operation)
            if isinstance(refusal, Ambiguous) and question:
                raise self._unavailable(f"{what} in {region} answers {refusal.status}") from error
            raise refusal from error
        except BotoCoreError as error:
            self._broken(error, what, region, question)
        except Exception as error:  # an answer that can't be read has no common class
            if type(error).__module__.partition(".")[0] not in ("botocore", "urllib3", "xml"):
                raise
            self._broken(error, what, region, question)
        return answer

    def _broken(self, error: Exception, what: str, region: str, question: bool) -> NoReturn:
        """No answer came, or none that can be read."""
        names = {one.__name__ for one in type(error).__mro__}
        if names.intersection(_NO_CREDENTIALS):
            raise AuthError(
                f"There are no credentials for AWS: {error}", provider=self.provider, fix=wire.KEY_FIX
            ) from error
        if names.intersection(("ParamValidationError", "NoRegionError", "InvalidRegionError", "DataNotFoundError")):
            raise InvalidRequest(
                f"AWS can't be asked this: {' '.join(str(error).split())[:300]}",
                provider=self.provider,
                fix="Correct what it names.",
            ) from error
        if question or names.intersection(_NEVER_SENT):
            raise self._unavailable(f"{what} in {region}: {type(error).__name__}") from error
        raise Ambiguous(
            f"{self.provider}: {what} in {region}: the answer was lost ({type(error).__name__}), so it may have taken "
            "effect.",
            provider=self.provider,
            fix="Run again: it looks for what was done first.",
        ) from error

    def _unavailable(self, what: str) -> ProviderUnavailable:
        return ProviderUnavailable(
            f"{self.provider} can't be asked: {what}.",
            provider=self.provider,
            fix="Run again; if it stays so, look at AWS's health page, at the region, and at api_url.",
        )

    def _client(self, service: str, region: str) -> Any:
        hurried = _clock.seconds_left() is not None
        with self._lock:
            client = self._clients.get((service, region, hurried))
            if client is None:
                client = self._clients[service, region, hurried] = self._make_client(service, region, hurried)
        return client

    def _make_client(self, service: str, region: str, hurried: bool) -> Any:
        import boto3
        import botocore.session
        from botocore.config import Config

        if self._session is None:
            core = botocore.session.get_session()
            with _SHARED_LOCK:
                loader = _SHARED.setdefault("loader", core.get_component("data_loader"))
            core.register_component("data_loader", loader)
            self._session = boto3.session.Session(botocore_session=core)
        config = Config(
            retries={"total_max_attempts": 1},
            connect_timeout=_transport.CONNECT_SECONDS,
            read_timeout=_HURRIED_READ_SECONDS if hurried else _transport.READ_SECONDS,
            max_pool_connections=_THREADS,
            user_agent_extra=_transport.USER_AGENT.partition(" ")[0],
        )
        return self._session.client(service, region_name=region, endpoint_url=self._url, config=config)


def _in_limit(work: Callable[[str], T], seconds: float | None) -> Callable[[str], T]:
    """The same work in another thread, which does not inherit the limit of this one."""

    def within(region: str) -> T:
        if seconds is None:
            return work(region)
        with _clock.limit(seconds):
            return work(region)

    return within
