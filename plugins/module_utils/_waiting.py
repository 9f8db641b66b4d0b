# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""Waiting until what was rented is ready, and what happens to it when it isn't."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NoReturn

from ansible_collections.gpuops.fleet.plugins.module_utils import (
    _amounts,
    _budgets,
    _host_keys,
    _journal,
    _log_tail,
    _metrics,
    _provider,
    _readiness,
    _taken_back,
    _views,
    _watch,
    _ways,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._done import Done
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Instance, Runtime, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._plan import Action
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    EngineError,
    NoCapacity,
    Provider,
    ProviderError,
)


@dataclass
class Waiting:
    """For the rentals of one wish, one after another."""

    wish: Wish
    done: Done

    def wait_for(self, provider: Provider, current: Instance) -> tuple[Instance, _readiness.Report]:
        """One wait for one rental, with the host key that is on record."""
        wish, told_key = self.wish, current.host_key
        current = _host_keys.pinned(current)
        known_key = current.host_key
        budget = self._budget(current)
        current, report = _readiness.wait_until_ready(provider, current, wish.wait, budget, wish.ssh_private_key_file)
        _metrics.record(current, report)
        if not report.ready:
            return current, report
        again = provider.get(current.id) or current
        current = replace(again, host_key=again.host_key or current.host_key, tls_fingerprint=current.tls_fingerprint)
        if report.way:
            _ways.remember(current, report.way)
        current = _ways.ordered(current)
        if wish.wait == "endpoint":  # before that, it may not have begun
            current = _watch.once(provider, current)
            self.done.warnings += [doubt] if (doubt := _watch.doubt(current)) else []
        self.done.host_key_trust = None
        if known_key:
            told_by = _host_keys.GIVEN if _provider.owned(current.provider) else _host_keys.PROVIDER
            self.done.host_key_trust = told_by if told_key else _host_keys.JOURNAL
        elif current.host_key:
            self._trust_first_use(current, by_provider=again.host_key is not None)
        return current, report

    def _budget(self, current: Instance) -> _budgets.Budget:
        return _budgets.budget_for(
            current.provider,
            current.runtime,
            self.wish.wait,
            gpu=current.gpu,
            gpu_count=current.gpu_count,
            wait_timeout_seconds=self.wish.wait_timeout_seconds,
        )

    def _trust_first_use(self, current: Instance, by_provider: bool) -> None:
        _host_keys.remember(current)
        self.done.host_key_trust = _host_keys.PROVIDER if by_provider else _host_keys.FIRST_USE
        if not by_provider and Action.CREATE.value not in self.done.actions:
            self.done.warnings.append(_host_keys.first_use_warning(current))

    def handle_refused_start(self, provider: Provider, current: Instance, refusal: NoCapacity) -> None:
        """The machine of a bid is somebody else's now, and no wait ends that."""
        now = provider.get(current.id) or current
        if (current.outbid is False and now.outbid is False) or self.wish.wait == "none":
            raise refusal
        report = _readiness.refused_start(self._budget(current), refusal.message)
        self.handle_unready(provider, _taken_back.outbid(now), report)

    def handle_unready(self, provider: Provider, current: Instance, report: _readiness.Report) -> None:
        """Do what the user asked for; returns only when another machine shall be tried."""
        if _provider.owned(current.provider):
            self._give_up(current, report, None, "It is yours, so it is left as it is. Run again to go on waiting.")
        wanted = self.wish.on_unready
        if report.last_class in ("host_key_changed", "endpoint_other_certificate"):
            wanted = "keep"  # whoever answers there may not be our machine, so nothing is decided by what it says
        ended = {"keep": "kept", "stop": "stopped"}.get(wanted, "destroyed")
        evidence = _views.failed_rental(current, report.as_result(), ended)
        _journal.record("unready", current, evidence=evidence)
        # Before it may be gone, and never in the journal.
        evidence["log_tail"] = _log_tail.read(provider, current, self.wish)
        try:
            current = self._end_unready(provider, current, wanted)
        except ProviderError as error:
            evidence["ended"] = "unknown"
            self._give_up(current, report, evidence, f"It could not be {ended}: {error.message}", error)
        if wanted == "replace" and self.done.may_try_another:
            self.done.in_vain(current, evidence)
            return
        self._give_up(current, report, evidence, _amounts.after_unready(wanted, evidence))

    def _end_unready(self, provider: Provider, current: Instance, wanted: str) -> Instance:
        if wanted == "stop":
            current = provider.stop(current.id)
            self.done.actions.append(Action.STOP.value)
            _journal.record("stopped", current)
        elif wanted in ("destroy", "replace"):
            provider.delete(current.id)
            self.done.living = None
            self.done.actions.append(Action.DELETE.value)
            _journal.record("deleted", current)
        return current

    def _give_up(
        self,
        current: Instance,
        report: _readiness.Report,
        evidence: dict[str, Any] | None,
        outcome: str,
        cause: ProviderError | None = None,
    ) -> NoReturn:
        failed = self.done.failed_rentals
        before = f" Rented in vain before: {_amounts.in_vain(failed)}." if failed else ""
        if evidence:
            failed.append(evidence)
        tried = ", ".join(f"{one['address']} ({one['kind']})" for one in report.endpoints.values())
        classes = ", ".join(f"{kind} ({seen['count']} times)" for kind, seen in report.classes.items())
        logged = evidence if current.runtime is Runtime.CONTAINER else None
        log = _log_tail.told(current.provider, logged["log_tail"]) if logged else ""
        raise EngineError(
            f"Instance '{self.wish.name}' at {current.provider} ({_amounts.short(current.id)}) was not ready "
            f"({self.wish.wait}) after {report.seconds:.0f} s: {classes}; last: {report.last_message}. "
            f"{f'Tried {tried}. ' if tried else ''}{log}{outcome}{before}",
            code="not_ready",
            provider=current.provider,
            fix=f"TROUBLESHOOTING.md says what to do about '{report.last_class}'; the result has more under readiness.",
            result={
                "changed": bool(self.done.actions),
                "actions": self.done.actions,
                "instance": _views.instance(current),
                "readiness": report.as_result(),
                "failed_rentals": self.done.failed_rentals,
            },
        ) from cause
