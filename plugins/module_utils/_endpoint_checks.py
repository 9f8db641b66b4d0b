# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What the module endpoint_check proves of an endpoint, check by check, each with what was seen and what to do."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.gpuops.fleet.plugins.module_utils import _endpoint_options, _endpoint_routes
from ansible_collections.gpuops.fleet.plugins.module_utils._endpoint import TOO_MANY_REQUESTS, Answer, Endpoint
from ansible_collections.gpuops.fleet.plugins.module_utils._endpoint_options import Options

_REFUSED = (401, 403)
_WRONG_KEY = "not-the-key"
_PERCENTILES = (50, 95, 99)
# So many in a row, and the rest of the requests would only take time.
_MOST_FAILURES = 3
_SEE_LOG = "Look at the log of the server."
_RATE_FIX = "Ask later, raise max_wait_seconds, or give this client a key without a rate limit (unlimited: true)."
_OTHER_TASK_FIX = "Ask with the task that the server was started for (generate or embed), or look at its log."
_OPEN_FIX = "Put the gateway in front of it, or start it with the list of allowed routes."
_FAILED_ROUTE_FIX = "Look at the log of the server for what failed: it has to refuse who has no key before it can fail."
_CERTIFICATE_FIX = (
    "If nobody known signed the server's certificate, give it as ca_certificate or ca_certificate_file, or its "
    "tls_fingerprint; ask the server by a name that stands in its certificate."
)


def check_endpoint(params: Mapping[str, Any]) -> dict[str, Any]:
    """All checks, with what was seen; the caller decides what a failed one means. The key is nowhere in it."""
    found = _endpoint_options.read(params)
    names = (*(task.name for task in _TASKS.values()), "streaming", "latency", "open_routes")
    result: dict[str, Any] = {"checks": [], "models": [], **dict.fromkeys(names)}
    if not isinstance(found, Options):
        checks = [_check(mistake.option, False, mistake.sentence, "Correct it.") for mistake in found]
        return result | {"mistakes": [mistake.sentence for mistake in found], "checks": checks}
    checked: dict[str, Any] = _without(found.api_key, result | {"mistakes": []} | _Checker(found).run())
    return checked


class _Checker:
    """The checks of one endpoint in their order."""

    def __init__(self, options: Options) -> None:
        self.endpoint: Endpoint = options.endpoint
        self.key, self.values = options.api_key, options.values
        self.task = _TASKS[self.values["task"]]
        self.checks: list[dict[str, Any]] = []
        self.result: dict[str, Any] = {"checks": self.checks}

    def run(self) -> dict[str, Any]:
        health = self.endpoint.ask(self.values["health_path"])
        fix = _CERTIFICATE_FIX if health.bad_certificate else "Check that the service runs and its port is open."
        if health.status is not None and 300 <= health.status < 400:
            fix = "It sends elsewhere, which is not followed, as the key would go there; give that address."
        self._add("health", health.status == 200, str(health), _fix(health, fix))
        # Who doesn't answer this answers nothing else, and each try would take its time.
        if health.status is None:
            return self.result
        self._refusals()
        self._forbidden()
        self._models()
        answer, found = self._answered(health)
        if found is not None:
            if self.values["streaming"] and self.task.streams:
                self._stream()
            self._latency(answer.seconds)
        if self.values["probe_routes"]:
            self._routes(health)
        return self.result

    def _add(self, name: str, ok: bool, detail: str, fix: str) -> None:
        self.checks.append(_check(name, ok, detail, fix))

    def _refusals(self) -> None:
        """Of the list of models, and of what costs: nothing is computed for what is no question, if it is let in."""
        for name, wrong_key in (("refused_without_key", None), ("refused_with_wrong_key", _WRONG_KEY)):
            asked = {
                "/v1/models": self.endpoint.ask("/v1/models", wrong_key),
                self.task.path: self.endpoint.ask(self.task.path, wrong_key, body=[]),
            }
            wrong = [f"{path}: {answer}" for path, answer in asked.items() if answer.status not in _REFUSED]
            limited = next((answer for answer in asked.values() if answer.status == TOO_MANY_REQUESTS), None)
            fix = "Start the server with an API key; close the port until then."
            detail = "; ".join(wrong) or f"status {asked['/v1/models'].status}"
            self._add(name, not wrong, detail, _RATE_FIX if limited else fix)

    def _forbidden(self) -> None:
        """Routes of vLLM that need no key: not even with one are they for anybody outside."""
        found = {path: self.endpoint.ask(path, self.key) for path in self.values["forbidden_paths"]}
        open_paths = [f"{path}: {answer}" for path, answer in found.items() if answer.status != 404]
        if found:
            words = "; ".join(open_paths) or f"404 for {', '.join(found)}"
            self._add("forbidden_routes", not open_paths, words, "Start it with the list of allowed routes.")

    def _models(self) -> None:
        model, answer = self.values["model"], self.endpoint.ask("/v1/models", self.key)
        names = _model_names(answer)
        self.result["models"] = names
        if answer.status == 200:
            self._add("model", model in names, f"serves {names}", f"Serve '{model}', or name a served one.")
        else:
            fix = "Give the key of this server." if answer.status in _REFUSED else _SEE_LOG
            self._add("model", False, f"it does not name its models: {answer}", _fix(answer, fix))

    def _ask(self, **more: Any) -> Answer:
        question = {field: self.values[option] for field, option in self.task.question.items()}
        return self.endpoint.ask(self.task.path, self.key, question | more)

    def _answered(self, health: Answer) -> tuple[Answer, dict[str, Any] | None]:
        answer = self._ask()
        found, words = self.task.read(answer, self.values["model"])
        if found is None and health.status == 200:
            words = f"it answers {self.values['health_path']} but fails {self.task.name}s: {words}"
        self.result[self.task.name] = found
        fix = _OTHER_TASK_FIX if answer.status == 404 else _SEE_LOG
        self._add(self.task.name, found is not None, words, _fix(answer, fix))
        return answer, found

    def _stream(self) -> None:
        answer = self._ask(stream=True)
        wrong = _wrong_with_stream(answer)
        if not wrong:
            first = _milliseconds(answer.first_event_seconds or 0.0)
            self.result["streaming"] = {"chunks": len(answer.events or ()), "first_chunk_milliseconds": first}
        seen = f"{len(answer.events or ())} chunks and the end"
        self._add("streaming", not wrong, wrong or seen, _fix(answer, "Let no proxy change what the server streams."))

    def _latency(self, first_seconds: float) -> None:
        """Over so many answers, of which the first was asked before; one after the other."""
        wanted, seconds, failed, in_a_row = self.values["requests"], [first_seconds], 0, 0
        last, why = None, ""
        while len(seconds) + failed < wanted and in_a_row < _MOST_FAILURES:
            last = self._ask()
            found, words = self.task.read(last, self.values["model"])
            if found is None:
                failed, in_a_row, why = failed + 1, in_a_row + 1, words
            else:
                seconds.append(last.seconds)
                in_a_row = 0
        asked = len(seconds) + failed
        percentiles = {f"p{part}_milliseconds": _milliseconds(_percentile(seconds, part)) for part in _PERCENTILES}
        self.result["latency"] = {"requests": asked, "failed": failed, **percentiles}
        words = ", ".join(f"{name.partition('_')[0]} {value} ms" for name, value in percentiles.items())
        words = f"{words} over {len(seconds)} {self.task.name}s"
        if failed:
            rest = ", and the rest was not tried" if asked < wanted else ""
            words = f"{failed} of {wanted} {self.task.name}s failed{rest}, the last one: {why}; {words}"
        self._add("latency", not failed, words, _fix(last, _SEE_LOG))

    def _routes(self, health: Answer) -> None:
        if health.status != 200:
            self._add("open_routes", False, "not looked for, because the server is not well", "Mend that first.")
            return
        public = {self.values["health_path"], *self.values["public_paths"]}
        probed = _endpoint_routes.probe(self.endpoint, self.key, public)
        self.result["open_routes"] = [str(found[0]) for found in probed.open]
        words, fixes = f"{probed.asked} routes asked without a key", []
        if probed.absent:
            words += f", {probed.absent} not, as it limits the rate and they are not there even with the key"
        if probed.open:
            words += ", open: " + ", ".join(f"{route} ({status})" for route, status in probed.open)
            fixes.append(_OPEN_FIX)
        if probed.failed:
            words += ", failed with 5xx: " + ", ".join(f"{route} ({status})" for route, status in probed.failed)
            fixes.append(_FAILED_ROUTE_FIX)
        if probed.stopped:
            words += f", then stopped at {probed.stopped}"
            fixes = [_RATE_FIX] if "status 429" in probed.stopped else fixes or [_SEE_LOG]
        self._add("open_routes", not fixes, words, " ".join(fixes))


def _check(name: str, ok: bool, detail: str, fix: str) -> dict[str, Any]:
    return {"name": name, "ok": ok, "detail": detail, "fix": "" if ok else fix}


def _fix(answer: Answer | None, otherwise: str) -> str:
    return _RATE_FIX if answer is not None and answer.status == TOO_MANY_REQUESTS else otherwise


def _model_names(answer: Answer) -> list[str]:
    document = answer.json()
    entries = document.get("data", []) if isinstance(document, dict) else []
    return [str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry]


def _completion(answer: Answer, model: str) -> tuple[dict[str, Any] | None, str]:
    """What was completed, or why that was no completion."""
    document = answer.json()
    try:
        text, usage = document["choices"][0]["text"], document["usage"]
        tokens = int(usage["completion_tokens"])
        result = {"text": text, "prompt_tokens": int(usage["prompt_tokens"]), "completion_tokens": tokens}
    except (KeyError, IndexError, TypeError, ValueError):
        return None, str(answer)
    if answer.status != 200:
        return None, str(answer)
    if tokens < 1:
        return None, "the completion is empty"
    if document.get("model", model) != model:
        return None, f"model '{document['model']}' answered, not '{model}'"
    seconds = round(answer.seconds, 3)
    return result | {"latency_seconds": seconds}, f"{tokens} tokens in {seconds} s"


def _embedding(answer: Answer, model: str) -> tuple[dict[str, Any] | None, str]:
    """What a vector has, or why that was none."""
    document = answer.json()
    try:
        vector, prompt_tokens = document["data"][0]["embedding"], int(document["usage"]["prompt_tokens"])
    except (KeyError, IndexError, TypeError, ValueError):
        return None, str(answer)
    if answer.status != 200:
        return None, str(answer)
    if not isinstance(vector, list) or not vector:
        return None, "the embedding is empty, or no list of numbers"
    wrong = [one for one in vector if not _is_number(one)]
    if wrong:
        return None, f"{len(wrong)} of the embedding's {len(vector)} numbers are none, such as {str(wrong[0])[:50]}"
    if document.get("model", model) != model:
        return None, f"model '{document['model']}' answered, not '{model}'"
    seconds = round(answer.seconds, 3)
    result = {"dimensions": len(vector), "prompt_tokens": prompt_tokens, "latency_seconds": seconds}
    return result, f"{len(vector)} numbers in {seconds} s"


def _is_number(value: Any) -> bool:
    """What is none in the server's memory is null in its answer, or NaN where its JSON is Python's."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


@dataclass(frozen=True)
class _Task:
    """What a server is for. question: the fields of a request, and the option that each comes from."""

    name: str
    path: str
    question: Mapping[str, str]
    read: Callable[[Answer, str], tuple[dict[str, Any] | None, str]]
    streams: bool


_TASKS = {
    "generate": _Task(
        "completion",
        "/v1/completions",
        {"model": "model", "prompt": "prompt", "max_tokens": "max_tokens"},
        _completion,
        streams=True,
    ),
    "embed": _Task("embedding", "/v1/embeddings", {"model": "model", "input": "prompt"}, _embedding, streams=False),
}


def _wrong_with_stream(answer: Answer) -> str:
    """Empty when it is as it should be: parts of a completion as events, and the end."""
    if answer.status != 200:
        return str(answer)
    if answer.events is None:
        return "it answers all at once, not as a stream (text/event-stream)"
    parts = 0
    for event in answer.events:
        try:
            document = json.loads(event)
        except ValueError:
            return f"a part of the stream is no JSON: {event[:100]}"
        if not isinstance(document, dict) or "error" in document:
            return f"the stream says an error: {event[:200]}"
        parts += bool(document.get("choices"))
    if not parts:
        return "the stream has no part of a completion"
    return "" if answer.ended else f"the stream broke off after {parts} parts, without [DONE]"


def _percentile(seconds: Sequence[float], part: int) -> float:
    """The smallest value that so many per cent of all don't exceed."""
    return sorted(seconds)[math.ceil(len(seconds) * part / 100) - 1]


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _without(secret: str, value: Any) -> Any:
    """The same without the key, wherever a server repeats it: Ansible knows only a key that was an option's value."""
    if isinstance(value, str):
        return value.replace(secret, "********")
    if isinstance(value, dict):
        return {name: _without(secret, part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without(secret, part) for part in value]
    return value
