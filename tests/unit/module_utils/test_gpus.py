# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.gpuops.fleet.plugins.module_utils import _gpus


@pytest.mark.parametrize(
    ("text", "name"),
    [("L4", "L4"), ("rtx 4090", "RTX_4090"), ("a100-80gb", "A100_80GB"), ("NVIDIA GeForce RTX 3090", "RTX_3090")],
)
def test_spellings_resolve_to_one_name(text: str, name: str) -> None:
    assert _gpus.resolve(text).name == name


@pytest.mark.parametrize(
    ("text", "near"), [("A100", "A100_40GB, A100_80GB"), ("L40X", "L40"), ("RTX_4091", "RTX_4090")]
)
def test_unknown_names_are_refused_with_the_nearest(text: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"gpu '{text}' is not known.*{near}"):
        _gpus.resolve(text)


def test_no_spelling_means_two_gpus() -> None:
    spellings = [_gpus._normal(name) for gpu in _gpus._TABLE for name in (gpu.name, *gpu.aliases)]
    assert len(spellings) == len(set(spellings))
