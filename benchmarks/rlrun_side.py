"""One measurement of rlrun: the command line as users run it, and one callback with a clock.

python rlrun_side.py <rlrun arguments>
"""

from __future__ import annotations

import atexit
import sys
from typing import Any

from meter import Meter

METER = Meter()


def main() -> None:
    from rlrun.cli import main as rlrun_main

    atexit.register(METER.print)
    rlrun_main([*sys.argv[1:], "callbacks.meter._target_=rlrun_side.MeterCallbacks"])


if __name__ == "__main__":
    sys.modules["rlrun_side"] = sys.modules["__main__"]

    from rlrun.core.callbacks import Callbacks

    class MeterCallbacks(Callbacks):
        """Ticks after each iteration; logging and checkpoints fall between two ticks."""

        def on_train_result(self, *, trainer: Any, result: dict[str, Any], **kwargs: Any) -> None:
            METER.tick(result["timesteps_total"])

    main()
