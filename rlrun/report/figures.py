"""Pictures of a report, drawn by matplotlib: PNG files, and SVG that takes the page's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlrun.core.errors import missing_extra
from rlrun.records import number_in
from rlrun.report.curves import SECONDS, STEPS, Curve, curve_of, learner_keys, seconds_by_phase
from rlrun.report.groups import Group, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, PAPER = "#1f2328", "#d5d9de", "#ffffff"
"""Of text, of lines behind curves, and of a PNG; in SVG the page's own take their place."""

PALETTE = (
    *("#3b7ddd", "#e4772e", "#2fa36b", "#d6456b"),
    *("#8a63d2", "#159aa5", "#b8860b", "#6b7785"),
)
"""Colours that can be told apart on white and on black."""

MORE_COLORS = ("#e0b53c", "#7fb2f0", "#f2a979", "#86cfab", "#eda0b5", "#bfaae6")
"""For the smaller parts of a bar."""

GREY = "#9aa3ad"
"""Of the lines for which no colour is left."""

STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **{"axes.edgecolor": FAINT, "grid.color": FAINT, "axes.grid": True, "grid.linewidth": 0.6},
    **{"axes.spines.top": False, "axes.spines.right": False, "font.size": 9},
    **{"xtick.labelsize": 8, "ytick.labelsize": 8, "font.family": "DejaVu Sans"},
    **{"svg.fonttype": "none", "svg.hashsalt": "rlrun", "lines.linewidth": 1.6},
}
"""matplotlib's settings; the salt makes the same figure the same text."""

SIZE_INCHES = (4.5, 2.7)
MAX_LEARNER_FIGURES = 24
MAX_BARS = 12


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One figure of the report."""

    section: str
    title: str
    draw: Callable[[Axes], None]
    has_own_legend: bool = False
    height: float = SIZE_INCHES[1]

    @property
    def file_name(self) -> str:
        """Of its PNG."""
        return re.sub(r"[^a-z0-9]+", "_", self.title.lower()).strip("_") + ".png"


def color_of(place: int) -> str:
    """The colour of the group that is at this place, counted from 0."""
    return PALETTE[place] if place < len(PALETTE) else GREY


def pictures_of(report: Report) -> list[Picture]:
    """All figures for which the runs have numbers."""
    metric = report.metric
    found = [
        *_curves(report, "Learning", {metric: metric}, STEPS),
        *_curves(report, "Learning", {metric: metric}, SECONDS),
    ]
    others = {
        "episode_reward_mean": "episode_reward_mean",
        "evaluation/episode_reward_mean": "evaluation",
        "episode_len_mean": "episode length",
        "evaluation/episode_len_mean": "episode length in evaluation",
        "env_task": "task",
    }
    others.pop(metric, None)
    found += _curves(report, "Learning", others, STEPS)
    keys = dict(list(learner_keys(report.runs).items())[:MAX_LEARNER_FIGURES])
    found += _curves(report, "Learner", keys, STEPS)
    groups = [group for group in report.groups if seconds_by_phase(group.runs)][:MAX_BARS]
    if groups:
        found.append(
            Picture(
                section="Time",
                title="time by phase",
                draw=lambda axes: _draw_phases(axes, groups),
                has_own_legend=True,
                height=1.5 + 0.28 * len(groups),
            )
        )
    return found


def write_png(picture: Picture, report: Report, path: Path) -> None:
    """Draw a picture with its legend into a file."""
    with _figure(picture) as (figure, axes):
        figure.suptitle(picture.title, fontsize=10, x=0.01, horizontalalignment="left")
        has_names = bool(axes.get_legend_handles_labels()[1]) and len(report.groups) > 1
        if has_names and not picture.has_own_legend:
            axes.legend(fontsize=7, frameon=False)
        figure.savefig(path, dpi=160, facecolor=PAPER)


def svg_of(picture: Picture, number: int) -> str:
    """A picture as an element of HTML, without title and legend; `number` tells its ids from those
    of other pictures on the page."""
    with _figure(picture) as (figure, _):
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 role="img"', text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    for before in ('id="', "url(#", 'href="#'):
        text = text.replace(before, f"{before}p{number}-")
    return text.replace(INK, "var(--ink)").replace(FAINT, "var(--line)")


@contextmanager
def _figure(picture: Picture) -> Iterator[tuple[Figure, Axes]]:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "report", "rlrun report") from error
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(SIZE_INCHES[0], picture.height), layout="constrained")
        axes = figure.subplots()
        picture.draw(axes)
        yield figure, axes


def _curves(report: Report, section: str, keys: dict[str, str], axis: str) -> Iterator[Picture]:
    """A picture for each of the keys (with its title) of which some run has numbers."""
    along = "time" if axis == SECONDS else "env steps"
    for key, title in keys.items():
        curves = [curve_of(group.runs, key, axis) for group in report.groups]
        if any(curve is not None for curve in curves):
            yield Picture(
                section=section,
                title=f"{title} over {along}",
                draw=partial(_draw_curves, groups=report.groups, curves=curves, axis=axis),
            )


def _draw_curves(
    axes: Axes, *, groups: Sequence[Group], curves: Sequence[Curve | None], axis: str
) -> None:
    scale, unit = _unit_of_time(groups) if axis == SECONDS else (1.0, "env steps")
    for place, (group, curve) in enumerate(zip(groups, curves, strict=True)):
        if curve is None:
            continue
        is_named = place < len(PALETTE)
        axes.plot(
            curve.x / scale,
            curve.y.center,
            label=group.label if is_named else None,
            marker="o" if len(curve.x) == 1 else None,
            color=color_of(place),
            alpha=1.0 if is_named else 0.35,
            zorder=3 - place / len(groups),  # the best one over the others
        )
        if is_named and curve.y.num_runs > 1:
            band = (curve.x / scale, curve.y.low, curve.y.high)
            axes.fill_between(*band, color=color_of(place), alpha=0.16, linewidth=0)
    axes.set_xlabel(unit)
    axes.set_axisbelow(True)
    if axis == STEPS:
        axes.xaxis.set_major_formatter(_short_number)
    axes.yaxis.set_major_formatter(_short_number)


def _draw_phases(axes: Axes, groups: Sequence[Group]) -> None:
    """A bar per group, of the shares of its time."""
    shares = [seconds_by_phase(group.runs) for group in groups]
    phases = dict.fromkeys(phase for each in shares for phase in each)
    totals = np.array([sum(each.values()) or 1.0 for each in shares])
    left = np.zeros(len(groups))
    for place, phase in enumerate(phases):
        parts = np.array([each.get(phase, 0.0) for each in shares]) / totals * 100
        label = phase.replace("_", " ")
        color = (*PALETTE, *MORE_COLORS)[place % len(PALETTE + MORE_COLORS)]
        axes.barh(range(len(groups)), parts, left=left, label=label, color=color, height=0.7)
        left += parts
    axes.set_yticks(range(len(groups)), [group.label[:32] for group in groups])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("% of the time")
    axes.grid(visible=False)
    # Above the bars: a legend beside them would leave them no room on a phone.
    axes.legend(
        **{"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 4, "fontsize": 7},
        **{"frameon": False, "handlelength": 1.0, "columnspacing": 1.0},
    )


def _unit_of_time(groups: Sequence[Group]) -> tuple[float, str]:
    """(seconds, name) of the unit that suits the longest run."""
    last = (number_in(run.last_result, SECONDS) for group in groups for run in group.runs)
    longest = max((each for each in last if each is not None), default=0.0)
    if longest < 180:
        return 1.0, "seconds"
    return (60.0, "minutes") if longest < 3 * 3600 else (3600.0, "hours")


def _short_number(value: float, _: float) -> str:
    """12000 as 12k, 0.00025 as 0.00025."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"
