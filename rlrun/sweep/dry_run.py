"""What a sweep would be: its trials, where they would run, and what for there is room here."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from rlrun.sweep.names import value_text
from rlrun.sweep.packing import Room
from rlrun.sweep.plan import SweepPlan
from rlrun.sweep.trial import Trial, TrialResources

NUM_SHOWN = 10
"""Points of a search that learns, as far as they can be told before it has learned anything."""


def listing(plan: SweepPlan, room: Room) -> str:
    """All that would be run, for a person to read; nothing is started or written.

    room: what there is to give to trials. Raises ConfigError as a sweep would.
    """
    trials = plan.check() or _first_trials(plan)
    lines = [_heading(plan), *_table(plan, trials), _open_end(plan)]
    lines += [f"Trial {each.number} will fail: {each.error}" for each in trials if each.error]
    lines += [*_impossible(trials, room), _at_a_time(plan, trials, room)]
    return "\n".join(filter(None, lines))


def _heading(plan: SweepPlan) -> str:
    num_points, num_seeds = plan.search.num_points, len(plan.seeds)
    count = "Trials" if num_points is None else _count(num_points * num_seeds, "trial")
    of = f" of {_count(num_points, 'point')}" if num_points is not None and num_seeds > 1 else ""
    each = f", {num_seeds} seeds each" if num_seeds > 1 else ""
    return f"{count}{of}{each}, in {plan.folder}. Nothing is started (sweep.dry_run=true)."


def _first_trials(plan: SweepPlan) -> list[Trial]:
    """What a search that learns would begin with, if nothing ended meanwhile."""
    points = islice(iter(plan.search.ask, None), plan.settings.max_concurrent or NUM_SHOWN)
    return [trial for number, point in enumerate(points) for trial in plan.trials_of(number, point)]


def _open_end(plan: SweepPlan) -> str:
    if not plan.search.learns:
        return ""
    return "... Further points depend on how these end."


def _table(plan: SweepPlan, trials: Sequence[Trial]) -> list[str]:
    keys = list(dict.fromkeys(key for trial in trials for key in trial.params))
    rows = [["trial", *keys, "needs", "same as", "folder"]]
    for trial in trials:
        same = plan.duplicates.get(trial.number)
        rows.append(
            [
                str(trial.number),
                *(value_text(trial.params.get(key)) for key in keys),
                needs_text(trial.resources),
                "" if same is None else f"trial {same}",
                str(trial.folder.relative_to(plan.folder)),
            ]
        )
    if not plan.duplicates:
        rows = [[*row[:-2], row[-1]] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _impossible(trials: Sequence[Trial], room: Room) -> list[str]:
    reasons = {trial.number: room.lacks(trial.resources) for trial in trials}
    return [
        f"Trial {number} can never run here: it {reason}."
        for number, reason in reasons.items()
        if reason
    ]


def _at_a_time(plan: SweepPlan, trials: Sequence[Trial], room: Room) -> str:
    """How many of the first trials there is room for at once. Uses the room up."""
    there_is, limit = amounts_text(room.total), plan.settings.max_concurrent
    can_run = [each for each in trials if not each.error and not room.lacks(each.resources)]
    num_running = 0
    for trial in can_run[:limit]:
        if room.lacks(trial.resources):
            break
        room.take(trial.resources)
        num_running += 1
    by = f", as sweep.max_concurrent={limit} says" if num_running == limit else ""
    return f"With {there_is}: {_count(num_running, 'trial')} at a time{by}."


def needs_text(need: TrialResources) -> str:
    """What a trial asks for, in words: "3 CPUs, 0.4 GPU"."""
    return amounts_text({"CPU": need.cpus, "GPU": need.gpus, **need.custom})


def amounts_text(amounts: dict[str, float]) -> str:
    """Amounts by name in words, but those of which there is nothing."""
    return ", ".join(
        f"{amount:g} {name}{'s' if name in ('CPU', 'GPU') and amount > 1 else ''}"
        for name, amount in amounts.items()
        if amount
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
