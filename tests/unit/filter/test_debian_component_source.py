"""Another component of Debian, as the source of main stands there. What apt says to it: tests/integration."""

from __future__ import annotations

import pytest
from ansible_collections.gpuops.fleet.plugins.filter.debian_component_source import debian_component_source

MIRROR = "http://mirror.example/debian"
FIELDS = f"Types: deb deb-src\nURIs: {MIRROR}\nSuites: bookworm bookworm-updates\nComponents: main\n"
PARTS = "/etc/apt/sources.list.d"


def test_a_key_that_stands_in_the_source_itself_comes_along() -> None:
    key = "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n -----END PGP PUBLIC KEY BLOCK-----\n"
    found = debian_component_source(
        f"main|bookworm|{PARTS}/debian.sources:1|Debian\n", {f"{PARTS}/debian.sources": FIELDS + key}, "bookworm"
    )
    assert found["text"].endswith("Components: contrib\n" + key)
    assert found["text"].startswith("Types: deb\n"), "nobody asked for sources"


def test_a_cd_is_no_mirror() -> None:
    files = {
        "/etc/apt/sources.list": "deb cdrom:[Debian GNU/Linux 12 _Bookworm_]/ bookworm main\n"
        f"deb {MIRROR} bookworm main\n",
        f"{PARTS}/cd.sources": FIELDS.replace(MIRROR, "cdrom:[Debian]/"),
    }
    printed = (
        f"main|bookworm|{PARTS}/cd.sources:1|Debian\nmain|bookworm|/etc/apt/sources.list:1|Debian\n"
        "main|bookworm|/etc/apt/sources.list:2|Debian\n"
    )
    found = debian_component_source(printed, files, "bookworm")
    assert found == {"problem": "", "name": "debian-contrib.list", "text": f"deb {MIRROR} bookworm contrib\n"}


@pytest.mark.parametrize(
    "printed", ["", "main|trixie|/etc/apt/sources.list:1|Debian\n", "main|bookworm|/etc/apt/sources.list:9|Debian\n"]
)
def test_where_there_is_no_main_a_sentence_says_so(printed: str) -> None:
    files = {"/etc/apt/sources.list": f"deb {MIRROR} bookworm main\n"}
    found = debian_component_source(printed, files, "bookworm")
    assert found["text"] == ""
    assert found["problem"].startswith("No source of Debian bookworm with the component main is among those of apt")
    assert "by hand" in found["problem"]
