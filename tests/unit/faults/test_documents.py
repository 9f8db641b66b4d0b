# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user must be told before and after: what is open to whom, and what to do when something goes wrong."""

from __future__ import annotations

import re

from support.local_play import ROOT

PARTS = ["Cause", "Command", "Mend"]


def test_the_readme_says_what_is_exposed_and_what_guards_it() -> None:
    text = (ROOT / "README.md").read_text()
    (section,) = re.findall(r"^##+ Security\n(.*?)(?=^##+ )", text, re.MULTILINE | re.DOTALL)
    assert "SECURITY.md" in section
    for word in ("open", "firewall", "key", "TLS"):
        assert re.search(rf"\b{word}", section), word
    # Ports by their numbers: what somebody has to compare with his own list.
    assert {"22", "443", "8000", "9092", "27017"} <= set(re.findall(r"\b[0-9]{2,5}\b", section))


def test_the_guide_has_an_entry_for_each_symptom_with_what_to_do() -> None:
    text = (ROOT / "TROUBLESHOOTING.md").read_text()
    entries = dict(re.findall(r"^### (.+)\n((?:(?!##).*\n?)*)", text, re.MULTILINE))
    assert len(entries) >= 40
    assert len(entries) == len(re.findall(r"^### ", text, re.MULTILINE)), "a symptom stands there twice"
    for symptom, entry in entries.items():
        assert len(entry.split()) >= 8, symptom
        # Who names one of the parts has all of them, in this order.
        assert re.findall(r"^- \*\*(\w+):\*\* \S", entry, re.MULTILINE) in ([], PARTS), symptom
