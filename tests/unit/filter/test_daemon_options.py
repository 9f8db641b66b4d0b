"""daemon.json is merged, never overwritten."""

from __future__ import annotations

import json

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.gpuops.fleet.plugins.filter.daemon_options import FilterModule
from hypothesis import given
from hypothesis import strategies as st

daemon_options = FilterModule().filters()["daemon_options"]
DEFAULTS = {"log-driver": "json-file", "log-opts": {"max-size": "10m", "max-file": "3"}, "live-restore": True}
VALUES = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
OPTIONS = st.dictionaries(st.sampled_from(["a", "b", "c", "live-restore"]), VALUES, max_size=4)


def test_no_file() -> None:
    assert daemon_options("", DEFAULTS) == DEFAULTS


def test_what_stands_there_wins_over_defaults_and_options_win_over_both() -> None:
    text = '{"live-restore": false, "data-root": "/data", "log-opts": {"max-file": "9"}}'
    merged = daemon_options(text, DEFAULTS, {"log-opts": {"max-size": "1m"}})
    assert merged["live-restore"] is False
    assert merged["data-root"] == "/data"
    assert merged["log-opts"] == {"max-size": "1m", "max-file": "9"}


def test_lists_are_joined_without_duplicates() -> None:
    text = '{"insecure-registries": ["a:1", "b:1"]}'
    assert daemon_options(text, {}, {"insecure-registries": ["b:1", "c:1"]})["insecure-registries"] == [
        "a:1",
        "b:1",
        "c:1",
    ]


def test_runtimes_of_the_nvidia_toolkit_stay() -> None:
    text = '{"runtimes": {"nvidia": {"path": "nvidia-container-runtime", "args": []}}}'
    assert daemon_options(text, DEFAULTS)["runtimes"]["nvidia"]["path"] == "nvidia-container-runtime"


def test_rotation_is_not_forced_onto_another_log_driver() -> None:
    """journald refuses max-size, and then no container starts."""
    assert "log-opts" not in daemon_options('{"log-driver": "journald"}', DEFAULTS)
    assert "log-opts" not in daemon_options("", DEFAULTS, {"log-driver": "journald"})


def test_live_restore_is_left_out_in_a_swarm() -> None:
    assert "live-restore" not in daemon_options("", DEFAULTS, swarm=True)


@pytest.mark.parametrize("text", ["{", "[]", "1", '"text"'])
def test_a_broken_file_is_an_error_and_not_overwritten(text: str) -> None:
    with pytest.raises(AnsibleFilterError, match="not overwritten"):
        daemon_options(text, DEFAULTS)


@given(existing=OPTIONS, defaults=OPTIONS, options=OPTIONS)
def test_a_second_merge_changes_nothing(
    existing: dict[str, object], defaults: dict[str, object], options: dict[str, object]
) -> None:
    once = daemon_options(json.dumps(existing), defaults, options)
    assert daemon_options(json.dumps(once), defaults, options) == once


@given(existing=OPTIONS, defaults=OPTIONS, options=OPTIONS)
def test_no_key_is_lost(existing: dict[str, object], defaults: dict[str, object], options: dict[str, object]) -> None:
    assert {*existing, *options} <= set(daemon_options(json.dumps(existing), defaults, options))
