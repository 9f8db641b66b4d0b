# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Settings from the environment, and secrets from files: a secret in the environment shows up in `docker inspect`."""

from __future__ import annotations

import os
import pathlib
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from gpuops_telemetry.events import EVENT_TYPES


class SettingsError(Exception):
    """A setting that is missing or wrong; the text says which, and what to do."""


class Environment:
    """Typed reading of environment variables."""

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        self._variables = os.environ if variables is None else variables

    def text(self, name: str, default: str | None = None) -> str:
        value = self._variables.get(name, "").strip() or default
        if value is None:
            raise SettingsError(f"{name} is not set: set it in the service's .env file.")
        return value

    def number(self, name: str, default: float, minimum: float, maximum: float) -> float:
        text = self.text(name, str(default))
        try:
            value = float(text)
        except ValueError:
            raise SettingsError(f"{name} is {text!r}, which is not a number.") from None
        if not minimum <= value <= maximum:
            raise SettingsError(f"{name} is {text}, which is not between {minimum:g} and {maximum:g}.")
        return value

    def whole_number(self, name: str, default: int, minimum: int, maximum: int) -> int:
        value = self.number(name, default, minimum, maximum)
        if value != int(value):
            raise SettingsError(f"{name} is {value:g}, which is not a whole number.")
        return int(value)

    def optional_number(self, name: str, minimum: float, maximum: float) -> float | None:
        return self.number(name, minimum, minimum, maximum) if self._variables.get(name, "").strip() else None

    def secret(self, name: str) -> str:
        """The content of the file that NAME_FILE names; an empty string when it names none."""
        path = self._variables.get(f"{name}_FILE", "").strip()
        if not path:
            return ""
        try:
            return pathlib.Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingsError(
                f"{name}_FILE: {path} can't be read ({error.strerror}); mount it as a secret."
            ) from None


@dataclass(frozen=True, kw_only=True)
class KafkaSettings:
    """How to reach the broker."""

    bootstrap_servers: str
    client_id: str

    @classmethod
    def from_environment(cls, environment: Environment) -> KafkaSettings:
        return cls(
            bootstrap_servers=environment.text("KAFKA_BOOTSTRAP_SERVERS"),
            client_id=environment.text("CLIENT_ID", socket.gethostname()),
        )


@dataclass(frozen=True, kw_only=True)
class MongoSettings:
    """How to reach the database. The password is kept out of repr(), so no log or traceback can show it."""

    host: str
    port: int
    database: str
    username: str
    password: str
    authentication_database: str

    def __repr__(self) -> str:
        return f"MongoSettings({self.username}@{self.host}:{self.port}/{self.database})"

    @classmethod
    def from_environment(cls, environment: Environment) -> MongoSettings:
        database = environment.text("MONGO_DATABASE", "gpuops")
        return cls(
            host=environment.text("MONGO_HOST"),
            port=environment.whole_number("MONGO_PORT", 27017, 1, 65535),
            database=database,
            username=environment.text("MONGO_USERNAME", ""),
            password=environment.secret("MONGO_PASSWORD"),
            authentication_database=environment.text("MONGO_AUTHENTICATION_DATABASE", database),
        )


@dataclass(frozen=True, kw_only=True)
class ProcessorSettings:
    """What the processor does."""

    kafka: KafkaSettings
    mongo: MongoSettings
    topics: tuple[str, ...]
    group_id: str
    port: int
    batch_size: int
    window_seconds: int
    price_per_hour_usd: float | None  # null: the sum of what the hosts' latest GPU samples say

    @classmethod
    def from_environment(cls, environment: Environment) -> ProcessorSettings:
        topics = tuple(environment.text("TOPICS", ",".join(EVENT_TYPES)).replace(",", " ").split())
        unknown = [topic for topic in topics if topic not in EVENT_TYPES]
        if unknown:
            raise SettingsError(f"TOPICS: no schema for {', '.join(unknown)}; known are {', '.join(EVENT_TYPES)}.")
        return cls(
            kafka=KafkaSettings.from_environment(environment),
            mongo=MongoSettings.from_environment(environment),
            topics=topics,
            group_id=environment.text("GROUP_ID", "processor"),
            port=environment.whole_number("PORT", 8080, 1, 65535),
            batch_size=environment.whole_number("BATCH_SIZE", 2000, 1, 100_000),
            window_seconds=environment.whole_number("WINDOW_SECONDS", 60, 1, 86_400),
            price_per_hour_usd=environment.optional_number("PRICE_PER_HOUR_USD", 0, 1e6),
        )


@dataclass(frozen=True, kw_only=True)
class ProducerSettings:
    """What the producer does."""

    kafka: KafkaSettings
    host: str
    vllm_url: str
    vllm_host: str
    vllm_api_key: str
    vllm_tls_fingerprint: str
    model: str
    max_tokens: int
    request_timeout_seconds: float
    interval_seconds: float
    gpu_sample_interval_seconds: float
    gpu_index: int
    gpu_source: str
    price_per_hour_usd: float | None
    port: int

    def __repr__(self) -> str:
        return f"ProducerSettings({self.host} -> {self.vllm_url}, {self.model})"

    @classmethod
    def from_environment(cls, environment: Environment) -> ProducerSettings:
        gpu_source = environment.text("GPU_SOURCE", "auto")
        if gpu_source not in ("auto", "nvidia-smi", "simulated"):
            raise SettingsError(f"GPU_SOURCE is {gpu_source!r}; use auto, nvidia-smi or simulated.")
        url = environment.text("VLLM_URL").rstrip("/")
        if not url.startswith(("http://", "https://")):
            raise SettingsError(f"VLLM_URL is {url!r}; it must begin with http:// or https://.")
        pinned = environment.text("VLLM_TLS_FINGERPRINT", "")
        if pinned and not (url.startswith("https://") and re.fullmatch(r"sha256:[0-9a-f]{64}", pinned)):
            raise SettingsError("VLLM_TLS_FINGERPRINT is 'sha256:' and 64 digits of 0-9a-f, with a VLLM_URL of https.")
        host = environment.text("FLEET_HOST", socket.gethostname())
        return cls(
            kafka=KafkaSettings.from_environment(environment),
            host=host,
            vllm_url=url,
            vllm_host=environment.text("VLLM_HOST", host),
            vllm_api_key=environment.secret("VLLM_API_KEY"),
            vllm_tls_fingerprint=pinned,
            model=environment.text("MODEL"),
            max_tokens=environment.whole_number("MAX_TOKENS", 64, 1, 100_000),
            request_timeout_seconds=environment.number("REQUEST_TIMEOUT_SECONDS", 120, 1, 3600),
            interval_seconds=environment.number("INTERVAL_SECONDS", 2, 0.01, 86_400),
            gpu_sample_interval_seconds=environment.number("GPU_SAMPLE_INTERVAL_SECONDS", 5, 0.1, 86_400),
            gpu_index=environment.whole_number("GPU_INDEX", 0, 0, 1023),
            gpu_source=gpu_source,
            price_per_hour_usd=environment.optional_number("PRICE_PER_HOUR_USD", 0, 1e6),
            port=environment.whole_number("PORT", 9404, 1, 65535),
        )
