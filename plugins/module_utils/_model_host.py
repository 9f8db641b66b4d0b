# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What a host must have for a model, beside a GPU with memory: disk, a token for the hub, a driver. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from ansible_collections.gpuops.fleet.plugins.module_utils._model_engines import (
    DRIVERS,
    OLDER_CUDA,
    Engine,
    engine_of,
    numbers,
    words,
)
from ansible_collections.gpuops.fleet.plugins.module_utils._model_types import (
    PASSED,
    REFUSED,
    UNKNOWN,
    WARNED,
    Check,
    Model,
    Wish,
)

_GIB = 1024**3
_SPARE_GIB = 10  # for the system, logs and compiled kernels; less is tight


def checks(wish: Wish, model: Model | None, engine: Engine) -> Iterator[Check]:
    yield from _disk(wish, model, engine)
    yield from _token(wish, model)
    yield from _driver(wish, engine)


def _disk(wish: Wish, model: Model | None, engine: Engine) -> Iterator[Check]:
    if not wish.disk_gib:
        return
    if model is None or not model.weights_bytes:
        yield Check("disk", UNKNOWN, f"How much disk {wish.model} takes is not known here.", "Set hub to try.")
        return
    weights = -(-model.weights_bytes // _GIB)
    image = engine.image.size_gib if engine.image and wish.disk_holds_image else 0
    detail = f"disk_gib is {wish.disk_gib}; the weights of {wish.model} take {weights} GiB"
    detail += f", and the image at least {image}." if image else "."
    needed = weights + image
    fix = f"Set disk_gib to {needed + _SPARE_GIB} or more."
    if wish.disk_gib < needed:
        yield Check("disk", REFUSED, detail, fix)
    elif wish.disk_gib < needed + _SPARE_GIB:
        yield Check("disk", WARNED, detail, f"That leaves little for the system and for compiled kernels. {fix}")
    else:
        yield Check("disk", PASSED, detail)


def _token(wish: Wish, model: Model | None) -> Iterator[Check]:
    if model is None or not wish.from_hub:
        return
    if model.gated and not wish.has_hub_token:
        detail = (
            f"{wish.model} is gated: the hub gives it to accounts that accepted its terms, and hub_token is not set."
        )
        fix = f"Accept them at https://huggingface.co/{wish.model}, and set hub_token (vllm_hub_token)."
        yield Check("hub_token", REFUSED, detail, fix)
    elif model.gated:
        detail = f"{wish.model} is gated, and there is a token" + (
            ", which the hub accepted." if model.origin == "hub" else "; whether it opens it was not tried."
        )
        yield Check("hub_token", PASSED, detail)


def _driver(wish: Wish, engine: Engine) -> Iterator[Check]:
    if engine.image is None or not (wish.driver_version or wish.cuda_version):
        return
    cuda = engine.image.cuda
    lowest = DRIVERS[cuda[0]][0]
    fix = f"Take a host with driver {words(lowest)} or newer{_older(engine, wish)}."
    for field, needed in (("driver_version", lowest), ("cuda_version", (cuda[0],))):
        said = getattr(wish, field)
        if not said:
            continue
        found = numbers(said)
        if not found:
            raise ValueError(
                f"{field} is '{said}', which is no version; write it as nvidia-smi does, such as 580.95.05."
            )
        detail = f"{wish.image} is built for CUDA {words(cuda)}, and {field} is {said}"
        if found < needed:
            yield Check("driver", REFUSED, f"{detail}, which is too old: it takes {words(needed)} at least.", fix)
        else:
            yield Check("driver", PASSED, f"{detail}.")


def driver_of(image: str) -> tuple[str, str]:
    """The first driver branch that runs an image, and why, for people; both empty where nobody knows."""
    engine = engine_of(image)
    if engine.image is None:
        return "", ""
    lowest = DRIVERS[engine.image.cuda[0]][0]
    why = f"vllm_image {image} is built for CUDA {words(engine.image.cuda)}"
    if engine.image.cuda[0] > OLDER_CUDA.cuda[0]:
        why += f"; v{words(engine.version)}-cu129 runs with {words(DRIVERS[OLDER_CUDA.cuda[0]][0])}"
    return words(lowest), why


def _older(engine: Engine, wish: Wish) -> str:
    """The same version for the CUDA before, where there is one and the driver has it."""
    if engine.image is None or engine.image.cuda[0] <= OLDER_CUDA.cuda[0]:
        return ""
    lowest = DRIVERS[OLDER_CUDA.cuda[0]][0]
    said, known = numbers(wish.driver_version), numbers(wish.cuda_version)
    if (said and said < lowest) or (known and known < OLDER_CUDA.cuda[:1]):
        return ""
    return f", or the image's tag for CUDA {words(OLDER_CUDA.cuda)} (v{words(engine.version)}-cu129)"
