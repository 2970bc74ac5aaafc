"""Who watches a sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlrun.sweep.driver import SweepDriver


class SweepObserver:
    """Is told what happens in a sweep, in the driver's process and thread, and changes nothing.

    What it raises ends the sweep as Ctrl-C would, so it had better raise nothing.
    """

    def on_start(self, driver: SweepDriver) -> None:
        """Before the first trial starts; what a resumed sweep has done before is known."""

    def on_change(self, driver: SweepDriver) -> None:
        """Results have come, or trials have another status: once for all that came at once."""

    def on_tick(self, driver: SweepDriver) -> None:
        """About twice a second, whatever happens."""

    def on_end(self, driver: SweepDriver) -> None:
        """No trial runs any more, and none will start."""
