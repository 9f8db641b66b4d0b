# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the report says that a gateway is asked, and with which line. With real Ansible, and curl."""

from __future__ import annotations

import base64
import datetime
import json
import pathlib
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from support.certificates import DAY, signed
from support.fake_endpoint import KEY, Faults, serving
from support.local_play import ROOT, run_plays

ADDRESS = "192.0.2.44"
Report = Callable[..., dict[str, Any]]


@pytest.fixture
def report(tmp_path: pathlib.Path) -> Report:
    def told(certificate: str, **variables: Any) -> dict[str, Any]:
        """The endpoint in the report on a gateway that has this certificate; what curl reads lies where it says."""
        contents = [base64.b64encode(text.encode()).decode() for text in (KEY, certificate)]
        host = {
            "ansible_host": ADDRESS,
            "vllm_model": "tiny",
            "__report_gateway_files": {"results": [{"content": content} for content in contents]},
            **variables,
        }
        files = {
            "__report_certificate_file": "__report_gateway_certificate",
            "__report_header_file": "'Authorization: Bearer ' ~ __report_key",
            "__report_request_file": "__report_request | to_json",
        }
        pairs = ", ".join(f"[{file}, {text}]" for file, text in files.items())
        content = f"{{{{ {{'files': [{pairs}], 'endpoint': __report.endpoint}} | to_json }}}}"
        task = {"ansible.builtin.copy": {"dest": str(tmp_path / "told.json"), "content": content}}
        play: dict[str, Any] = {"hosts": "gateway-1", "gather_facts": False}
        planted: dict[str, Any] = {"fleet_report_directory": str(tmp_path), "__report_services": [{"service": "vllm"}]}
        planted |= {"fleet_deployment_id": "acme-llm", "__report_hosts": [], "__report_price_per_hour_usd": None}
        (tmp_path / "planted.json").write_text(json.dumps(planted))
        groups = {"ansible.builtin.group_by": {"key": "{{ item }}"}, "loop": ["vllm", "gateway", "fleet_ssh"]}
        vars_files = [str(ROOT / "playbooks" / "vars" / f"{name}.yml") for name in ("report", "endpoint")]
        done = run_plays(
            tmp_path,
            [{**play, "tasks": [groups]}, {**play, "vars_files": vars_files, "tasks": [task]}],
            {"gateway-1": host},
            *("--extra-vars", f"@{tmp_path / 'planted.json'}"),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found = json.loads((tmp_path / "told.json").read_text())
        for file, text in found["files"]:
            pathlib.Path(file).write_text(text)
        return dict(found["endpoint"])

    return told


def given(*names: str) -> tuple[str, str]:
    """A certificate that a private authority signed, with its key."""
    now = datetime.datetime.now(tz=datetime.UTC)
    return signed(now - DAY, now + DAY, names=names)


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine to paste the line for")
@pytest.mark.parametrize("task", ["generate", "embed"])
def test_the_line_works_for_a_given_certificate_of_a_private_authority(report: Report, task: str) -> None:
    certificate, key = given("localhost", "llm.example.org")
    embedding = [0.6, -0.8] if task == "embed" else None
    with serving(Faults(embedding=embedding), certificate=(certificate, key)) as server:
        port = server.url.rpartition(":")[2]
        told = {"vllm_task": task} if embedding else {}
        endpoint = report(certificate, gateway_tls_certificate=certificate, gateway_https_port=port, **told)
        assert endpoint["url"] == f"https://localhost:{port}"
        done = subprocess.run(
            ["bash", "-c", endpoint["curl"]], capture_output=True, text=True, check=False, timeout=120
        )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["data"][0]["embedding"] == embedding if embedding else answer["usage"]["completion_tokens"] > 0
    assert endpoint["task"] == task
    assert endpoint["tls_fingerprint"] is None, "what somebody signed is renewed, and trusted by its signer"


@pytest.mark.parametrize(
    ("names", "variables", "host"),
    [
        (("*.example.org", "llm.example.org"), {}, "llm.example.org"),
        (("llm.example.org",), {"gateway_tls_names": ["gpu.example.org"]}, "gpu.example.org"),
    ],
)
def test_a_given_certificate_is_asked_by_its_name(
    report: Report, names: tuple[str, ...], variables: dict[str, Any], host: str
) -> None:
    certificate, _key = given(*names)
    assert report(certificate, gateway_tls_certificate=certificate, **variables)["url"] == f"https://{host}"


def test_a_self_signed_one_is_asked_by_its_address_and_pinned(report: Report) -> None:
    """A deployment makes it good for that; its name is one among peers, which nobody else can look up."""
    endpoint = report(given("gateway-1.acme-llm.internal")[0])
    assert endpoint["url"] == f"https://{ADDRESS}"
    assert endpoint["tls_fingerprint"].startswith("sha256:")


def test_a_gateway_that_is_not_deployed_yet_has_an_address_too(report: Report) -> None:
    endpoint = report("", gateway_tls_certificate=given("llm.example.org")[0])
    assert (endpoint["url"], endpoint["certificate_file"]) == (f"https://{ADDRESS}", "")
