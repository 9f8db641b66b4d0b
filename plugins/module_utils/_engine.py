# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What every module does: look, plan, act unless in check mode, look again. Errors get their shape here, once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuops.fleet.plugins.module_utils import (
    _amounts,
    _arguments,
    _cached,
    _drift,
    _journal,
    _lifetime,
    _marker,
    _offers,
    _owned,
    _plan,
    _preflight,
    _provider,
    _readiness,
    _rent,
    _taken_back,
    _views,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._done import Done
from ansible_collections.gpuops.fleet.plugins.module_utils._models import (
    ENDS_ITSELF,
    Instance,
    Offer,
    Status,
    Wish,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._plan import Action
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    EngineError,
    NoCapacity,
    Provider,
    ProviderError,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._waiting import Waiting


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
    accounts = params.get("provider_settings")
    if wish.state == "absent":
        accounts = _owned.with_remembered(accounts, wish.deployment_id, params)
    else:
        accounts = _owned.with_machines(accounts, wish.deployment_id, [params])
    providers = load_providers(wish.look_at, accounts)
    return Run(providers, wish, check_mode).result()


def _with_what_lives(error: ProviderError, found: _rent.Found) -> ProviderError:
    """Nothing was done, but what is known to live, and to cost, is told with why there is no more."""
    for one in found.all:
        if not _provider.owned(one.provider):
            error.tell_first(_amounts.goes_on(one))
    error.result = {"changed": False, "actions": [], "instance": _views.optional(found.current)} | error.result
    return error


@dataclass
class Run:
    """One run for one instance."""

    providers: Mapping[str, Provider]
    wish: Wish
    check_mode: bool = False
    done: Done = field(default_factory=Done)
    unanswered: dict[str, ProviderError] = field(default_factory=dict)  # by provider; only while ending

    @property
    def _waiting(self) -> Waiting:
        return Waiting(self.wish, self.done)

    @property
    def _answered(self) -> dict[str, Provider]:
        return {name: provider for name, provider in self.providers.items() if name not in self.unanswered}

    def result(self) -> dict[str, Any]:
        found = self._find()
        self.done.warnings += _taken_back.unseen_told(
            _taken_back.unseen(self.wish.deployment_id, self._answered, [self.wish.name])
        )
        # With a younger one of that name alive, ending this one would make that one count, whatever it is like.
        wish = replace(self.wish, on_drift="fail") if found.surplus else self.wish
        plan = _plan.make_plan(found.current, wish, deviations=self._deviations(found))
        self._refuse(plan, found)
        if self.wish.state == "absent" and any(map(_provider.owned, self.wish.providers)):
            self.done.warnings.append(_owned.left_alone(self.wish.name))
        market = _offers.Market()
        if Action.CREATE in plan.actions:
            market = self._market()
            plan = _plan.make_plan(found.current, self.wish, market.offers[0])
        result: dict[str, Any] = {
            "diff": plan.diff,
            "offer": _views.offer(market.offers[0]) if market.offers else None,
            "refused_offers": market.refused,
            "warnings": [*self.done.warnings, *market.warnings],
            "surplus": [_views.instance(one) for one in found.surplus if not _provider.owned(one.provider)],
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
            self.done.tell(error, found.current, self.wish, market.warnings)
            raise
        return result | {
            "changed": bool(self.done.actions),
            "actions": self.done.actions,
            "instance": _views.optional(current),
            "readiness": report.as_result() if report else None,
            "failed_rentals": self.done.failed_rentals,
            "host_key_trust": self.done.host_key_trust,
            "warnings": [*market.warnings, *self.done.warnings],
        }

    def _find(self) -> _rent.Found:
        found, self.unanswered = _rent.find_reachable(self.providers, self.wish.deployment_id, self.wish.name)
        if self.unanswered and self.wish.state != "absent":
            # One may live where nobody answers, even an older one. What is known to live must be told all the same.
            error = next(iter(self.unanswered.values()))
            raise _with_what_lives(error, found)
        if self.wish.state == "absent":
            # An order to end it proves nothing: whoever gave it may have been killed, or have waited in vain.
            found = _rent.settle([*found.all, *found.terminating])
        found.current = _taken_back.told(found.current) if found.current else None
        return found

    def _deviations(self, found: _rent.Found) -> dict[str, tuple[Any, Any]]:
        """What its provider can put right about it."""
        current = found.current
        adjusting = _provider.adjusting(self.providers[current.provider]) if current else None
        if current is None or adjusting is None or self.wish.state in ("absent", "stopped"):
            return {}
        try:
            self.done.warnings += adjusting.untouchable(current.id)
            return adjusting.deviations(current.id)
        except ProviderError as error:
            raise _with_what_lives(error, found) from error

    def _need_answers(self) -> None:
        """What could be ended is ended by now; that nothing is left is not proven while a list is missing."""
        for error in self.unanswered.values():
            raise error

    def _lifetime(self, current: Instance | None, offers: list[Offer]) -> dict[str, str]:
        """Who ends what lives, or what would be rented."""
        if self.wish.state == "absent" or not (current or offers):
            return {}
        if current and not offers:
            return _views.lifetime(current.provider, current.marker.expiry_epoch_hours, current.ends_itself)
        expiry = _marker.expiry_epoch_hours(self.wish.lifetime_seconds)
        return _views.lifetime(offers[0].provider, expiry, ENDS_ITSELF in self.wish.env)

    def _refuse(self, plan: _plan.Plan, found: _rent.Found) -> None:
        current = found.current
        if plan.refused:
            raise EngineError(plan.refused, code="not_found", provider=", ".join(self.wish.providers))
        if current and Action.RENEW in plan.actions:
            _provider.renewing(self.providers[current.provider])
        if current and plan.differences:
            raise self._kept(plan, current, bool(found.surplus))

    def _kept(self, plan: _plan.Plan, current: Instance, has_surplus: bool) -> EngineError:
        """The drift of what lives on. It gets its time nevertheless: its end would be no mending of what differs."""
        extended = ""
        if Action.RENEW in plan.actions:
            if not self.check_mode:
                current = self._change(Action.RENEW, current)
            until = (plan.after or {}).get("expires_at")
            extended = f"'{self.wish.name}' {'would be' if self.check_mode else 'was'} extended to {until}."
        error = _drift.drift(self.wish, current, plan.differences, plan.diff)
        if extended:
            error.tell_first(extended)
        if has_surplus and self.wish.on_drift == "replace":
            error.fix = (
                "It is not replaced while another one of its name lives: end that with gpuops.fleet.sweep and "
                "fleet_confirm, then run again."
            )
        error.result |= {"changed": bool(self.done.actions), "actions": self.done.actions}
        return error

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
            cuda = f"CUDA {wish.minimum_cuda_version} for the image, " if wish.minimum_cuda_version else ""
            raise EngineError(
                f"No offer of {', '.join(wish.providers)} fits instance '{wish.name}' (gpu {wish.gpu or 'none'}, {cuda}"
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
        self.done.living = found.current
        if self.wish.state == "absent":
            self._end_all(found)
            self._note_gone(_rent.Found())
            self._need_answers()
            return None, None
        current = found.current
        if current is None and plan.actions:
            self.done.warnings += self._note_gone(found)
        for action in plan.actions:
            if action is Action.CREATE:
                current = self._rent(offers)
            elif current is not None:
                try:
                    current = self._change(action, current)
                except NoCapacity as refusal:
                    self._waiting.handle_refused_start(self.providers[current.provider], current, refusal)
                    current = self._rent(self._market().offers)
        for one in _rent.delete_old_surplus(self.providers, self.wish, found):
            self.done.actions += ["delete_surplus"] if "delete_surplus" not in self.done.actions else []
            self.done.warnings.append(_amounts.was_surplus(one, found.current))
        if current is None or self.wish.state == "stopped" or current.status is Status.STOPPED:
            return current, None
        return self._wait(current, offers)

    def _note_gone(self, found: _rent.Found) -> list[str]:
        wish, anew = self.wish, self.wish.state != "absent"
        return _taken_back.note_gone(
            wish.deployment_id, wish.name, self._answered, found.all, terminating=found.terminating, anew=anew
        )

    def _end_all(self, found: _rent.Found) -> None:
        """All of that name, also where one can't be ended: each goes on costing by itself."""
        failures: list[ProviderError] = []
        for one in found.all:
            try:
                if self.providers[one.provider].delete(one.id):
                    action = _plan.ending(one)
                    self.done.actions.append(action.value)
                    if action is Action.DELETE:
                        _journal.record("deleted", one)
            except ProviderError as error:
                if one.id not in error.message and not _provider.owned(one.provider):
                    error.tell_first(_amounts.goes_on(one))
                failures.append(error)
                continue
            if self.done.living is one:
                self.done.living = None
        if failures:
            for other in failures[1:]:
                failures[0].tell_first(other.message)
            raise failures[0]
        for name, provider in self.providers.items():
            if name not in self.unanswered and provider.clean_up(self.wish.deployment_id):
                self.done.actions.append("clean_up")

    def _rent(self, offers: list[Offer]) -> Instance:
        while True:
            current, offer = _rent.rent(self.providers, self.wish, self.done.untried(offers))
            self.done.tried.append(offer)
            self.done.actions.append(Action.CREATE.value)
            self.done.living = current
            if not self._turned_out_too_dear(current, offer):
                break
        if current.needs_start:
            self.done.living = current = self.providers[current.provider].start(current.id)
        return current

    def _turned_out_too_dear(self, current: Instance, offer: Offer) -> bool:
        """Whether it costs more than is allowed, although its offer said less; True only when it was given back."""
        price = current.running_price_per_hour_usd
        said = f"it costs {_amounts.price(price)} per hour; its offer said {_amounts.price(offer.price_per_hour_usd)}"
        if not _plan.is_too_dear(current, self.wish):
            if price and offer.price_per_hour_usd and price > offer.price_per_hour_usd * _plan.ROUNDING:
                where = f"{self.wish.name} at {current.provider} ({_amounts.short(current.id)})"
                self.done.warnings.append(f"{where}: {said}.")
            return False
        if self.wish.on_drift != "replace" or not self.done.may_try_another:
            raise _drift.drift(self.wish, current, _plan.find_differences(current, self.wish))
        evidence = _views.failed_rental(replace(current, price_per_hour_usd=price, detail=said), {}, "destroyed")
        self.providers[current.provider].delete(current.id)
        _journal.record("deleted", current, reason="too_dear")
        self.done.living = None
        self.done.actions.append(Action.DELETE.value)
        self.done.in_vain(current, evidence)
        return True

    def _change(self, action: Action, current: Instance) -> Instance:
        provider = self.providers[current.provider]
        expiry = self.wish.extend_to_epoch_hours
        if action is Action.RENEW and expiry is not None:
            self.done.living = current = _lifetime.renew(provider, current, expiry)
            self.done.actions.append(action.value)
            return current
        adjusting = _provider.adjusting(provider)
        if action is Action.ADJUST and adjusting:
            self.done.living = current = adjusting.adjust(current.id)
            self.done.actions.append(action.value)
            return current
        if action is Action.START:
            self.done.living = current = provider.start(current.id)
        elif action is Action.STOP:
            self.done.living = current = provider.stop(current.id)
        elif action is Action.DELETE:
            provider.delete(current.id)
            self.done.living = None
        self.done.actions.append(action.value)
        _journal.record({"start": "started", "stop": "stopped"}.get(action.value, "deleted"), current)
        return current

    def _wait(self, current: Instance, offers: list[Offer]) -> tuple[Instance, _readiness.Report | None]:
        wish = self.wish
        if wish.wait == "none":
            return current, None
        while True:
            provider = self.providers[current.provider]
            self.done.living, report = self._waiting.wait_for(provider, current)
            current = self.done.living
            if report.ready:
                return current, report
            self._waiting.handle_unready(provider, current, report)
            if not offers:
                offers = self._market().offers
            current = self._rent(offers)
