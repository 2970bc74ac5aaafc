"""The run at a glance: a live display in a terminal, plain lines where there is none."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from time import monotonic
from typing import Any

from rlrun.loggers.base import Logger, RunInfo, first_rule_met, tuned_or_general
from rlrun.loggers.terminal import (
    discard_stdout,
    duration,
    from_here,
    is_stdout_closed,
    is_terminal,
    number,
    print_line,
    steady_console,
)

_GAINS = {
    "training_iteration": "",
    "timesteps_total": "timesteps_this_iter",
    "episodes_total": "episodes_this_iter",
    "time_total_s": "time_this_iter_s",
}
"""Keys that only grow, each with the key of its growth in one iteration (an iteration's is 1)."""

_PACE_ITERATIONS = 20

_NARROW_COLUMNS = 64
"""In windows below this the numbers stand one in a row."""

_SPARKS = "▁▂▃▄▅▆▇█"
_PLAIN_SPARKS = "_.-=+*#@"
"""For outputs that cannot show the others."""
_SPARKLINE_WIDTH = 40
_LARGEST_SPARK = 1e300  # sums and differences of larger numbers are infinite
_HISTORY_ITERATIONS = 4000

_MAIN_NUMBERS = (
    *("total_loss", "policy_loss", "vf_loss", "actor_loss", "critic_loss", "td_error", "mean_q"),
    *("entropy", "kl", "vf_explained_var", "grad_norm", "cur_lr"),
)
"""Of what a learner reports, that which is shown with -v, in this order."""
_MOST_NUMBERS = 6

_LEAST_BAR_WIDTH, _LARGEST_BAR_WIDTH = 10, 40
_LONGEST_TASK = 40
_WIDEST_LABEL = len("evaluation")

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class ConsoleLogger(Logger):
    """Shows progress toward the nearest stop rule, rewards and their trend, throughput and time by
    phase with the bottleneck; of runs that have them, evaluation, the curriculum's task, the last
    video; with -v the learner's main numbers.

    A terminal gets a Rich display that is redrawn in place; anything else gets plain lines. If the
    output goes away (a closed pipe or terminal), the console goes quiet and training goes on.
    """

    refresh_interval_s: float = 0.5
    """Seconds between two redraws of the live display, at least."""
    plain_interval_s: float = 5.0
    """Seconds between two plain lines, at least; the first and the last result always get one."""

    def start(self, run: RunInfo) -> None:
        is_live = is_terminal()
        self._interval_s = self.refresh_interval_s if is_live else self.plain_interval_s
        self._folder = run.folder
        self._progress = _Progress(run.stop, run.config.get("log_level") in ("INFO", "DEBUG"))
        self._next_s = -math.inf
        self._is_shown = True
        self._view: _View = _LiveView(run) if is_live else _PlainView()
        values = tuned_or_general(run.config["tuned"]) if "tuned" in run.config else ""
        self._safely(lambda: self._view.open(values))

    def log_result(self, result: dict[str, Any]) -> None:
        self._progress.add(result)
        self._is_shown = False
        if monotonic() >= self._next_s:
            self._show()

    def close(self, status: str) -> None:
        if not self._is_shown:
            self._show()
        has_result = bool(self._progress.result)
        summary = self._progress.line("elapsed") if has_result else "no result yet"
        rule = self._progress.rule_met() if status == "finished" else None
        ended = f"{status} by {rule}" if rule else status
        # Two lines, as one would be broken anywhere in a terminal of 110 columns.
        where = f"{ended}  results in {from_here(self._folder)}"
        self._safely(lambda: self._view.close(f"{summary}\n{where}"))

    def _show(self) -> None:
        self._safely(lambda: self._view.show(self._progress))
        self._is_shown = True
        self._next_s = monotonic() + self._interval_s

    def _safely(self, write: Callable[[], None]) -> None:
        try:
            write()
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) and not is_stdout_closed():
                raise  # no fault of the output's
            broken, self._view = self._view, _View()
            with suppress(OSError, ValueError):
                broken.close("")
            discard_stdout()
            _log.warning("The console went quiet (%s); results go on in %s", error, self._folder)


class _Progress:
    """The last result, the pace of late, and how far it is to the nearest stop rule."""

    def __init__(self, stop: dict[str, float], is_verbose: bool = False) -> None:
        self.result: dict[str, Any] = {}
        self.rewards: deque[float] = deque(maxlen=_HISTORY_ITERATIONS)
        """Mean returns of the iterations so far, those that are known."""
        self._is_verbose = is_verbose
        self._video = ""
        self._phases: deque[dict[str, float]] = deque(maxlen=_PACE_ITERATIONS)
        self._rules = stop
        self._stop = {key: stop[key] for key in _GAINS if stop.get(key, 0) > 0}
        self._evaluation: dict[str, Any] = {}
        self._gains: deque[dict[str, float]] = deque(maxlen=_PACE_ITERATIONS)

    def add(self, result: dict[str, Any]) -> None:
        self.result = result
        evaluation = result.get("evaluation")
        if isinstance(evaluation, dict):
            self._evaluation = evaluation
        reward = result.get("episode_reward_mean")
        if reward is not None and _is_number(reward):
            self.rewards.append(float(reward))
        self._phases.append(result.get("time_by_phase") or {})
        self._video = next(iter(reversed(result.get("videos") or [self._video])))
        gains = {total: result.get(gain, math.nan) for total, gain in _GAINS.items()}
        self._gains.append({**gains, "training_iteration": 1})

    def rate(self, key: str) -> float:
        """How fast a growing key grows, per second over the last iterations."""
        seconds = sum(gains["time_total_s"] for gains in self._gains)
        return sum(gains[key] for gains in self._gains) / seconds if seconds else math.nan

    def rule_met(self) -> str | None:
        """The stop rule that the last result meets, if any."""
        return first_rule_met(self._rules, self.result)

    def evaluation(self) -> str:
        """The last evaluation's mean return, or "" before the first one."""
        reward = self._evaluation.get("episode_reward_mean")
        return number(reward) if _is_number(reward) else ""

    def shares(self) -> dict[str, float]:
        """The share of each phase in the time of the last iterations, the largest first."""
        seconds: dict[str, float] = {}
        for phases in self._phases:
            for phase, each in phases.items():
                seconds[phase] = seconds.get(phase, 0.0) + each
        total = sum(seconds.values())
        ranked = sorted(seconds, key=lambda phase: -seconds[phase]) if total else []
        return {phase: seconds[phase] / total for phase in ranked}

    def numbers(self) -> dict[str, str]:
        """The learner's main numbers, if they are asked for by -v."""
        learner: dict[str, Any] = self.result.get("info", {}).get("learner", {})
        policies = list(learner.values()) if self._is_verbose else []
        stats = policies[0].get("learner_stats", {}) if policies else {}
        known = [name for name in _MAIN_NUMBERS if _is_number(stats.get(name))]
        return {name: number(stats[name]) for name in known[:_MOST_NUMBERS]}

    def more(self) -> dict[str, str]:
        """What not every run has to show, as text by its label."""
        shares = [f"{phase} {share:.0%}" for phase, share in self.shares().items() if share >= 0.01]
        if shares:
            shares[0] += " (bottleneck)"
        found = {
            "evaluation": self.evaluation(),
            "task": _short(self.result.get("env_task")),
            "time": "  ".join(shares),
            "learner": "  ".join(f"{name} {text}" for name, text in self.numbers().items()),
            "video": self._video,
        }
        return {label: text for label, text in found.items() if text}

    def nearest_rule(self) -> tuple[str, float, float]:
        """The key, value and target of the rule with the largest part done; key "" if none."""
        rules = [(key, self.result.get(key, 0), target) for key, target in self._stop.items()]
        return max(rules, key=lambda rule: rule[1] / rule[2], default=("", 0, math.nan))

    def eta_s(self) -> float:
        key, value, target = self.nearest_rule()
        rate = self.rate(key) if key else math.nan
        return max(0.0, target - value) / rate if rate else math.nan

    def texts(self) -> dict[str, str]:
        """What there is to show, as text by its label."""
        result = self.result
        low, high = result.get("episode_reward_min"), result.get("episode_reward_max")
        reward = number(result.get("episode_reward_mean"))
        return {
            "iter": number(result.get("training_iteration"), "d"),
            "steps": number(result.get("timesteps_total"), "d"),
            "reward": f"{reward} (min {number(low)}, max {number(high)})",
            "len": number(result.get("episode_len_mean")),
            "episodes": number(result.get("episodes_total"), "d"),
            "steps/s": number(self.rate("timesteps_total"), "d"),
            "elapsed": duration(result.get("time_total_s", math.nan)),
            "eta": duration(self.eta_s()),
        }

    def line(self, time_label: str = "eta") -> str:
        texts = self.texts()
        pace = f"{texts['steps/s']} steps/s"
        before = [f"{label} {texts[label]}" for label in ("iter", "steps", "reward", "len")]
        more = self.more()
        before[3:3] = [
            f"{label} {more[label]}" for label in ("evaluation", "task") if label in more
        ]
        line = "  ".join([*before, pace, f"{time_label} {texts[time_label]}"])
        if time_label != "eta":
            return line  # the last one, which is to fit into a terminal
        shares = list(self.shares().items())[:1]
        mostly = [f"bottleneck {phase} {share:.0%}" for phase, share in shares]
        return "  ".join([line, *mostly, *([more["learner"]] if "learner" in more else [])])


class _View:
    """Where progress is shown; this one is nowhere."""

    def open(self, heading: str) -> None: ...

    def show(self, progress: _Progress) -> None: ...

    def close(self, summary: str) -> None: ...


class _PlainView(_View):
    def open(self, heading: str) -> None:
        if heading:
            print_line(heading)

    def show(self, progress: _Progress) -> None:
        print_line(progress.line())

    def close(self, summary: str) -> None:
        print_line(summary)


class _LiveView(_View):
    def __init__(self, run: RunInfo) -> None:
        from rich.live import Live
        from rich.text import Text

        self._title = Text.assemble((run.name, "bold"), "  ", (str(from_here(run.folder)), "dim"))
        self._title.no_wrap, self._title.overflow = True, "ellipsis"
        self._live = Live(self._title, console=steady_console(), auto_refresh=False)

    def open(self, heading: str) -> None:
        if heading:
            self._live.console.print(heading, highlight=False)
        self._live.start(refresh=True)

    def show(self, progress: _Progress) -> None:
        """Draw a bar toward the nearest stop rule, the numbers, and what else there is."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        numbers, below = Table.grid(padding=(0, 2)), Table.grid(padding=(0, 2))
        texts = list(progress.texts().items())
        is_narrow = self._live.console.width < _NARROW_COLUMNS
        columns = [texts] if is_narrow else [texts[:4], texts[4:]]
        for row in zip(*columns, strict=True):
            numbers.add_row(*(text for pair in row for text in pair))
        sparks = _SPARKS if _can_show(_SPARKS, self._live.console.encoding) else _PLAIN_SPARKS
        trend = {"trend": sparkline(progress.rewards, sparks)} if len(progress.rewards) > 1 else {}
        room = self._live.console.width - _WIDEST_LABEL - 2
        for label, text in {**trend, **progress.more()}.items():
            below.add_row(label, Text(_as_fits(text, room), no_wrap=True, overflow="ellipsis"))
        self._live.update(Group(self._title, *self._bar(progress), numbers, below), refresh=True)

    def _bar(self, progress: _Progress) -> list[Any]:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        key, value, target = progress.nearest_rule()
        if not key:
            return []
        goal = f"{value / target:.0%}  {key} {number(value, 'd')} of {number(target, 'd')}"
        bar = Table.grid(padding=(0, 2))
        room = self._live.console.width - len(goal) - 2
        text = Text(goal, no_wrap=True, overflow="ellipsis")
        if room < _LEAST_BAR_WIDTH:
            return [text]
        width = min(room, _LARGEST_BAR_WIDTH)
        bar.add_row(ProgressBar(total=target, completed=value, width=width), text)
        return [bar]

    def close(self, summary: str) -> None:
        from rich.text import Text

        self._live.stop()
        self._live.console.print(Text(summary), soft_wrap=True)


def sparkline(values: Sequence[float], sparks: str = _SPARKS) -> str:
    """Values as a row of bars, the last one on the right; of several that share a bar, the mean."""
    count = min(len(values), _SPARKLINE_WIDTH)
    bounds = [round(index * len(values) / count) for index in range(count + 1)]
    known = [min(max(value, -_LARGEST_SPARK), _LARGEST_SPARK) for value in values]
    bars = [fmean(known[low:high]) for low, high in pairwise(bounds)]
    lowest, highest = min(bars), max(bars)
    scale = (len(sparks) - 1) / (highest - lowest) if highest > lowest else 0.0
    return "".join(sparks[round((bar - lowest) * scale)] for bar in bars)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _short(value: Any) -> str:
    text = "" if value is None else " ".join(str(value).split())
    return text if len(text) <= _LONGEST_TASK else f"{text[: _LONGEST_TASK - 1]}…"


def _as_fits(text: str, columns: int) -> str:
    """As many of the items that two blanks part as there is room for, the first in any case."""
    first, *rest = text.split("  ")
    for item in rest:
        if len(first) + 2 + len(item) > columns:
            break
        first += f"  {item}"
    return first


def _can_show(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
