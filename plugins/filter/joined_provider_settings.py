# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What several fleet files of one deployment say of the providers together, for what looks at all of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.gpuops.fleet.plugins.module_utils import _accounts

DOCUMENTATION = r"""
name: joined_provider_settings
short_description: What several fleet files say of the providers together
version_added: 0.1.0
author: The gpuops.fleet contributors
description:
  - Joins the C(provider_settings) of the fleet files of one deployment, for what looks at all of it.
  - A provider's C(regions) are those of all files that use it; none, which means all, where one of them names none.
  - Fails where two files mean different accounts of one provider (C(api_key), C(api_url) or C(project), also from the
    environment), because one run looks into one account alone. Of any other setting the last file's holds.
options:
  _input:
    description: Fleet files as they were read. The same one may be there several times.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show where both files look
  ansible.builtin.debug:
    msg: "{{ [first, second] | gpuops.fleet.joined_provider_settings }}"
  vars:
    first: {provider_settings: {aws: {regions: [eu-west-1]}}}
    second: {provider_settings: {aws: {regions: [us-east-1]}}}
"""

RETURN = r"""
_value:
  description: The settings by provider.
  type: dict
"""


def joined_provider_settings(files: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By provider that any file names there, its settings; raises AnsibleFilterError where accounts differ."""
    # Every host brings the file that names it, so each file comes many times.
    told: list[dict[str, dict[str, Any]]] = []
    named: list[str] = []
    for file in files:
        settings = file.get("provider_settings") or {}
        # A provider that it uses without a word is asked as the environment says, and in all regions.
        all_of_file = {name: _said(settings.get(name) or {}) for name in [*settings, *_used(file)]}
        if all_of_file not in told:
            told.append(all_of_file)
            named += settings
    return {name: _joined(name, [one[name] for one in told if name in one]) for name in dict.fromkeys(named)}


def _said(settings: Mapping[str, Any]) -> dict[str, Any]:
    """null means the same as not written, and regions can be one text."""
    said = {option: value for option, value in settings.items() if value is not None}
    return {**said, "regions": _names(said["regions"])} if "regions" in said else said


def _names(value: str | Iterable[str]) -> list[str]:
    """Ansible takes a list also as one text."""
    return [name.strip() for name in value.split(",")] if isinstance(value, str) else list(value)


def _used(file: Mapping[str, Any]) -> Iterator[str]:
    """The providers that its instances name."""
    common = (file.get("defaults") or {}).get("providers")
    for instance in file.get("instances") or ():
        yield from _names(instance.get("providers") or common or ())


def _joined(provider: str, told: list[dict[str, Any]]) -> dict[str, Any]:
    for option, values in _accounts_of(provider, told):
        if len(set(values)) > 1:
            raise AnsibleFilterError(
                f"provider_settings.{provider}.{option} differs between the fleet files of this deployment, but only "
                f"one account of {provider} is looked into, so what lives in the other would be missed. Write the same "
                "in all of them; two accounts of a provider need two deployments."
            )
    joined = {option: value for one in told for option, value in one.items()}
    if all(one.get("regions") for one in told):
        joined["regions"] = list(dict.fromkeys(region for one in told for region in one["regions"]))
    else:
        joined.pop("regions", None)
    return joined


def _accounts_of(provider: str, told: list[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """By option that says which account is meant: what the files mean by it, where anybody says it."""
    api = _accounts.APIS.get(provider)
    if api is None:
        yield "api_url", [one["api_url"] for one in told if one.get("api_url")]
        return
    url = os.environ.get(api.url_variable) or api.url
    yield "api_url", [str(one.get("api_url") or url).rstrip("/") for one in told]
    key = os.environ.get(api.key_variable)
    yield "api_key", [str(one.get("api_key") or key).strip() for one in told if one.get("api_key") or key]
    if provider == "gcp":
        yield "project", [project for one in told if (project := _accounts.google_project(one))]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Any]:
        return {"joined_provider_settings": joined_provider_settings}
