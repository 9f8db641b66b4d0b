# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A hub on this machine: what is asked, with which token, what comes of its answers, and when waiting is over."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.gpuops.fleet.plugins.module_utils import _model_hub
from ansible_collections.gpuops.fleet.plugins.module_utils._model_answer import answer, read_directory
from ansible_collections.gpuops.fleet.plugins.module_utils._model_hub import HubRefused, HubUnreachable, look_up
from ansible_collections.gpuops.fleet.plugins.modules import model_preflight

TOKEN = "hf_planted-canary-0123456789"  # noqa: S105 (opens nothing)
MODEL = "acme/assistant-8b"
CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
}
WEIGHTS = 16060522496
SHARDS = [{"rfilename": f"model-0000{n}-of-00004.safetensors", "size": WEIGHTS // 4 + 9} for n in range(1, 5)]


class Hub:
    """answers: by path, a status and what to say: JSON, or the address to go to. seen: (path, Authorization)."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, Any]] = {
            f"/api/models/{MODEL}/revision/main?blobs=true": (
                200,
                {"gated": False, "siblings": [*SHARDS, *self.rest()]},
            ),
            f"/{MODEL}/resolve/main/config.json": (200, CONFIG),
            f"/{MODEL}/resolve/main/model.safetensors.index.json": (200, {"metadata": {"total_size": WEIGHTS}}),
        }
        self.seen: list[tuple[str, str | None]] = []
        self.silent = threading.Event()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.seen.append((self.path, self.headers.get("Authorization")))
                status, body = hub.answers.get(self.path, (404, {"error": "Entry not found"}))
                if status == 0:
                    hub.silent.wait(30)
                    return
                text = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                if status in (302, 307):
                    self.send_header("Location", body)
                    text = b""
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @staticmethod
    def rest() -> list[dict[str, Any]]:
        return [
            {"rfilename": "config.json", "size": 900},
            {"rfilename": "model.safetensors.index.json", "size": 20000},
            {"rfilename": "consolidated.safetensors", "size": WEIGHTS},
            {"rfilename": "original/model.safetensors", "size": WEIGHTS},
        ]

    def about(self, **more: Any) -> None:
        self.answers[f"/api/models/{MODEL}/revision/main?blobs=true"] = (200, more)

    def close(self) -> None:
        self.silent.set()
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    one = Hub()
    yield one
    one.close()


def params(**more: Any) -> dict[str, Any]:
    specs: dict[str, Any] = dict(model_preflight.SPEC)
    defaults = {name: spec.get("default") for name, spec in specs.items()}
    return defaults | {"model": MODEL, "gpu": "L4", "max_model_len": 8192} | more


def test_sizes_are_those_of_the_index(hub: Hub) -> None:
    model = look_up(MODEL, "main", hub.url, TOKEN, 10)
    assert (model.weights_bytes, model.full_layers, model.kv_heads, model.origin) == (WEIGHTS, 32, 8, "hub")
    assert {token for _path, token in hub.seen} == {f"Bearer {TOKEN}"}
    assert [path for path, _token in hub.seen if TOKEN in path] == []


def test_without_an_index_the_files_are_added_up_and_copies_of_them_are_not(hub: Hub) -> None:
    files = [{"rfilename": "model.safetensors", "size": 2471645608}, *Hub.rest()[2:]]
    hub.about(gated=False, siblings=files)
    assert look_up(MODEL, "main", hub.url, "", 10).weights_bytes == 2471645608


def test_a_revision_is_asked_for(hub: Hub) -> None:
    with pytest.raises(HubRefused, match=r"has no model acme/assistant-8b of that name and revision"):
        look_up(MODEL, "refs/pr/1", hub.url, "", 10)
    assert hub.seen == [(f"/api/models/{MODEL}/revision/refs%2Fpr%2F1?blobs=true", None)]


def test_a_repository_of_gguf_files_alone_is_known_by_them(hub: Hub) -> None:
    hub.about(gated=False, siblings=[{"rfilename": "assistant-Q4_K_M.gguf", "size": 5}])
    said = answer(params(hub="try", hub_url=hub.url))
    assert "The quantisation 'gguf' of acme/assistant-8b is not one that vLLM 0.32.0 has" in said["refused"][0]


def test_a_gated_model_is_recognised_without_its_files(hub: Hub) -> None:
    hub.about(gated="manual", siblings=[*SHARDS, *Hub.rest()])
    hub.answers[f"/{MODEL}/resolve/main/config.json"] = (401, {"error": "Access to this model is restricted."})
    said = answer(params(hub="try", hub_url=hub.url))
    assert len(said["refused"]) == 1
    assert "acme/assistant-8b is gated" in said["refused"][0]
    assert said["result"]["model"]["weights_mib"] == pytest.approx(WEIGHTS / 2**20, abs=2)


@pytest.mark.parametrize(
    ("status", "token", "said"),
    [
        (401, "", "without a token (status 401): it is private, gated or not there"),
        (403, TOKEN, "for this hub_token (status 403). Accept the model's terms"),
        (401, TOKEN, "for this hub_token (status 401)"),
        (404, "", "has no model acme/assistant-8b"),
    ],
)
def test_a_refusal_of_the_hub_is_one_and_has_no_token_in_it(hub: Hub, status: int, token: str, said: str) -> None:
    hub.answers[f"/{MODEL}/resolve/main/config.json"] = (status, {"error": "x"})
    found = answer(params(hub="try", hub_url=hub.url, hub_token=token))
    assert said in found["refused"][0]
    assert TOKEN not in json.dumps(found)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"siblings": 3}', b"", b"\xff\xfe"])
def test_an_answer_that_is_none_is_no_answer(hub: Hub, body: bytes) -> None:
    hub.answers[f"/api/models/{MODEL}/revision/main?blobs=true"] = (200, body)
    with pytest.raises(HubUnreachable):
        look_up(MODEL, "main", hub.url, "", 10)


def test_what_never_ends_is_not_read_to_its_end(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_model_hub, "_LARGEST_ANSWER_BYTES", 100)
    with pytest.raises(HubUnreachable, match="more than any model's configuration"):
        look_up(MODEL, "main", hub.url, "", 10)


def test_waiting_is_over_at_the_deadline(hub: Hub) -> None:
    hub.answers[f"/{MODEL}/resolve/main/config.json"] = (0, None)
    with pytest.raises(HubUnreachable):  # the server keeps silent for 30 s
        look_up(MODEL, "main", hub.url, "", 0.3)
    assert not hub.silent.is_set()


def test_a_name_that_takes_long_to_resolve_is_waited_for_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **more: release.wait(5) or [])
    try:
        with pytest.raises(HubUnreachable, match=r"didn't answer all within 0\.2 s"):
            look_up(MODEL, "main", "https://hub.example", TOKEN, 0.2)
    finally:
        release.set()


def test_the_token_follows_to_the_same_server_only(hub: Hub) -> None:
    other = Hub()
    try:
        hub.answers[f"/{MODEL}/resolve/main/config.json"] = (307, "/api/resolve-cache/config.json")
        hub.answers["/api/resolve-cache/config.json"] = (200, CONFIG)
        index = f"/{MODEL}/resolve/main/model.safetensors.index.json"
        hub.answers[index] = (302, f"{other.url}/bucket/index.json")
        other.answers["/bucket/index.json"] = (200, {"metadata": {"total_size": WEIGHTS}})
        assert look_up(MODEL, "main", hub.url, TOKEN, 10).weights_bytes == WEIGHTS
        assert dict(hub.seen)["/api/resolve-cache/config.json"] == f"Bearer {TOKEN}"
        assert other.seen == [("/bucket/index.json", None)]
    finally:
        other.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("huggingface.co", "is not an address"),
        ("https://user:secret@hub.example", "more than a host and a path"),
        ("http://hub.example", "is not encrypted, so hub_token is not sent there"),
    ],
)
def test_an_address_that_a_token_may_not_go_to_is_refused(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        look_up(MODEL, "main", url, TOKEN, 1)
    assert "secret" not in str(caught.value)


def test_nobody_is_asked_unless_told_to(hub: Hub) -> None:
    answer(params(hub_url=hub.url, hub_token=TOKEN))
    answer(params(hub="require", hub_url=hub.url, model="Qwen/Qwen3-8B-GGUF"))  # whose name says enough
    assert hub.seen == []


@pytest.mark.parametrize("how", ["try", "require"])
def test_without_an_answer_what_is_known_here_counts(hub: Hub, how: str) -> None:
    url = hub.url
    hub.close()
    said = answer(params(hub=how, hub_url=url, model="Qwen/Qwen3-8B"))
    assert said["result"]["model"]["origin"] == "table"
    spoken = said["refused" if how == "require" else "warnings"]
    assert [one for one in spoken if one.startswith("127.0.0.1 can't be asked")]
    assert bool(said["refused"]) == (how == "require")


def test_only_what_is_not_known_here_is_asked_for(hub: Hub) -> None:
    known = answer(params(hub="unknown", hub_url=hub.url, model="Qwen/Qwen3-8B"))
    assert (known["result"]["model"]["origin"], hub.seen) == ("table", [])
    assert answer(params(hub="unknown", hub_url=hub.url))["result"]["model"]["origin"] == "hub"
    url = hub.url
    hub.close()
    silent = answer(params(hub="unknown", hub_url=url))
    assert silent["refused"] == []
    assert silent["warnings"][0].startswith("127.0.0.1 can't be asked")


def test_an_address_that_only_this_question_minds_is_a_warning() -> None:
    told = answer(params(hub="unknown", hub_url="http://mirror.example.org", hub_token=TOKEN))
    assert told["refused"] == []
    assert "is not encrypted, so hub_token is not sent there" in told["warnings"][0]


def test_what_nobody_knows_is_a_warning_or_a_refusal() -> None:
    assert answer(params())["refused"] == []
    assert "The size of acme/assistant-8b is not known here." in answer(params())["warnings"][-1]
    refused = answer(params(on_unknown="refuse"))
    assert "The size of acme/assistant-8b is not known here." in refused["refused"][-1]
    assert refused["warnings"] == []


def test_a_directory_is_read_instead(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes(b"x" * 4096)
    assert read_directory(MODEL, str(tmp_path)).weights_bytes == 4096
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": WEIGHTS}}))
    said = answer(params(model_directory=str(tmp_path), max_model_len=0))
    assert said["result"]["model"]["origin"] == "directory"
    assert "16.0 for 131072 tokens" in said["refused"][0]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (None, "is no directory on this machine"),
        ({}, r"has no config\.json that can be read: No such file"),
        ({"config.json": "{"}, r"that is no JSON"),
        ({"config.json": "[]"}, "is no JSON object"),
        ({"config.json": "{}", "model.safetensors.index.json": "{}"}, r"has no metadata\.total_size"),
    ],
)
def test_a_directory_without_a_model_is_refused(tmp_path: Path, files: Any, said: str) -> None:
    for name, text in (files or {}).items():
        (tmp_path / name).write_text(text)
    place = tmp_path if files is not None else tmp_path / "missing"
    with pytest.raises(ValueError, match=said):
        read_directory(MODEL, str(place))


def run(capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    with patch_module_args(arguments), pytest.raises(SystemExit):
        model_preflight.main()
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    return said


def test_the_module_fails_with_every_reason_and_never_with_the_token(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    said = run(
        capsys, model=MODEL, gpu="l4", hub="try", hub_url=hub.url, hub_token=TOKEN, disk_gib=20, driver_version="535"
    )
    assert said["failed"]
    assert said["msg"].startswith("acme/assistant-8b can't be served on 1 x l4: acme/assistant-8b needs 31.")
    for reason in ("Set max_model_len to", "disk_gib is 20", "driver_version is 535, which is too old"):
        assert reason in said["msg"]
    assert TOKEN not in json.dumps(said)
    assert [check["name"] for check in said["checks"] if check["result"] == "refused"] == ["memory", "disk", "driver"]


def test_the_module_changes_nothing_and_warns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where other tests have loaded Ansible's controller, its warnings are shown at once and not returned.
    warned: list[str] = []
    monkeypatch.setattr("ansible.module_utils.basic.AnsibleModule.warn", lambda _module, text: warned.append(text))
    said = run(capsys, model="Qwen/Qwen3-8B", gpu="NVIDIA L4", max_model_len=8192, max_num_seqs=64)
    assert not said["changed"]
    assert said["memory"]["largest_context_tokens"] > 8192
    assert ["only 3 requests" in one for one in warned] == [True]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"gpu": "A100"}, "gpu 'A100' is several models; write one of: A100_40GB, A100_80GB."),
        ({"gpu": "GTX 1080"}, "gpu 'GTX 1080' is not known"),
        ({"disk_gib": -3}, "disk_gib is -3; it must be between 0 and 1048576."),
        ({"hub": "try", "hub_url": "ftp://hub"}, "hub_url 'ftp://hub' is not an address"),
    ],
)
def test_the_module_says_a_bad_option_in_one_sentence(
    wrong: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = run(capsys, **({"model": "Qwen/Qwen3-8B", "gpu": "L4"} | wrong))
    assert found["failed"]
    assert found["msg"].startswith(said)
