# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who asks Google, where that comes from, and that nobody else learns it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _accounts
from ansible_collections.gpuops.fleet.plugins.module_utils._provider import (
    AuthError,
    InvalidRequest,
    ProviderUnavailable,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._providers import gcp
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from emulators import gcp as emulator
from emulators.world import World
from support.gcp_calls import PLANTED


@pytest.fixture(scope="module")
def private_key() -> str:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    plain = serialization.NoEncryption()
    form, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(form, kind, plain).decode()


@pytest.fixture
def service_account(private_key: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its file, with the emulator as who gives tokens."""
    told = {
        "type": "service_account",
        "project_id": emulator.PROJECT,
        "private_key_id": "1",
        "private_key": private_key,
        "client_email": "fleet@example.com",
        "client_id": "1",
        "token_uri": url.removesuffix(emulator.URL_PATH) + "/token",
    }
    file = tmp_path / "account.json"
    file.write_text(json.dumps(told))
    monkeypatch.delenv("GCP_ACCESS_TOKEN")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    return file


def tokens(world: World) -> int:
    return len([one for one in world.calls if one["path"] == "/token"])


@pytest.mark.usefixtures("service_account")
def test_a_service_account_gets_a_token_and_names_the_project(url: str, world: World) -> None:
    provider = gcp.make({"api_url": url})
    assert provider.list() == []
    assert provider.list() == []
    assert tokens(world) == 1
    assert [one["path"] for one in world.calls][-1].startswith(f"/compute/v1/projects/{emulator.PROJECT}/")


@pytest.mark.usefixtures("service_account")
def test_a_token_that_is_over_is_followed_by_another(url: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator, "TOKEN_SECONDS", 60)  # the library takes what is nearly over for over
    provider = gcp.make({"api_url": url})
    provider.list()
    provider.list()
    assert tokens(world) == 2


def test_a_broken_file_is_told_without_what_stands_in_it(service_account: Path, url: str, private_key: str) -> None:
    secret = private_key.splitlines()[3]
    for text in (
        "{",
        service_account.read_text().replace("service_account", "other"),
        service_account.read_text()[:900],
    ):
        service_account.write_text(text)
        with pytest.raises(AuthError) as caught:
            gcp.make({"api_url": url, "project": "x"}).list()
        assert secret not in str(caught.value.as_failure())
        assert "GOOGLE_APPLICATION_CREDENTIALS" in caught.value.fix


@pytest.mark.usefixtures("service_account")
def test_who_gets_no_token_is_told_so(url: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from emulators.world import Fault

    world.faults = [Fault("POST", "/token$", status=400, body={"error": "invalid_grant", "hint": PLANTED}, times=None)]
    with pytest.raises(AuthError, match="RefreshError") as caught:
        gcp.make({"api_url": url}).list()
    assert PLANTED not in str(caught.value.as_failure())


def test_without_credentials_one_sentence_says_what_to_set(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GCP_ACCESS_TOKEN")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "nowhere.json"))
    with pytest.raises(AuthError, match="no credentials for gcp") as caught:
        gcp.make({"api_url": url, "project": "x"}).list()
    assert "GCP_ACCESS_TOKEN" in caught.value.fix


def test_without_a_project_one_sentence_says_what_to_set(url: str, world: World) -> None:
    with pytest.raises(InvalidRequest, match="no project") as caught:
        gcp.make({"api_url": url}).list()
    assert "provider_settings.gcp.project" in caught.value.fix
    assert world.calls == []


@pytest.mark.parametrize("variable", ["GCP_PROJECT", "GOOGLE_CLOUD_PROJECT"])
def test_the_project_may_come_from_the_environment(variable: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, emulator.PROJECT)
    assert gcp.make({"api_url": url}).list() == []


def test_with_a_token_the_library_is_not_needed_and_without_it_is_named(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [one for one in sys.modules if one == "google" or one.startswith("google.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "google.auth", None)
    settings = {"project": emulator.PROJECT, "api_url": url}
    assert gcp.make(settings).list() == []
    monkeypatch.delenv("GCP_ACCESS_TOKEN")
    with pytest.raises(ProviderUnavailable, match="google-auth"):
        gcp.make(settings).list()


def test_an_account_is_a_project_and_where_its_credentials_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the token: that is another one each hour, and what is cached would be lost with it."""
    label = _accounts.get("gcp", {"project": "one"}).label
    monkeypatch.setenv("GCP_ACCESS_TOKEN", "another")
    assert _accounts.get("gcp", {"project": "one"}).label == label
    assert _accounts.get("gcp", {"project": "two"}).label != label
    monkeypatch.delenv("GCP_ACCESS_TOKEN")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/a.json")
    other = _accounts.get("gcp", {"project": "one"}).label
    assert other != label
    assert PLANTED not in label
