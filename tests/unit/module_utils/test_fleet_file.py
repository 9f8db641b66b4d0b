"""Every mistake in a fleet file is one sentence with its line, its field and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _fleet_file
from ansible_collections.gpuops.fleet.plugins.module_utils._fleet_mistakes import FleetFileError

GOOD = """\
---
plugin: gpuops.fleet.fleet
deployment_id: acme-llm
defaults:
  providers: [local]
  disk_gib: 20
  ports: [{port: 9, protocol: tcp}, {port: 10}]
instances:
  - name: vllm-1
    roles: vllm
    ports:
      - {port: 8000, protocol: http}
  - name: kafka-1
    roles: [kafka]
    disk_gib: 30
provider_settings:
  local: {subnet_pool: 10.0.0.0/16}
"""


def problems(text: str) -> list[str]:
    with pytest.raises(FleetFileError) as caught:
        _fleet_file.parse(text, "fleet.yml")
    return str(caught.value).splitlines()


def one_problem(text: str) -> str:
    found = problems(text)
    assert len(found) == 1, found
    return found[0]


def fleet_with(lines: str, head: str = "deployment_id: acme-llm") -> str:
    """A file in which the first of these lines is line 4."""
    return f"plugin: gpuops.fleet.fleet\n{head}\ninstances:\n{lines}"


def test_a_good_file_is_merged() -> None:
    fleet = _fleet_file.parse(GOOD, "fleet.yml")
    assert fleet.deployment_id == "acme-llm"
    assert fleet.domain == "acme-llm.internal"
    assert fleet.providers == ("local",)
    assert fleet.provider_settings == {"local": {"subnet_pool": "10.0.0.0/16"}}
    assert fleet.instances == (
        {
            "name": "vllm-1",
            "roles": ["vllm"],
            "providers": ["local"],
            "disk_gib": 20,
            # An own value replaces the default as a whole.
            "ports": [{"port": 8000, "protocol": "http"}],
        },
        {
            "name": "kafka-1",
            "roles": ["kafka"],
            "providers": ["local"],
            "disk_gib": 30,
            "ports": [{"port": 9, "protocol": "tcp"}, {"port": 10}],
        },
    )


def test_secrets_of_a_fleet_are_not_in_its_repr() -> None:
    fleet = _fleet_file.parse(GOOD.replace("subnet_pool: 10.0.0.0/16", "subnet_pool: SECRET"), "fleet.yml")
    assert "SECRET" not in repr(fleet)


def test_a_tab_is_named() -> None:
    assert "indent with spaces only" in one_problem("plugin: gpuops.fleet.fleet\ninstances:\n\t- name: a\n")


def test_all_mistakes_are_named_in_the_order_of_the_file() -> None:
    lines = "  - {name: a, providers: [lokal]}\n  - {name: b, providers: [local], disk: 5}"
    text = fleet_with(lines, "deployment_id: dev")
    assert [line.split(": ")[0] for line in problems(text)] == [
        "fleet.yml, line 2, deployment_id",
        "fleet.yml, line 4, instances[0].providers[0]",
        "fleet.yml, line 5, instances[1].disk",
    ]


def test_a_mistake_in_defaults_is_named_there_and_once() -> None:
    text = (
        "plugin: gpuops.fleet.fleet\ndeployment_id: acme-llm\ndefaults:\n  providers: [local]\n  disk_gib: 0\n"
        "instances:\n  - name: a\n  - name: b\n"
    )
    assert one_problem(text).startswith("fleet.yml, line 5, defaults.disk_gib: ")


def test_values_of_env_are_never_shown() -> None:
    found = one_problem(fleet_with("  - {name: a, providers: [local], env: [SECRET]}"))
    assert found.startswith("fleet.yml, line 4, instances[0].env: expected 'NAME: value' pairs")
    assert "SECRET" not in found


def test_templates_and_vaults_are_left_for_later(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yml"
    path.write_text(
        fleet_with(
            "  - name: a\n    providers: [local]\n    ssh_public_key: \"{{ lookup('file', 'x') }}\"\n"
            "    ssh_private_key_file: !vault |\n      $ANSIBLE_VAULT;1.1;AES256\n      3132\n"
        )
    )
    fleet = _fleet_file.load(str(path))
    assert fleet.instances[0]["ssh_public_key"].startswith("{{")
    assert fleet.warnings == ()


@pytest.mark.parametrize("later", ["ssh_public_key", "ssh_private_key_file"])
def test_what_is_opened_later_is_not_missing(tmp_path: Path, later: str) -> None:
    path = tmp_path / "fleet.yml"
    path.write_text(
        fleet_with(
            "  - name: a\n    providers: [tensordock]\n    disk_gib: 100\n    max_lifetime: '{{ hours }}h'\n"
            f"    {later}: '{{{{ key }}}}'\n"
        )
    )
    fleet = _fleet_file.load(str(path))
    assert fleet.instances[0][later] == "{{ key }}"


def test_a_missing_key_is_a_warning_so_that_destroy_still_works(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yml"
    path.write_text(fleet_with("  - name: a\n    providers: [local]\n    ssh_private_key_file: keys/id\n"))
    (warning,) = _fleet_file.load(str(path)).warnings
    assert f"line 6, instances[0].ssh_private_key_file: '{tmp_path}/keys/id' does not exist" in warning


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(FleetFileError, match="can't be read: No such file"):
        _fleet_file.load("/nowhere/fleet.yml")


def test_paths_begin_at_the_folder_of_the_file() -> None:
    assert _fleet_file.resolve_path("../keys/id", "/x/fleets/fleet.yml") == "/x/keys/id"
    assert _fleet_file.resolve_path("/abs/id", "/x/fleet.yml") == "/abs/id"
    assert _fleet_file.resolve_path("~/id", "/x/fleet.yml").endswith("/id")
    assert "~" not in _fleet_file.resolve_path("~/id", "/x/fleet.yml")


def test_an_alias_that_contains_itself_ends() -> None:
    text = "plugin: gpuops.fleet.fleet\ndeployment_id: acme-llm\ninstances: &a\n  - *a\n"
    assert "instances[0]" in problems(text)[0]


def test_the_file_of_the_demo_is_good() -> None:
    path = Path(__file__).parents[3] / "examples" / "local" / "fleet.yml"
    fleet = _fleet_file.load(str(path))
    assert fleet.deployment_id == "gpuops-demo"
    assert [(entry["name"], entry["roles"]) for entry in fleet.instances] == [
        ("vllm-1", ["vllm", "gateway"]),
        ("kafka-1", ["kafka"]),
        ("mongo-1", ["mongodb"]),
        ("processor-1", ["processor", "monitoring"]),
        ("producer-1", ["producer"]),
    ]


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[3] / "examples").glob("*/fleet.yml")), ids=lambda path: path.parent.name
)
def test_every_example_can_be_copied(path: Path) -> None:
    assert _fleet_file.load(str(path)).instances
