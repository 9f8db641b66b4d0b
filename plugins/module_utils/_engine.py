# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What every module does: look, plan, act unless in check mode, look again. Errors get their shape here, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuops.fleet.plugins.module_utils import (
    _arguments,
    _budgets,
    _cached,
    _host_keys,
    _journal,
    _lifetime,
    _marker,
    _metrics,
    _offers,
    _plan,
    _preflight,
    _provider,
    _readiness,
    _rent,
    _views,
    _ways,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._models import ENDS_ITSELF, Instance, Offer, Status, Wish
from ansible_collections.gpuops.fleet.plugins.module_utils._plan import Action
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import EngineError, Provider, ProviderError

_REPLACEMENTS = 3  # how many machines on_unready: replace may try beyond the first


def run_module(module: AnsibleModule, work: Callable[[], dict[str, Any]]) -> NoReturn:
    """Run the work and exit with its result: the one place that turns an error into a failure."""
    try:
        result = work()
    except ProviderError as error:
        fix = f" {error.fix}" if error.fix else ""
        module.fail_json(msg=f"{error.message}{fix}", failure=error.as_failure(), **error.result)
    except ValueError as error:
        failure = {"provider": None, "code": "invalid_input", "status": None, "request_id": None}
        module.fail_json(msg=str(error), failure={**failure, "message": str(error), "fix": "Correct the input."})
    for sentence in result.pop("warnings", []):
        module.warn(sentence)
    module.exit_json(**result)
    raise AssertionError("unreachable: exit_json ends the process")


def load_providers(names: tuple[str, ...] | list[str], settings: Mapping[str, Any] | None) -> dict[str, Provider]:
    """The providers of those names, each with its own settings only."""
    own = {name: (settings or {}).get(name) or {} for name in names}
    return {name: _cached.watched(_provider.load(name, own[name]), own[name]) for name in names}


def run_instance(params: Mapping[str, Any], check_mode: bool) -> dict[str, Any]:
    """The instance module: refuse what can be refused for nothing, then bring the instance to the wanted state."""
    settings = {key: value for key, value in params.items() if key in _arguments.INSTANCE_SPEC}
    problems = _preflight.check_deployment_id(params["deployment_id"])
    if params["state"] == "absent":
        # Ending must work with whatever is left of the settings: only what says whose it is has to be right.
        problems += [one for one in _preflight.check_instance(settings) if one.field in ("name", "providers")]
    else:
        problems += _preflight.check_instance(settings) + _preflight.check_state(settings, params["state"])
        problems += _preflight.check_extend(settings, params.get("extend"))
    if problems:
        raise ValueError(" ".join(str(problem) for problem in problems))
    wish = _arguments.wish_from(params)
    providers = load_providers(wish.look_at, params.get("provider_settings"))
    return Run(providers, wish, check_mode).result()


@dataclass
class Run:
    """One run for one instance."""

    providers: Mapping[str, Provider]
    wish: Wish
    check_mode: bool = False
    actions: list[str] = field(default_factory=list)
    tried: list[Offer] = field(default_factory=list)
    failed_rentals: list[dict[str, Any]] = field(default_factory=list)
    bad_machines: set[tuple[str, str | None]] = field(default_factory=set)  # (provider, machine_id)
    host_key_trust: str | None = None
    warnings: list[str] = field(default_factory=list)
    living: Instance | None = None  # what there is of this instance, as far as we know
    unanswered: dict[str, ProviderError] = field(default_factory=dict)  # by provider; only while ending

    def result(self) -> dict[str, Any]:
        found = self._find()
        plan = _plan.make_plan(found.current, self.wish)
        self._refuse(plan, found.current)
        market = _offers.Market()
        if Action.CREATE in plan.actions:
            market = self._market()
            plan = _plan.make_plan(found.current, self.wish, market.offers[0])
        result: dict[str, Any] = {
            "diff": plan.diff,
            "offer": _views.offer(market.offers[0]) if market.offers else None,
            "refused_offers": market.refused,
            "warnings": market.warnings,
            "surplus": [_views.instance(one) for one in found.surplus],
        }
        result |= self._lifetime(found.current, market.offers)
        if self.check_mode:
            self._need_answers()
            instance = found.current if self.wish.state != "absent" else None
            actions = [action.value for action in plan.actions]
            return result | {"changed": plan.changed, "actions": actions, "instance": _views.optional(instance)}
        try:
            current, report = self._apply(plan, found, market.offers)
        except ProviderError as error:
            self._complete(error, found.current)
            raise
        return result | {
            "changed": bool(self.actions),
            "actions": self.actions,
            "instance": _views.optional(current),
            "readiness": report.as_result() if report else None,
            "failed_rentals": self.failed_rentals,
            "host_key_trust": self.host_key_trust,
            "warnings": [*market.warnings, *self.warnings],
        }

    def _find(self) -> _rent.Found:
        if self.wish.state != "absent":
            return _rent.find(self.providers, self.wish.deployment_id, self.wish.name)
        found, self.unanswered = _rent.find_reachable(self.providers, self.wish.deployment_id, self.wish.name)
        return found

    def _need_answers(self) -> None:
        """What could be ended is ended by now; that nothing is left is not proven while a list is missing."""
        for error in self.unanswered.values():
            raise error

    def _complete(self, error: ProviderError, before: Instance | None) -> None:
        """What was done, and what it costs, must not be lost with an error that knows nothing of it."""
        if "failed_rentals" not in error.result:
            for sentence in self._costs(before):
                error.tell_first(sentence)
        done = {
            "changed": bool(self.actions),
            "actions": self.actions,
            "instance": _views.optional(self.living),
            "failed_rentals": self.failed_rentals,
        }
        error.result = done | error.result

    def _costs(self, before: Instance | None) -> Iterator[str]:
        """What this run has paid for without a success, and what it goes on paying for."""
        if self.living and {Action.CREATE.value, Action.START.value} & set(self.actions):
            yield (
                f"Instance '{self.wish.name}' lives at {self.living.provider} ({self.living.id[:20]}) and goes on "
                f"costing {_price(self.living.price_per_hour_usd)} per hour."
            )
        if self.failed_rentals:
            yield f"Rented in vain: {_in_vain(self.failed_rentals)}."
        elif before and not self.living and self.wish.state != "absent" and Action.DELETE.value in self.actions:
            gone = f"{before.provider} {before.id[:20]}"
            yield f"{gone} differed and was destroyed, and no other is known to be in its place."

    def _lifetime(self, current: Instance | None, offers: list[Offer]) -> dict[str, str]:
        """Who ends what lives, or what would be rented."""
        if self.wish.state == "absent" or not (current or offers):
            return {}
        if current and not offers:
            return _views.lifetime(current.provider, current.marker.expiry_epoch_hours, current.ends_itself)
        expiry = _marker.expiry_epoch_hours(self.wish.lifetime_seconds)
        return _views.lifetime(offers[0].provider, expiry, ENDS_ITSELF in self.wish.env)

    def _refuse(self, plan: _plan.Plan, current: Instance | None) -> None:
        name = self.wish.name
        if plan.refused:
            raise EngineError(plan.refused, code="not_found", provider=", ".join(self.wish.providers))
        if plan.differences and current:
            differences = "; ".join(str(difference) for difference in plan.differences)
            raise EngineError(
                f"Instance '{name}' exists and differs from what you want: {differences}.",
                code="drift",
                provider=current.provider,
                fix="Change the wish back, or set on_drift: replace, which destroys this machine and rents another.",
                result={"instance": _views.instance(current), "differences": [vars(one) for one in plan.differences]},
            )
        if Action.RENEW in plan.actions and current:
            _provider.renewing(self.providers[current.provider])

    def _market(self) -> _offers.Market:
        wish = self.wish
        market = _offers.survey(
            {name: self.providers[name] for name in wish.providers},
            _offers.query_from(wish),
            _cached.OFFERS if self.check_mode else _cached.RENTING,
            prefer_order=wish.prefer_order,
            max_price_per_hour_usd=wish.max_price_per_hour_usd,
            price_per_hour_usd=wish.price_per_hour_usd,
        )
        if not market.offers:
            if market.errors and not market.refused:
                raise next(iter(market.errors.values()))
            raise EngineError(
                f"No offer of {', '.join(wish.providers)} fits instance '{wish.name}' (gpu {wish.gpu or 'none'}, "
                f"size {wish.instance_type or 'any'}; {len(market.refused)} refused for their price).",
                code="no_capacity",
                provider=", ".join(wish.providers),
                fix="Allow more: another gpu or instance_type, more providers, or a higher max_price_per_hour_usd.",
                result={"refused_offers": market.refused},
            )
        return market

    def _apply(
        self, plan: _plan.Plan, found: _rent.Found, offers: list[Offer]
    ) -> tuple[Instance | None, _readiness.Report | None]:
        self.living = found.current
        if self.wish.state == "absent":
            self._end_all(found)
            self._need_answers()
            return None, None
        current = found.current
        for action in plan.actions:
            if action is Action.CREATE:
                current = self._rent(offers)
            elif current is not None:
                current = self._change(action, current)
        if _rent.delete_old_surplus(self.providers, self.wish, found):
            self.actions.append("delete_surplus")
        if current is None or self.wish.state == "stopped" or current.status is Status.STOPPED:
            return current, None
        return self._wait(current, offers)

    def _end_all(self, found: _rent.Found) -> None:
        for one in found.all:
            if self.providers[one.provider].delete(one.id):
                self.actions.append(Action.DELETE.value)
                _journal.record("deleted", one)
            self.living = None  # the one that counts is the first
        for name, provider in self.providers.items():
            if name not in self.unanswered and provider.clean_up(self.wish.deployment_id):
                self.actions.append("clean_up")

    def _rent(self, offers: list[Offer]) -> Instance:
        untried = [
            one for one in offers if one not in self.tried and (one.provider, one.machine_id) not in self.bad_machines
        ]
        current, offer = _rent.rent(self.providers, self.wish, untried)
        self.tried.append(offer)
        self.actions.append(Action.CREATE.value)
        self.living = current
        if current.needs_start:
            self.living = current = self.providers[current.provider].start(current.id)
        return current

    def _change(self, action: Action, current: Instance) -> Instance:
        provider = self.providers[current.provider]
        expiry = self.wish.extend_to_epoch_hours
        if action is Action.RENEW and expiry is not None:
            self.living = current = _lifetime.renew(provider, current, expiry)
            self.actions.append(action.value)
            return current
        if action is Action.START:
            self.living = current = provider.start(current.id)
        elif action is Action.STOP:
            self.living = current = provider.stop(current.id)
        elif action is Action.DELETE:
            provider.delete(current.id)
            self.living = None
        self.actions.append(action.value)
        _journal.record({"start": "started", "stop": "stopped"}.get(action.value, "deleted"), current)
        return current

    def _wait(self, current: Instance, offers: list[Offer]) -> tuple[Instance, _readiness.Report | None]:
        wish = self.wish
        if wish.wait == "none":
            return current, None
        while True:
            provider = self.providers[current.provider]
            self.living, report = self._wait_for(provider, current)
            current = self.living
            if report.ready:
                return current, report
            self._handle_unready(provider, current, report)
            if not offers:
                offers = self._market().offers
            current = self._rent(offers)

    def _wait_for(self, provider: Provider, current: Instance) -> tuple[Instance, _readiness.Report]:
        """One wait for one rental, with the host key that is on record."""
        wish, told_key = self.wish, current.host_key
        current = _host_keys.pinned(current)
        known_key = current.host_key
        budget = _budgets.budget_for(
            current.provider,
            current.runtime,
            wish.wait,
            gpu=current.gpu,
            gpu_count=current.gpu_count,
            wait_timeout_seconds=wish.wait_timeout_seconds,
        )
        current, report = _readiness.wait_until_ready(provider, current, wish.wait, budget, wish.ssh_private_key_file)
        _metrics.record(current, report)
        if not report.ready:
            return current, report
        again = provider.get(current.id) or current
        current = replace(again, host_key=again.host_key or current.host_key, tls_fingerprint=current.tls_fingerprint)
        if report.way:
            _ways.remember(current, report.way)
        current = _ways.ordered(current)
        self.host_key_trust = None
        if known_key:
            self.host_key_trust = _host_keys.PROVIDER if told_key else _host_keys.JOURNAL
        elif current.host_key:
            self._trust_first_use(current, by_provider=again.host_key is not None)
        return current, report

    def _trust_first_use(self, current: Instance, by_provider: bool) -> None:
        _host_keys.remember(current)
        self.host_key_trust = _host_keys.PROVIDER if by_provider else _host_keys.FIRST_USE
        if not by_provider and Action.CREATE.value not in self.actions:
            self.warnings.append(_host_keys.first_use_warning(current))

    def _handle_unready(self, provider: Provider, current: Instance, report: _readiness.Report) -> None:
        """Do what the user asked for; returns only when another machine shall be tried."""
        wanted = self.wish.on_unready
        if report.last_class in ("host_key_changed", "endpoint_other_certificate"):
            wanted = "keep"  # whoever answers there may not be our machine, so nothing is decided by what it says
        ended = {"keep": "kept", "stop": "stopped"}.get(wanted, "destroyed")
        evidence = _views.failed_rental(current, report.as_result(), ended)
        _journal.record("unready", current, evidence=evidence)
        try:
            current = self._end_unready(provider, current, wanted)
        except ProviderError as error:
            evidence["ended"] = "unknown"
            self._give_up(current, report, evidence, f"It could not be {ended}: {error.message}", error)
        if wanted == "replace" and len(self.failed_rentals) < _REPLACEMENTS:
            self.failed_rentals.append(evidence)
            if current.machine_id:
                self.bad_machines.add((current.provider, current.machine_id))
            return
        self._give_up(current, report, evidence, _after_unready(wanted, evidence))

    def _end_unready(self, provider: Provider, current: Instance, wanted: str) -> Instance:
        if wanted == "stop":
            current = provider.stop(current.id)
            self.actions.append(Action.STOP.value)
        elif wanted in ("destroy", "replace"):
            provider.delete(current.id)
            self.living = None
            self.actions.append(Action.DELETE.value)
            _journal.record("deleted", current)
        return current

    def _give_up(
        self,
        current: Instance,
        report: _readiness.Report,
        evidence: dict[str, Any],
        outcome: str,
        cause: ProviderError | None = None,
    ) -> NoReturn:
        before = f" Rented in vain before: {_in_vain(self.failed_rentals)}." if self.failed_rentals else ""
        self.failed_rentals.append(evidence)
        tried = ", ".join(f"{one['address']} ({one['kind']})" for one in report.endpoints.values())
        classes = ", ".join(f"{kind} ({seen['count']} times)" for kind, seen in report.classes.items())
        raise EngineError(
            f"Instance '{self.wish.name}' at {current.provider} ({current.id[:20]}) was not ready ({self.wish.wait}) "
            f"after {report.seconds:.0f} s: {classes}; last: {report.last_message}. "
            f"{f'Tried {tried}. ' if tried else ''}{outcome}{before}",
            code="not_ready",
            provider=current.provider,
            fix=f"TROUBLESHOOTING.md says what to do about '{report.last_class}'; the result has more under readiness.",
            result={
                "changed": bool(self.actions),
                "actions": self.actions,
                "instance": _views.instance(current),
                "readiness": report.as_result(),
                "failed_rentals": self.failed_rentals,
            },
        ) from cause


def _in_vain(failed_rentals: list[dict[str, Any]]) -> str:
    """Which rentals those were, what became of them, and what they cost."""
    return ", ".join(
        f"{one['provider']} {one['id'][:20]} ({one['ended']}, {_amount(one['cost_usd'])})" for one in failed_rentals
    )


def _amount(cost_usd: float | None) -> str:
    return "an unknown amount" if cost_usd is None else f"{cost_usd:.4f} USD"


def _price(price_per_hour_usd: float | None) -> str:
    return "an unknown price" if price_per_hour_usd is None else f"{price_per_hour_usd:g} USD"


def _after_unready(wanted: str, evidence: Mapping[str, Any]) -> str:
    """What became of it, and what that costs."""
    so_far, per_hour = _amount(evidence["cost_usd"]), _price(evidence["price_per_hour_usd"])
    return {
        "keep": f"It is kept: it has cost {so_far} so far and goes on costing {per_hour} per hour. Run again to go on "
        "waiting.",
        "stop": f"It was stopped; it has cost {so_far}, and its provider may still ask for its disk.",
    }.get(wanted, f"It was destroyed; it has cost {so_far}.")
