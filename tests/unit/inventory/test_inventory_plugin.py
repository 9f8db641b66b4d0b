"""The inventory plugin inside Ansible: options, groups, messages, start-up."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible import constants as C
from ansible.errors import AnsibleParserError
from ansible.inventory.data import InventoryData
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.doc_fragments import constructed, inventory_cache
from ansible_collections.gpuops.fleet.plugins.inventory import fleet as plugin_file
from ansible_collections.gpuops.fleet.plugins.module_utils import _arguments, _fleet_file, _listing, _provider
from ansible_collections.gpuops.fleet.plugins.module_utils._models import Endpoint, Instance, Marker, Status

ROOT = Path(__file__).parents[3]
DOCUMENTED = yaml.safe_load(plugin_file.DOCUMENTATION)["options"]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBvRmbDQ8kOfzXb6QYUyWpSXm8tUFr8sZ9uHhYvOYAbc"

FLEET = """\
plugin: gpuops.fleet.fleet
deployment_id: acme-llm
instances:
  - {name: kafka-1, roles: [kafka], providers: [local]}
  - {name: vllm-1, roles: [vllm], providers: [local]}
"""


@pytest.fixture
def living(monkeypatch: pytest.MonkeyPatch) -> list[Instance]:
    """What the fake provider lists."""
    instances: list[Instance] = []
    monkeypatch.setattr(
        _listing,
        "list_all",
        lambda names, settings, **how: [_listing.Listing(name, tuple(instances)) for name in names],
    )
    return instances


def running(name: str) -> Instance:
    return Instance(
        provider="local",
        id=f"id-{name}",
        marker=Marker("acme-llm", name, "aaaaaa"),
        status=Status.RUNNING,
        ssh_endpoints=(Endpoint("10.0.0.5", 22),),
        host_key=KEY,
    )


def make_plugin() -> Any:
    options: dict[str, Any] = {}
    for fragment in (constructed, inventory_cache):
        options.update(yaml.safe_load(fragment.ModuleDocFragment.DOCUMENTATION)["options"])
    options.update(DOCUMENTED)  # as Ansible does: what the plugin says itself counts
    C.config.initialize_plugin_configuration_definitions("inventory", "fleet_under_test", options)
    plugin = plugin_file.InventoryModule()
    plugin._load_name = "fleet_under_test"
    return plugin


def parse(*paths: Path) -> InventoryData:
    inventory = InventoryData()
    for path in paths:
        make_plugin().parse(inventory, DataLoader(), str(path))
    inventory.reconcile_inventory()
    return inventory


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def members(inventory: InventoryData, group: str) -> list[str]:
    return sorted(host.name for host in inventory.groups[group].get_hosts())


def test_groups_and_variables(tmp_path: Path, living: list[Instance]) -> None:
    living += [running("kafka-1"), running("forgotten")]
    inventory = parse(write(tmp_path / "fleet.yml", FLEET))
    assert members(inventory, "fleet_wanted") == ["kafka-1", "vllm-1"]
    assert members(inventory, "fleet_ssh") == ["kafka-1"]
    assert members(inventory, "kafka") == ["kafka-1"]
    assert members(inventory, "fleet_orphans") == ["forgotten"]
    assert members(inventory, "fleet_endpoints") == []
    assert "vllm" not in inventory.groups
    assert inventory.groups["all"].vars["fleet_complete"] is True
    assert inventory.groups["all"].vars["fleet_file"] == str(tmp_path / "fleet.yml")
    assert inventory.hosts["kafka-1"].vars["ansible_host"] == "10.0.0.5"


def test_a_machine_of_ones_own_is_there_because_the_file_says_so(tmp_path: Path) -> None:
    head = FLEET.split("instances:", maxsplit=1)[0]
    own = "instances:\n  - {name: gpu-1, providers: [ssh], address: 203.0.113.20}\n"
    inventory = parse(write(tmp_path / "fleet.yml", head + own))
    assert members(inventory, "fleet_ssh") == members(inventory, "provider_ssh") == ["gpu-1"]
    assert members(inventory, "fleet_orphans") == []
    assert inventory.groups["all"].vars["fleet_complete"] is True
    assert inventory.hosts["gpu-1"].vars["ansible_host"] == "203.0.113.20"


def test_groups_and_variables_of_the_users_own(tmp_path: Path, living: list[Instance]) -> None:
    living += [running("kafka-1")]
    more = (
        "strict: true\ncompose: {node_name: fleet_peer_name}\ngroups: {running: fleet_status == 'running'}\n"
        "keyed_groups: [{key: fleet_status, prefix: status}]\n"
    )
    inventory = parse(write(tmp_path / "fleet.yml", FLEET + more))
    assert inventory.hosts["vllm-1"].vars["node_name"] == "vllm-1.acme-llm.internal"
    assert members(inventory, "running") == ["kafka-1"]
    assert members(inventory, "status_absent") == ["vllm-1"]


def test_provider_settings_never_become_variables(tmp_path: Path, living: list[Instance]) -> None:
    text = FLEET + "provider_settings: {local: {api_url: 'tcp://SECRET:1'}}\n"
    inventory = parse(write(tmp_path / "fleet.yml", text))
    everything = [host.vars for host in inventory.hosts.values()] + [group.vars for group in inventory.groups.values()]
    assert "SECRET" not in repr(everything)


def test_two_files_of_one_deployment(tmp_path: Path, living: list[Instance]) -> None:
    living += [running("kafka-1"), running("mongo-1"), running("forgotten")]
    first = write(tmp_path / "a.fleet.yml", FLEET)
    second = write(tmp_path / "b.fleet.yml", FLEET.replace("kafka-1", "mongo-1").replace("vllm-1", "vllm-2"))
    inventory = parse(first, second)
    assert members(inventory, "fleet_wanted") == ["kafka-1", "mongo-1", "vllm-1", "vllm-2"]
    assert members(inventory, "fleet_orphans") == ["forgotten"]
    # Whether ending what is in no file costs confirmation is asked of all their providers.
    third = write(tmp_path / "e.fleet.yml", "plugin: gpuops.fleet.fleet\ndeployment_id: acme-llm\ninstances: []\n")
    third.write_text(third.read_text() + "provider_settings: {runpod: {}}\n")
    assert parse(third, first).groups["all"].vars["fleet_providers"] == ["runpod", "local"]
    with pytest.raises(AnsibleParserError, match="kafka-1, vllm-1 is also an instance of another fleet file"):
        parse(first, write(tmp_path / "c.fleet.yml", FLEET))
    with pytest.raises(AnsibleParserError, match="can't be in one run with deployment 'acme-llm'"):
        parse(first, write(tmp_path / "d.fleet.yml", FLEET.replace("acme-llm", "acme-web")))


def test_reports_go_where_the_user_wants_them(
    tmp_path: Path, living: list[Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    def directory(text: str) -> str:
        return str(parse(write(tmp_path / "fleet.yml", text)).groups["all"].vars["fleet_report_directory"])

    monkeypatch.setenv("GPUFLEET_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    assert directory(FLEET) == f"{tmp_path}/state/reports/acme-llm"
    assert directory(FLEET + "report_directory: out\n") == f"{tmp_path}/out"
    monkeypatch.setenv("GPUFLEET_REPORT_DIRECTORY", "elsewhere")
    assert directory(FLEET) == f"{tmp_path}/elsewhere"
    monkeypatch.delenv("GPUFLEET_REPORT_DIRECTORY")
    monkeypatch.chdir(ROOT)
    assert directory(FLEET) == f"{ROOT}/build"
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GPUFLEET_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert directory(FLEET) == f"{tmp_path}/.local/state/gpuops-fleet/reports/acme-llm"


def test_a_bad_file_adds_nothing(tmp_path: Path, living: list[Instance], capsys: pytest.CaptureFixture[str]) -> None:
    inventory = InventoryData()
    path = write(tmp_path / "fleet.yml", FLEET.replace("[vllm]", "[vlm]"))
    with pytest.raises(AnsibleParserError, match="can't be used; what to change is listed above"):
        make_plugin().parse(inventory, DataLoader(), str(path))
    assert inventory.hosts == {}
    assert "line 5, instances[1].roles[0]: 'vlm' is not a role" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "taken"),
    [("fleet.yml", True), ("prod.fleet.yaml", True), ("hosts.yml", False), ("missing-fleet.yml", False)],
)
def test_the_name_says_what_a_fleet_file_is(tmp_path: Path, name: str, taken: bool) -> None:
    path = tmp_path / name
    if not name.startswith("missing"):
        path.write_text("")
    assert plugin_file.InventoryModule().verify_file(str(path)) is taken


def test_documentation_names_what_the_code_accepts() -> None:
    assert set(DOCUMENTED) - set(_fleet_file.ANSIBLE_KEYS) == set(_fleet_file.OUR_KEYS)
    options = DOCUMENTED["instances"]["suboptions"]
    assert set(options) == set(_arguments.INSTANCE_SPEC)
    for name, rule in _arguments.INSTANCE_SPEC.items():
        assert options[name]["type"] == rule["type"], name
        if "choices" in rule:
            assert options[name]["choices"] == rule["choices"], name
    assert tuple(options["roles"]["choices"]) == _fleet_file.ROLE_NAMES
    assert tuple(options["providers"]["choices"]) == _provider.PROVIDER_NAMES
    settings = _arguments.FLEET_SPEC["provider_settings"]["options"]
    assert set(DOCUMENTED["provider_settings"]["suboptions"]) == set(settings)
    for name, rule in settings.items():
        assert set(DOCUMENTED["provider_settings"]["suboptions"][name]["suboptions"]) == set(rule["options"])


def ansible(command: str, path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = [str(Path(sys.executable).with_name(command)), "-i", str(path), *arguments]
    environment = {**os.environ, "ANSIBLE_NOCOLOR": "1"}
    return subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)


def ansible_inventory(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return ansible("ansible-inventory", path, *arguments)


@pytest.mark.parametrize("more", ["", "strict: true\ncompose: {who: fleet_wanted_instance.providers}\n"])
def test_what_the_file_says_may_hold_templates_and_vaults(tmp_path: Path, more: str) -> None:
    """Read by Ansible itself then, which a file without them is spared."""
    text = FLEET.replace("roles: [vllm]", "image: \"{{ 'host' ~ 'ed' }}:1\"") + more
    path = write(tmp_path / "fleet.yml", text)
    shown = ansible("ansible", path, "vllm-1", "-m", "debug", "-a", "var=fleet_wanted_instance.image")
    assert "hosted:1" in shown.stdout, shown.stdout + shown.stderr
    (tmp_path / "password").write_text("secret")
    vault = ["--vault-password-file", str(tmp_path / "password")]
    closed = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-vault")), "encrypt_string", *vault, "vaulted:1"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    path.write_text(FLEET.replace("roles: [vllm]", "image: x:1") + more)
    plain = ansible("ansible", path, "vllm-1", "-m", "debug", "-a", "var=fleet_wanted_instance.image")
    assert "x:1" in plain.stdout, plain.stdout + plain.stderr
    instance = f"  - name: vllm-1\n    providers: [local]\n    image: {closed.strip()}\n"
    path.write_text("".join(line for line in FLEET.splitlines(True) if "vllm-1" not in line) + instance + more)
    opened = ansible("ansible", path, *vault, "vllm-1", "-m", "debug", "-a", "var=fleet_wanted_instance.image")
    assert "vaulted:1" in opened.stdout, opened.stdout + opened.stderr


def test_ansible_itself_reads_a_fleet_file(tmp_path: Path) -> None:
    path = write(tmp_path / "fleet.yml", "plugin: gpuops.fleet.fleet\ndeployment_id: acme-llm\ninstances: []\n")
    result = ansible_inventory(path, "--list", "--export")
    assert result.returncode == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["all"]["vars"]["fleet_domain"] == "acme-llm.internal"
    assert "fleet_wanted" in document["all"]["children"]


def test_ansible_core_2_18_has_another_loader(
    tmp_path: Path, living: list[Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which trusts every template, and takes no word about that."""
    real = DataLoader.load_from_file

    def load_from_file(self: DataLoader, file_name: str, cache: str = "all", unsafe: bool = False) -> Any:
        return real(self, file_name, cache=cache, unsafe=unsafe)

    monkeypatch.setattr(DataLoader, "load_from_file", load_from_file)
    monkeypatch.setattr(plugin_file, "_LOADER_OPTIONS", inspect.signature(load_from_file).parameters)
    inventory = parse(write(tmp_path / "fleet.yml", FLEET.replace("roles: [vllm]", "image: '{{ 1 }}:1'")))
    assert inventory.hosts["vllm-1"].vars["fleet_wanted_instance"]["image"] == "{{ 1 }}:1"


def test_programs_read_plain_values(tmp_path: Path) -> None:
    """Not such as {"__ansible_unsafe": "vllm-1"}, as which Ansible shows what nobody said it may trust."""
    result = ansible_inventory(write(tmp_path / "fleet.yml", FLEET), "--list")
    assert result.returncode == 0, result.stderr
    variables = json.loads(result.stdout)["_meta"]["hostvars"]["vllm-1"]
    assert (variables["fleet_name"], variables["fleet_wanted_instance"]["roles"]) == ("vllm-1", ["vllm"])
    assert "__ansible" not in result.stdout


def test_the_first_thing_said_about_a_bad_file_is_what_to_change(tmp_path: Path) -> None:
    path = write(tmp_path / "fleet.yml", FLEET.replace("kafka-1", "Kafka"))
    result = ansible_inventory(path, "--list")
    assert result.returncode != 0
    assert result.stderr.startswith(f"[ERROR]: {path}, line 4, instances[0].name: 'Kafka' can't be used: write")


def test_nothing_is_imported_that_nobody_needs() -> None:
    """With no instance and no provider, no HTTP library and no Docker SDK."""
    code = (
        "import sys\n"
        "from ansible_collections.gpuops.fleet.plugins.module_utils import _fleet_file, _inventory, _listing\n"
        "text = 'plugin: gpuops.fleet.fleet\\ndeployment_id: acme-llm\\ninstances: []'\n"
        "fleet = _fleet_file.parse(text, 'fleet.yml')\n"
        "_inventory.build(fleet, _listing.list_all(fleet.providers, {}), '/x')\n"
        "print([name for name in ('requests', 'urllib3', 'docker', 'http.client', 'asyncio') if name in sys.modules])\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "build" / "collections")}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout.strip() == "[]"
