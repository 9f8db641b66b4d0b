# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Several fleet files of one deployment: what looks at all of it looks wherever one of them may have rented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible_collections.gpuops.fleet.plugins.filter.joined_provider_settings import joined_provider_settings
from support.local_play import ROOT, run_plays

KEY = "planted-key-31f7"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNPOD_API_KEY", "RUNPOD_REST_V2_URL", "GCP_PROJECT", "GOOGLE_CLOUD_PROJECT", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


def file(*providers: str, **settings: Any) -> dict[str, Any]:
    instances = [{"name": f"{name}-1", "providers": [name]} for name in providers]
    return {"plugin": "gpuops.fleet.fleet", "instances": instances, "provider_settings": settings}


@pytest.mark.parametrize(
    ("files", "joined"),
    [
        ([], {}),
        ([{"provider_settings": None}, {"instances": None}], {}),
        ([file(runpod=None)], {"runpod": {}}),
        ([file("ssh")], {}),  # it has no account, and the modules take no settings of it
        ([file("aws", aws={"regions": ["b-1"]})] * 2, {"aws": {"regions": ["b-1"]}}),
        ([file(aws={"regions": ["b-1"]}), file(aws={"regions": ["a-1", "b-1"]})], {"aws": {"regions": ["b-1", "a-1"]}}),
        ([file("aws", aws={"regions": "b-1, a-1"})], {"aws": {"regions": ["b-1", "a-1"]}}),
        # Whoever names none may have rented anywhere.
        ([file(aws={"regions": ["b-1"]}), file(aws={})], {"aws": {}}),
        ([file(aws={"regions": ["b-1"]}), file(aws={"regions": []})], {"aws": {}}),
        ([file(aws={"regions": ["b-1"]}), file("aws")], {"aws": {}}),
        ([file("aws"), file(aws={"regions": ["b-1"]})], {"aws": {}}),
        (
            [
                file(aws={"regions": ["b-1"]}),
                {"defaults": {"providers": "gcp, aws"}, "instances": [{"name": "a"}]},
            ],
            {"aws": {}},
        ),
        # Who uses it not at all has rented nothing there.
        ([file(aws={"regions": ["b-1"]}), file("runpod", vastai={})], {"aws": {"regions": ["b-1"]}, "vastai": {}}),
        (
            [
                file(aws={"regions": ["b-1"]}),
                {"defaults": {"providers": ["aws"]}, "instances": [{"name": "a", "providers": ["gcp"]}]},
            ],
            {"aws": {"regions": ["b-1"]}},
        ),
        (
            [file(aws={"subnet_ids": ["s-1"], "api_url": None}), file(aws={"security_group_ids": ["g-1"]})],
            {"aws": {"subnet_ids": ["s-1"], "security_group_ids": ["g-1"]}},
        ),
        ([file(runpod={"api_key": KEY}), file("runpod")], {"runpod": {"api_key": KEY}}),
        ([file(runpod={"api_key": KEY}), file("vastai")], {"runpod": {"api_key": KEY}}),
    ],
)
def test_what_they_say_together(files: list[dict[str, Any]], joined: dict[str, Any]) -> None:
    assert joined_provider_settings(files) == joined


@pytest.mark.parametrize(
    ("first", "second", "option"),
    [
        (file(runpod={"api_key": KEY}), file(runpod={"api_key": "another"}), "runpod.api_key"),
        (file(runpod={"api_url": "https://a"}), file(runpod={"api_url": "https://b"}), "runpod.api_url"),
        (file(runpod={"api_url": "https://a"}), file("runpod"), "runpod.api_url"),  # that is asked at its usual address
        (file(gcp={"project": "acme-a"}), file(gcp={"project": "acme-b"}), "gcp.project"),
        (file(local={"api_url": "ssh://a"}), file(local={"api_url": "ssh://b"}), "local.api_url"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_two_accounts_of_one_provider_are_refused(
    first: dict[str, Any], second: dict[str, Any], option: str, turned: bool
) -> None:
    with pytest.raises(
        AnsibleFilterError, match=rf"provider_settings\.{option} differs .*Write the same in all of them"
    ) as caught:
        joined_provider_settings([second, first] if turned else [first, second])
    assert KEY not in str(caught.value)


def test_what_a_file_leaves_out_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"api_key": KEY, "api_url": "https://a/"}
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    monkeypatch.setenv("RUNPOD_REST_V2_URL", "https://a")
    assert joined_provider_settings([file(runpod=said), file("runpod")]) == {"runpod": said}
    monkeypatch.setenv("RUNPOD_API_KEY", "another")
    with pytest.raises(AnsibleFilterError, match=r"runpod\.api_key differs"):
        joined_provider_settings([file(runpod=said), file("runpod")])
    monkeypatch.setenv("GCP_PROJECT", "acme-b")
    with pytest.raises(AnsibleFilterError, match=r"gcp\.project differs"):
        joined_provider_settings([file(gcp={"project": "acme-a"}), file("gcp")])


def play(tmp_path: Path, second: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
    """As the playbooks do it: every host reads its own file. Returns what was shown, and what was handed over."""
    # What is a template, and what can't be opened here, is only opened where it is needed.
    first = file("aws", aws={"regions": ["{{ 'b' ~ '-1' }}"]})
    first["instances"][0]["env"] = {"TOKEN": "{{ nobody_says_this }}"}
    for name, content in (("a", first), ("b", second)):
        (tmp_path / f"{name}.fleet.yml").write_text(yaml.safe_dump(content))
    plays = [
        {
            "hosts": "all",
            "gather_facts": False,
            "vars_files": [str(ROOT / "playbooks" / "vars" / "providers.yml")],
            "tasks": [
                {"ansible.builtin.include_vars": {"file": "{{ fleet_file }}", "name": "__fleet_file"}},
                {
                    "ansible.builtin.copy": {
                        "content": "{{ __deployment_provider_settings | to_json }}",
                        "dest": str(tmp_path / "joined.json"),
                        "mode": "0600",
                    },
                    "run_once": True,
                },
            ],
        }
    ]
    hosts = {f"host-{name}": {"fleet_file": str(tmp_path / f"{name[0]}.fleet.yml")} for name in ("a1", "a2", "b1")}
    done = run_plays(tmp_path, plays, hosts | {"host-exported": {"fleet_file": str(tmp_path / "a.fleet.yml")}})
    written = tmp_path / "joined.json"
    return " ".join((done.stdout + done.stderr).split()), json.loads(written.read_text()) if written.exists() else None


def test_the_playbooks_look_where_all_files_together_say(tmp_path: Path) -> None:
    shown, joined = play(tmp_path, file("aws", aws={"regions": ["a-1"]}, vastai=None))
    assert joined == {"aws": {"regions": ["b-1", "a-1"]}, "vastai": {}}, shown


def test_the_playbooks_stop_where_the_files_mean_two_accounts(tmp_path: Path) -> None:
    shown, joined = play(tmp_path, file("aws", aws={"api_url": "https://127.0.0.1:1"}))
    assert joined is None
    assert "provider_settings.aws.api_url differs between the fleet files of this deployment" in shown
