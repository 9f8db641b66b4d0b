# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What users install: built from a clean export, small, complete, accepted by galaxy-importer, and usable alone."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tarfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FLEET_FILE = pathlib.Path(os.environ.get("FLEET_FILE", ROOT / "examples" / "local" / "fleet.yml"))
BIN = pathlib.Path(sys.executable).parent

# Nothing else may lie at the top of the artifact.
TOP_ENTRIES = {
    "CHANGELOG.rst",
    "CONTRIBUTING.md",
    "FILES.json",
    "LICENSE",
    "MANIFEST.json",
    "README.md",
    "SECURITY.md",
    "TROUBLESHOOTING.md",
    "changelogs",
    "meta",
    "playbooks",
    "plugins",
    "roles",
    "tests",  # tests/config.yml alone, which tells ansible-test the Pythons
}
# A third of it is the lock file of the packages that the FerretDB image installs; it grows with nothing else.
MOST_BYTES = 800_000


def run(*command: str | pathlib.Path, cwd: pathlib.Path, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Built from a clean export of what git knows, as it stands in the working tree, so that nothing else slips in."""
    export = tmp_path_factory.mktemp("export")
    source = export / "source"
    source.mkdir()
    known = [name for name in run("git", "ls-files", cwd=ROOT).splitlines() if (ROOT / name).exists()]
    (export / "known").write_text("\n".join(known))
    run("tar", "--create", "--files-from", export / "known", "--file", export / "tree.tar", cwd=ROOT)
    run("tar", "--extract", "--file", export / "tree.tar", cwd=source)
    run(BIN / "ansible-galaxy", "collection", "build", "--output-path", export, cwd=source)
    (built,) = export.glob("gpuops-fleet-*.tar.gz")
    return built


@pytest.fixture(scope="session")
def no_settings(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An empty configuration file: that of the checkout names paths that a user doesn't have."""
    file = tmp_path_factory.mktemp("settings") / "ansible.cfg"
    file.touch()
    return str(file)


@pytest.fixture(scope="session")
def installed(artifact: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An empty collections path into which only the artifact was installed."""
    path = tmp_path_factory.mktemp("collections")
    command = ("collection", "install", "--no-deps", "--offline", "--collections-path", path, artifact)
    # Without the checkout on the path, which would count as installed already.
    run(BIN / "ansible-galaxy", *command, cwd=path, PYTHONPATH="")
    return path


def test_only_known_things_lie_at_the_top(artifact: pathlib.Path) -> None:
    with tarfile.open(artifact) as opened:
        names = [name.removeprefix("./") for name in opened.getnames()]
    assert {name.split("/")[0] for name in names} == TOP_ENTRIES
    assert {name for name in names if name.startswith("tests/")} <= {"tests/config.yml"}
    assert not [name for name in names if name.endswith((".pyc", ".tar.gz", ".log"))]


def test_it_is_small(artifact: pathlib.Path) -> None:
    assert artifact.stat().st_size < MOST_BYTES


def test_every_role_has_a_readme_and_its_specification(artifact: pathlib.Path) -> None:
    with tarfile.open(artifact) as opened:
        names = set(opened.getnames())
    roles = {name.split("/")[1] for name in names if name.startswith("roles/") and name.count("/") > 1}
    assert roles
    for role in roles:
        for file in ("README.md", "meta/main.yml", "meta/argument_specs.yml", "defaults/main.yml"):
            assert f"roles/{role}/{file}" in names, role


def test_the_alert_rules_are_in_it(artifact: pathlib.Path) -> None:
    with tarfile.open(artifact) as opened:
        assert "playbooks/files/alerts/readiness.yml" in opened.getnames()


@pytest.mark.skipif(
    importlib.util.find_spec("galaxy_importer") is None,
    reason="galaxy-importer is not installed here; requirements/dev.txt has it",
)
def test_galaxy_importer_accepts_it(artifact: pathlib.Path, tmp_path: pathlib.Path) -> None:
    configuration = tmp_path / "galaxy-importer.cfg"
    # ansible-test runs in `make check`; what would need a container of its own is off.
    configuration.write_text(
        "[galaxy-importer]\nRUN_ANSIBLE_TEST = False\nRUN_ANSIBLE_DOC = True\nRUN_ANSIBLE_LINT = False\n"
        "CHECK_REQUIRED_TAGS = True\nCHECK_CHANGELOG = True\nREQUIRE_V1_OR_GREATER = False\n"
    )
    output = run(
        *(sys.executable, "-m", "galaxy_importer.main", artifact),
        cwd=tmp_path,
        GALAXY_IMPORTER_CONFIG=str(configuration),
        PATH=f"{BIN}:{os.environ['PATH']}",
    )
    assert "Importer processing completed successfully" in output
    assert [line for line in output.splitlines() if line.startswith("WARNING")] == []


def test_installed_collection_documents_its_plugins(installed: pathlib.Path, no_settings: str) -> None:
    environment = {"ANSIBLE_COLLECTIONS_PATH": str(installed), "ANSIBLE_CONFIG": no_settings, "PYTHONPATH": ""}
    listed = json.loads(run(BIN / "ansible-doc", "--list", "--json", "gpuops.fleet", cwd=installed, **environment))
    assert {"gpuops.fleet.instance", "gpuops.fleet.endpoint_check"} <= set(listed)


def test_installed_collection_verifies_the_demo(
    installed: pathlib.Path, no_settings: str, tmp_path: pathlib.Path
) -> None:
    """From an empty directory, with nothing but the artifact and the fleet file."""
    environment = {
        "ANSIBLE_COLLECTIONS_PATH": str(installed),
        "ANSIBLE_CONFIG": no_settings,
        "PYTHONPATH": "",
        "GPUFLEET_HOME": str(tmp_path / "home"),
        "GPUFLEET_REPORT_DIRECTORY": str(tmp_path / "report"),
    }
    inventory = run(BIN / "ansible-inventory", "-i", FLEET_FILE, "--list", cwd=tmp_path, **environment)
    if not json.loads(inventory[inventory.index("{\n") :]).get("processor", {}).get("hosts"):
        pytest.fail(
            f"The demo does not run (make demo starts it). The inventory says:\n{inventory[:2000]}", pytrace=False
        )
    run(BIN / "ansible-playbook", "-i", FLEET_FILE, "gpuops.fleet.verify", cwd=tmp_path, **environment)
    verdict = json.loads((tmp_path / "report" / "verify.json").read_text())
    assert verdict["ok"] is True
    assert len(verdict["checks"]) > 50
