# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Private to gpuops.fleet: no promise of stability to other collections.
"""What providers ask whose own API says no price: by dated tables, each row with its source.

The tables stand beside this file as _prices_PROVIDER.py, because Ansible packs for a module only the Python that it
imports. What is in no row, and a row without a price, is unknown: then a maximum price refuses it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """US dollars for an hour of one item (a size of machine, or an accelerator) in one region; None: nobody knows.

    as_of is the day (2026-07-20) on which the source had this price.
    """

    item: str
    region: str
    price_per_hour_usd: float | None
    as_of: str
    source: str
    interruptible: bool = False


class Table:
    """The rows of one provider, by what is asked for."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = tuple(rows)
        self._by_key = {(row.item, row.region, row.interruptible): row for row in self.rows}
        if len(self._by_key) != len(self.rows):
            raise ValueError("an item stands twice in a table of prices, for the same region.")

    def row(self, item: str, region: str, interruptible: bool = False) -> Row | None:
        return self._by_key.get((item, region, interruptible))

    def price_per_hour_usd(self, item: str, region: str, interruptible: bool = False) -> float | None:
        """None when it is unknown, never 0 for it."""
        row = self.row(item, region, interruptible)
        return row.price_per_hour_usd if row else None
