# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Model files come whole from a hub that cuts, lies and refuses, and nothing is asked for twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.load_program import load_program
from support.planted_hub import COMMIT, FILES, MODEL, WANTED, WEIGHTS, PlantedHub

SCRIPT = Path(__file__).parents[4] / "roles/vllm/files/fetch_model.py"
TOKEN = "hf_planted-canary-0123456789"  # noqa: S105 (opens nothing)


fetch_model = load_program(SCRIPT)


@pytest.fixture
def hub() -> Iterator[PlantedHub]:
    planted = PlantedHub()
    yield planted
    planted.close()


class Fetched:
    """Fetches into a cache, and notes the pauses instead of making them."""

    def __init__(self, hub: PlantedHub, cache: Path) -> None:
        self.hub, self.cache, self.pauses = hub, cache, list[float]()

    def __call__(self, token: str = "", revision: str = "main") -> dict[str, Any]:
        wanted = fetch_model.Hub(self.hub.url, MODEL, revision, token)
        return dict(fetch_model.Fetch(wanted, self.cache, self.pauses.append).run())

    @property
    def home(self) -> Path:
        return self.cache / "hub/models--acme--assistant-1b"

    @property
    def snapshot(self) -> Path:
        return self.home / "snapshots" / COMMIT

    def is_whole(self) -> bool:
        return all((self.snapshot / name).read_bytes() == FILES[name] for name in WANTED)


@pytest.fixture
def fetch(hub: PlantedHub, tmp_path: Path) -> Fetched:
    return Fetched(hub, tmp_path)


def test_files_lie_where_the_server_looks_for_them_offline(fetch: Fetched) -> None:
    result = fetch()
    assert result == {"changed": True, "commit": COMMIT, "bytes": sum(len(FILES[name]) for name in WANTED)}
    assert fetch.is_whole()
    assert (fetch.home / "refs/main").read_text() == COMMIT
    link = fetch.snapshot / "model.safetensors"
    assert not os.path.isabs(os.readlink(link)), "the cache has another path inside the container"
    assert link.resolve().parent == fetch.home / "blobs"


def test_what_other_programs_read_is_left_out(fetch: Fetched) -> None:
    fetch()
    assert sorted(path.name for path in fetch.snapshot.rglob("*") if path.is_file()) == sorted(WANTED)


def test_pickled_weights_are_taken_where_there_are_no_others(tmp_path: Path) -> None:
    planted = PlantedHub({"config.json": b"{}", "pytorch_model.bin": b"pickled", "tf_model.h5": b"other"})
    try:
        fetched = Fetched(planted, tmp_path)
        fetched()
        assert sorted(path.name for path in fetched.snapshot.iterdir()) == ["config.json", "pytorch_model.bin"]
    finally:
        planted.close()


def test_the_second_run_changes_nothing_and_asks_nobody(fetch: Fetched, hub: PlantedHub) -> None:
    fetch()
    hub.asked.clear()
    hub.commit = "f" * 40  # the branch has moved
    assert fetch()["changed"] is False
    assert hub.asked == []


def test_a_cut_download_goes_on_where_it_ended(fetch: Fetched, hub: PlantedHub) -> None:
    hub.cuts_after = 700_000
    fetch()
    assert fetch.is_whole()
    ranges = hub.ranges("model.safetensors")
    assert ranges == [None, *(f"bytes={start}-" for start in range(700_000, len(WEIGHTS), 700_000))]


def test_a_killed_run_is_gone_on_with(fetch: Fetched, hub: PlantedHub) -> None:
    def killed(_seconds: float) -> None:
        raise KeyboardInterrupt

    hub.cuts_after = 1_000_000
    wanted = fetch_model.Hub(hub.url, MODEL, "main", "")
    with pytest.raises(KeyboardInterrupt):
        fetch_model.Fetch(wanted, fetch.cache, killed).run()
    assert not fetch.snapshot.exists(), "nobody may take it for whole"
    hub.cuts_after = None
    hub.asked.clear()
    fetch()
    assert hub.ranges("model.safetensors") == ["bytes=1000000-"]
    assert fetch.is_whole()


def test_a_hub_that_knows_no_parts_begins_again(fetch: Fetched, hub: PlantedHub) -> None:
    hub.ignores_ranges, hub.cuts_after = True, 2_900_000
    partial = fetch.home / "blobs" / f"{hub.listing()['siblings'][1]['lfs']['sha256']}.incomplete"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(WEIGHTS[:100])
    with pytest.raises(fetch_model.FetchError, match="6 times in a row"):
        fetch()
    hub.cuts_after = None
    fetch()
    assert fetch.is_whole()


def test_wrong_bytes_are_thrown_away(fetch: Fetched, hub: PlantedHub) -> None:
    hub.lies = ["model.safetensors", "tokenizer.json"]
    fetch()
    assert fetch.is_whole()
    assert hub.ranges("model.safetensors") == [None, None]


def test_wrong_bytes_twice_are_an_error_and_never_there(fetch: Fetched, hub: PlantedHub) -> None:
    hub.lies = ["model.safetensors"] * 2
    with pytest.raises(fetch_model.FetchError, match=r"model\.safetensors of .* with a wrong checksum, twice"):
        fetch()
    assert not (fetch.snapshot / "model.safetensors").exists()


def test_what_rotted_on_the_disk_is_fetched_again(fetch: Fetched, hub: PlantedHub) -> None:
    fetch()
    blob = (fetch.snapshot / "model.safetensors").resolve()
    blob.write_bytes(bytes(len(WEIGHTS)))
    os.utime(blob, ns=(1, 1))
    hub.asked.clear()
    assert fetch()["changed"] is True
    assert fetch.is_whole()
    assert len(hub.asked) == 1


def test_what_the_server_itself_had_downloaded_is_taken(fetch: Fetched, hub: PlantedHub) -> None:
    """The hub's own library names its blobs in the same way."""
    blob = fetch.home / "blobs" / hub.listing()["siblings"][1]["lfs"]["sha256"]
    blob.parent.mkdir(parents=True)
    blob.write_bytes(WEIGHTS)
    fetch()
    assert fetch.is_whole()
    assert hub.ranges("model.safetensors") == []


def test_waits_as_long_as_the_hub_says(fetch: Fetched, hub: PlantedHub) -> None:
    hub.refuses = [429, 503]
    fetch()
    assert fetch.pauses == [7.0, 7.0]
    assert fetch.is_whole()


def test_gives_up_after_a_bounded_number_of_tries(fetch: Fetched, hub: PlantedHub) -> None:
    hub.refuses = [500] * 100
    with pytest.raises(fetch_model.FetchError, match=r"status 500, 6 times in a row\. Look at the network"):
        fetch()
    assert len(hub.asked) == 6


def test_a_token_goes_to_the_hub_and_to_nobody_else(fetch: Fetched, hub: PlantedHub) -> None:
    hub.token = TOKEN
    hub.store = PlantedHub()
    try:
        fetch(TOKEN)
        assert fetch.is_whole()
        assert {token for _path, _range, token in hub.asked} == {f"Bearer {TOKEN}"}
        assert {token for _path, _range, token in hub.store.asked} == {None}
        assert len(hub.store.asked) == len(WANTED) - 1  # an empty file needs no asking
    finally:
        hub.store.close()


@pytest.mark.parametrize(
    ("status", "token", "sentence"),
    [
        (401, "", r"doesn't give acme/assistant-1b without a token .*set vllm_hub_token"),
        (403, "", "private, gated or not there"),
        (403, TOKEN, "Accept the model's terms with the token's account"),
        (404, "", r"has no model acme/assistant-1b with the revision main.*Correct vllm_model or"),
        (418, "", "answers with status 418"),
    ],
)
def test_refusals_are_sentences_and_not_asked_again(
    fetch: Fetched, hub: PlantedHub, status: int, token: str, sentence: str
) -> None:
    hub.refuses = [status] * 2
    with pytest.raises(fetch_model.FetchError, match=sentence) as caught:
        fetch(token)
    assert "planted" not in str(caught.value)
    assert len(hub.asked) == 1


def test_a_full_disk_is_told_before_anything_comes(
    fetch: Fetched, hub: PlantedHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = os.statvfs_result((4096, 4096, 1000, 1000, 1000, 1, 1, 1, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: small)
    with pytest.raises(fetch_model.FetchError, match=r"needs 0\.0 GiB more in .* but only 0\.0 GiB are free"):
        fetch()
    assert [path for path, _range, _token in hub.asked] == [f"/api/models/{MODEL}/revision/main?blobs=true"]


@pytest.mark.parametrize("path", ["../../../etc/cron.d/x", "/etc/passwd", "a\\b", "a//b", ".", "a\nb"])
def test_a_hub_that_names_no_files_is_refused(fetch: Fetched, hub: PlantedHub, path: str) -> None:
    hub.about = {"sha": COMMIT, "siblings": [{"rfilename": path, "size": 1, "blobId": "a" * 40}]}
    with pytest.raises(fetch_model.FetchError, match="which is no name of a file"):
        fetch()


@pytest.mark.parametrize(
    ("about", "sentence"),
    [
        ({"error": "no"}, "it is no model hub. Correct vllm_hub_url"),
        ({"sha": "main", "siblings": []}, "it is no model hub"),
        ({"sha": COMMIT, "siblings": [{"rfilename": "model.safetensors"}]}, "so it can't be verified"),
        ({"sha": COMMIT, "siblings": [{"rfilename": "a.gguf", "size": 1, "blobId": "a" * 40}]}, "GGUF is not read"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(fetch: Fetched, hub: PlantedHub, about: Any, sentence: str) -> None:
    hub.about = about
    with pytest.raises(fetch_model.FetchError, match=sentence):
        fetch()


@pytest.mark.parametrize(
    ("url", "token", "sentence"),
    [
        ("huggingface.co", "", "vllm_hub_url is not an address"),
        ("https://me:planted@hub.example.org", "", "vllm_hub_url is not an address"),
        ("http://hub.example.org", TOKEN, "vllm_hub_token is not sent there"),
        ("https://hub.example.org", f"{TOKEN}\r\nX: y", "vllm_hub_token is no token"),
    ],
)
def test_a_bad_address_or_token_is_refused(url: str, token: str, sentence: str) -> None:
    with pytest.raises(fetch_model.FetchError, match=sentence) as caught:
        fetch_model.Hub(url, MODEL, "main", token)
    assert "planted" not in str(caught.value)


def run(hub: PlantedHub, cache: Path, *arguments: str) -> int:
    own = (f"--uid={os.getuid()}", f"--gid={os.getgid()}")
    return int(fetch_model.main([MODEL, f"--hub={hub.url}", f"--cache={cache}", *own, *arguments]))


def test_the_command_prints_one_line_and_never_the_token(
    hub: PlantedHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.token = TOKEN
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert run(hub, tmp_path / "cache", f"--token-file={tmp_path / 'token'}") == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["commit"] == COMMIT
    assert run(hub, tmp_path / "other") == 1
    output = capsys.readouterr()
    assert output.err.count("\n") == 1
    assert "set vllm_hub_token" in output.err
    assert "planted" not in output.out + output.err
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert [path for path in files if b"planted" in path.read_bytes()] == []


def test_looking_asks_nobody_and_writes_nothing(
    hub: PlantedHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(hub, tmp_path / "cache", "--look") == 0
    assert json.loads(capsys.readouterr().out) == {"complete": False}
    assert list(tmp_path.iterdir()) == []
    assert hub.asked == []
    run(hub, tmp_path / "cache")
    hub.asked.clear()
    capsys.readouterr()
    run(hub, tmp_path / "cache", "--look")
    assert json.loads(capsys.readouterr().out) == {"complete": True}
    assert hub.asked == []


@pytest.mark.parametrize("gone", ["snapshots", "blobs", "refs"])
def test_what_somebody_removed_is_brought_again(fetch: Fetched, gone: str) -> None:
    fetch()
    shutil.rmtree(fetch.home / gone)
    assert fetch()["changed"] is True
    assert fetch.is_whole()
    assert (fetch.home / "refs/main").read_text() == COMMIT


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up rights")
def test_root_writes_as_the_servers_user_only(hub: PlantedHub) -> None:
    """What lies in the cache may be the server's own link: root never follows it."""
    with tempfile.TemporaryDirectory() as place:  # not pytest's, which only root may enter
        os.chmod(place, 0o711)  # noqa: S103 (that user has to get to what is its own)
        cache = Path(place, "cache")
        cache.mkdir()
        os.chown(cache, 54321, 54321)
        arguments = [MODEL, f"--hub={hub.url}", f"--cache={cache}", "--uid=54321", "--gid=54321"]
        subprocess.run([sys.executable, SCRIPT, *arguments], check=True, stdout=subprocess.DEVNULL)
        entries = [path.lstat() for path in cache.rglob("*")]
        assert entries
        assert {(entry.st_uid, entry.st_gid) for entry in entries} == {(54321, 54321)}
