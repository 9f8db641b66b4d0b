"""The server answers who has the key, and its container can do little else."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from support import rule_metrics

Host = Any  # testinfra has no types

CONTAINER = "vllm-vllm-1"
MODEL = "gpuops/tiny-random-llama"
KEY_FILE = "/opt/vllm/secrets/api_key"
PORT = 8000

# Runs on the host, so that the key never leaves it: prints the status and what was answered.
ASK = """
import json, sys, urllib.error, urllib.request
url, path, key, body = json.load(sys.stdin)
headers = {"Content-Type": "application/json"}
if key == "file":
    headers["Authorization"] = "Bearer " + open("/opt/vllm/secrets/api_key").read().strip()
elif key:
    headers["Authorization"] = "Bearer " + key
data = json.dumps(body).encode() if body is not None else None
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    with opener.open(urllib.request.Request(url + path, data, headers), timeout=120) as answer:
        print(json.dumps([answer.status, answer.read().decode()]))
except urllib.error.HTTPError as error:
    print(json.dumps([error.code, error.read().decode()]))
"""


def ask(host: Host, path: str, key: str = "", body: Any = None) -> tuple[int, str]:
    question = json.dumps([f"http://127.0.0.1:{PORT}", path, key, body])
    command = f"python3 -c {quoted(ASK)} <<'END'\n{question}\nEND"
    status, text = json.loads(host.check_output(command))
    return int(status), str(text)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def container(host: Host) -> dict[str, Any]:
    description: dict[str, Any] = json.loads(host.check_output(f"docker inspect {CONTAINER}"))[0]
    return description


def test_service_is_enabled_and_healthy(host: Host) -> None:
    for unit in ("vllm.service", "vllm-env-refresh.service"):
        assert host.check_output(f"systemctl is-enabled {unit}") == "enabled"
    assert host.check_output("systemctl is-active vllm.service") == "active"
    assert container(host)["State"]["Health"]["Status"] == "healthy"


def test_completion_with_the_key(host: Host) -> None:
    status, text = ask(host, "/v1/completions", "file", {"model": MODEL, "prompt": "Hello", "max_tokens": 8})
    assert status == 200, text
    assert json.loads(text)["usage"]["completion_tokens"] == 8


def test_chat_with_the_key(host: Host) -> None:
    question = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
    status, text = ask(host, "/v1/chat/completions", "file", question)
    assert status == 200, text
    assert json.loads(text)["choices"][0]["message"]["role"] == "assistant"


@pytest.mark.parametrize("key", ["", "wrong-key-0123456789"])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/models"])
def test_nothing_without_the_right_key(host: Host, path: str, key: str) -> None:
    body = None if path == "/v1/models" else {"model": MODEL, "prompt": "Hello"}
    assert ask(host, path, key, body)[0] == 401


@pytest.mark.parametrize("path", ["/tokenize", "/invocations", "/version", "/load", "/ping", "//health"])
def test_what_vllm_serves_beside_is_not_found_with_the_key_too(host: Host, path: str) -> None:
    assert ask(host, path)[0] == 404
    assert ask(host, path, "file")[0] == 404


def test_metrics_are_for_who_has_the_key(host: Host) -> None:
    assert ask(host, "/metrics")[0] == 404
    status, text = ask(host, "/metrics", "file")
    assert status == 200
    assert rule_metrics.missing("vllm:", text) == [], "what the monitoring's rules ask for"


def test_serves_exactly_the_one_model(host: Host) -> None:
    status, text = ask(host, "/v1/models", "file")
    assert status == 200
    assert [model["id"] for model in json.loads(text)["data"]] == [MODEL]


def test_interactive_documentation_is_off(host: Host) -> None:
    assert ask(host, "/docs")[0] == 404
    assert ask(host, "/openapi.json")[0] == 404


def test_container_is_confined(host: Host) -> None:
    settings = container(host)["HostConfig"]
    assert settings["ReadonlyRootfs"]
    assert settings["CapDrop"] == ["ALL"]
    assert not settings["CapAdd"]
    assert not settings["Privileged"]
    assert "no-new-privileges:true" in settings["SecurityOpt"]
    assert settings["Memory"] == settings["MemorySwap"] == 5120 * 2**20
    assert settings["PidsLimit"] == 2048
    assert settings["ShmSize"] == 1024 * 2**20
    assert settings["IpcMode"] in ("private", "")
    assert settings["NetworkMode"] not in ("host", "none")
    assert settings["RestartPolicy"]["Name"] == "no"
    assert settings["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "20m", "max-file": "3"}}
    assert container(host)["Config"]["User"] == "1000:1000"


def test_server_process_has_no_rights(host: Host) -> None:
    status = dict(
        line.split(":", 1) for line in host.check_output(f"docker exec {CONTAINER} cat /proc/1/status").splitlines()
    )
    assert status["Uid"].split() == ["1000"] * 4
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    assert host.run(f"docker exec {CONTAINER} touch /opt/x").rc != 0


def test_port_is_open_for_the_gateway_on_the_same_host_only(host: Host) -> None:
    bindings = container(host)["HostConfig"]["PortBindings"][f"{PORT}/tcp"]
    assert [binding["HostIp"] for binding in bindings] == ["127.0.0.1"]


def test_key_is_only_in_its_file(host: Host) -> None:
    secret = host.file(KEY_FILE)
    assert (secret.uid, secret.mode) == (1000, 0o400)
    # grep -f: the key itself is in no command line.
    assert host.run(f"docker inspect {CONTAINER} | grep -qFf {KEY_FILE}").rc == 1
    assert host.run(f"cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -qaFf {KEY_FILE}").rc == 1
    assert host.run(f"docker logs {CONTAINER} 2>&1 | grep -qaFf {KEY_FILE}").rc == 1
    readable = host.check_output("find /opt/vllm -path /opt/vllm/data -prune -o -type f -perm -o=r -print").splitlines()
    assert readable
    assert host.run(f"grep -qaFf {KEY_FILE} {' '.join(readable)}").rc == 1


def test_sends_no_usage_statistics(host: Host) -> None:
    assert "VLLM_NO_USAGE_STATS=1" in container(host)["Config"]["Env"]


def test_drain_is_shorter_than_the_stop(host: Host) -> None:
    command = container(host)["Config"]["Cmd"]
    drain = int(command[command.index("--shutdown-timeout") + 1])
    unit = host.check_output("systemctl show --property=TimeoutStopUSec --value vllm.service")
    assert drain < container(host)["Config"]["StopTimeout"]
    assert drain < {"1min 30s": 90, "2min": 120}.get(unit, 0)


def test_health_check_answers_quickly(host: Host) -> None:
    began = time.monotonic()
    assert ask(host, "/health")[0] == 200
    assert time.monotonic() - began < 30
