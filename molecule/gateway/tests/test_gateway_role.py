# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway role's promise on a host: confined, back by itself, its keys seen by nobody, reloads without a loss."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

Host = Any  # testinfra has no types

GATEWAY = "/opt/gateway"
GENERATED = f"{GATEWAY}/secrets/keys/producer"
PARTNER, INTERNAL = "planted-key-of-partner-55", "planted-internal-key-5e11"
ASK = f"curl --silent --max-time 30 --cacert {GATEWAY}/certificate.pem"


def ask(host: Host, path: str, key: str = "", more: str = "") -> tuple[int, str]:
    """Through the real certificate; a key stands in a file, so that it is in no command line."""
    header = f"--header @<(printf 'Authorization: Bearer %s' \"$(cat {key})\")" if key else ""
    command = f"{ASK} {header} --write-out '\\n%{{http_code}}' {more} https://localhost{path}"
    text = str(host.check_output("bash -c %s", command))
    body, _newline, status = text.rpartition("\n")
    return int(status), body


def main_process(host: Host) -> str:
    return str(host.check_output("systemctl show --property=MainPID --value gateway.service"))


def until(host: Host, condition: str) -> None:
    assert host.run(f"timeout 60 sh -c 'until {condition}; do sleep 0.3; done'").rc == 0, condition


def test_it_runs_now_and_after_a_boot_and_the_packages_own_service_does_not(host: Host) -> None:
    assert host.check_output("systemctl is-enabled gateway.service") == "enabled"
    assert host.check_output("systemctl is-active gateway.service") == "active"
    assert host.run("systemctl is-enabled haproxy.service").stdout.strip() == "disabled"
    assert host.run("systemctl is-active haproxy.service").stdout.strip() == "inactive"


def test_a_key_opens_what_is_listed_and_nothing_else(host: Host) -> None:
    status, body = ask(host, "/v1/models", GENERATED)
    assert (status, json.loads(body)["path"]) == (200, "/v1/models")
    assert ask(host, "/v1/models")[0] == 401
    assert ask(host, "/metrics", GENERATED)[0] == 404
    assert ask(host, "/health")[0] == 200


def test_http_leads_to_https(host: Host) -> None:
    command = "curl --silent --output /dev/null --write-out '%{http_code} %{redirect_url}' http://localhost/v1/models"
    assert host.check_output(command) == "308 https://localhost/v1/models"


def test_both_servers_are_used_one_by_its_name(host: Host) -> None:
    ports = {json.loads(ask(host, "/v1/models", GENERATED)[1])["port"] for _number in range(6)}
    assert ports == {"8001", "8002"}


def test_metrics_are_for_the_listed_networks(host: Host) -> None:
    assert "haproxy_server_status" in host.check_output("curl --silent http://127.0.0.1:8404/metrics")
    own = host.check_output("hostname --all-ip-addresses").split()[0]
    code = f"curl --silent --output /dev/null --write-out '%{{http_code}}' http://{own}:8404/metrics"
    assert host.run(code).stdout == "000", "closed before anything was answered"


def test_it_is_nobody_in_particular_and_confined(host: Host) -> None:
    for process in host.check_output("pgrep haproxy").split():
        status = dict(line.split(":", 1) for line in host.check_output(f"cat /proc/{process}/status").splitlines())
        assert "0" not in status["Uid"].split()
        assert int(status["CapBnd"], 16) == 1 << 10  # CAP_NET_BIND_SERVICE
        assert status["NoNewPrivs"].strip() == "1"
    exposure = host.run("systemd-analyze security --no-pager gateway.service").stdout
    found = re.search(r"Overall exposure level for gateway\.service: ([0-9.]+)", exposure)
    assert found, exposure
    assert float(found[1]) <= 3.0


def test_keys_are_in_their_files_alone(host: Host) -> None:
    assert host.file(GENERATED).mode == 0o600
    for path in (f"{GATEWAY}/secrets/keys.map", f"{GATEWAY}/secrets/upstream.map", f"{GATEWAY}/certificate.pem.key"):
        file = host.file(path)
        assert (file.user, file.group, file.mode) == ("root", "haproxy", 0o640)
    host.check_output(f"printf '{PARTNER}\\n{INTERNAL}\\n' >~/planted && cat {GENERATED} >>~/planted")
    for where in ("cat /proc/[0-9]*/cmdline", "journalctl --all", "systemctl show gateway.service"):
        assert (
            host.run(f"{where} 2>/dev/null | tr '\\0' ' ' | grep --quiet --text --fixed-strings --file ~/planted").rc
            == 1
        )
    readable = host.check_output(f"find {GATEWAY} -type f -perm -o=r")
    assert readable
    assert host.run(f"grep --quiet --fixed-strings --file ~/planted {' '.join(readable.split())}").rc == 1


def test_requests_are_lines_of_json_in_the_journal(host: Host) -> None:
    ask(host, "/v1/models?planted=1", GENERATED)
    until(host, "journalctl --unit gateway --output cat | grep --quiet producer")
    lines = [
        line for line in host.check_output("journalctl --unit gateway --output cat").splitlines() if line[0] == "{"
    ]
    assert json.loads(lines[-1])["key"] == "producer"
    assert "planted=1" not in "".join(lines)


def test_a_reload_loses_nothing_and_keeps_its_main_process(host: Host) -> None:
    before = main_process(host)
    script = (
        f"for number in $(seq 60); do {ASK} --output /dev/null --write-out '%{{http_code}}\\n' "
        "https://localhost/health; done >/root/statuses & "
        "for number in 1 2 3; do sleep 0.3; systemctl reload gateway.service; done; wait"
    )
    host.check_output("bash -c %s", script)
    assert set(host.check_output("cat /root/statuses").split()) == {"200"}
    assert main_process(host) == before


def test_what_it_runs_with_is_known(host: Host) -> None:
    for name in ("started", "loaded"):
        assert host.run(f"sha256sum --check --status /run/gateway/{name}").rc == 0


@pytest.mark.parametrize("signal", ["KILL", "SEGV"])
def test_it_comes_back_when_it_is_killed(host: Host, signal: str) -> None:
    before = main_process(host)
    host.check_output(f"kill -{signal} {before}")
    until(host, f"{ASK} --fail --output /dev/null https://localhost/health")
    assert main_process(host) != before


def test_a_server_that_dies_is_left_out_and_taken_back(host: Host) -> None:
    host.check_output("systemctl stop server@8001.service")
    statuses = {ask(host, "/v1/models", GENERATED)[0] for _number in range(6)}
    assert statuses == {200}
    host.check_output("systemctl start server@8001.service")
    until(host, 'curl --silent http://127.0.0.1:8404/metrics | grep --quiet "vllm-1.*UP.* 1$"')
