"""The page of a report: HTML that needs no other file, light and dark, on paper and on a phone."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rlrun.loggers.base import flatten, lookup
from rlrun.loggers.terminal import duration, number
from rlrun.records import NOT_COMPARED, RunRecord, number_in, read_json, settings_that_differ
from rlrun.report.figures import PALETTE, Picture, color_of, svg_of
from rlrun.report.groups import Report, settings_of
from rlrun.run_folder import VERSIONS
from rlrun.sweep.leaderboard import EXPLANATION, interval_text, status_text
from rlrun.sweep.names import value_text

VIDEOS = (".mp4", ".webm", ".gif")
MAX_VIDEOS = 6
MAX_EMBEDDED_BYTES = 2_000_000
"""Larger videos are linked, which needs them to stay where they are."""

MAX_COLUMNS = 6
"""Groups whose settings stand side by side."""


def page_of(report: Report, pictures: Sequence[Picture], pngs: Sequence[str], home: Path) -> str:
    """The whole page. pngs: the pictures' files, as a link from the page's folder `home`."""
    style = resources.files("rlrun.report").joinpath("page.css").read_text(encoding="utf-8")
    sections = [
        _tiles(report),
        _leaderboard(report),
        *_figures(report, pictures, pngs),
        _videos(report, home),
        _differences(report),
        _runs(report),
        _software(report),
        _all_settings(report),
    ]
    made = time.strftime("%Y-%m-%d %H:%M")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(report.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(report.title)}</h1><p>{escape(_subtitle(report))}</p></header>\n"
        + "\n".join(section for section in sections if section)
        + f"\n<footer>rlrun report, {made}</footer>\n</body>\n</html>\n"
    )


def _subtitle(report: Report) -> str:
    configs = [run.config for run in report.runs if run.config]
    if not configs:
        return "no settings were written yet"
    targets = (str(lookup(config, "algo._target_") or "") for config in configs)
    algos = dict.fromkeys(target.rpartition(".")[2] or "a training function" for target in targets)
    envs = dict.fromkeys(str(lookup(config, "env.id") or "data") for config in configs)
    return f"{', '.join(algos)} on {', '.join(envs)}"


def _tiles(report: Report) -> str:
    """The few numbers that are looked for first."""
    best = min(report.groups, key=lambda group: group.standing.best is None)
    steps = sum(group.standing.steps for group in report.groups)
    seconds = sum(number_in(run.last_result, "time_total_s") or 0.0 for run in report.runs)
    tiles = {
        report.metric: interval_text(best.standing.estimate),
        "its best value": number(best.standing.best),
        "runs": status_text(report.runs)
        if len(report.runs) == 1
        else f"{len(report.runs)}: {status_text(report.runs)}",
        "env steps": number(steps, "d"),
        "time of training": duration(seconds),
    }
    if len(report.groups) > 1:
        tiles = {"best": best.label, **tiles}
    cells = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in tiles.items()
    )
    return f"<dl class=tiles>{''.join(cells)}</dl>"


def _leaderboard(report: Report) -> str:
    if len(report.groups) < 2:
        return ""
    rows = [
        [
            _swatch(place) + escape(group.label),
            escape(interval_text(group.standing.estimate)),
            number(group.standing.best),
            str(len(group.runs)),
            number(group.standing.steps, "d"),
            escape(status_text(group.runs)),
        ]
        for place, group in enumerate(report.groups)
    ]
    headings = ["", report.metric, "best", "seeds", "env steps", "status"]
    note = f"By the last {escape(report.metric)}. {escape(EXPLANATION)}"
    return _section("Ranking", f"{_table(headings, rows, 'ranking')}<p class=note>{note}</p>")


def _figures(report: Report, pictures: Sequence[Picture], pngs: Sequence[str]) -> list[str]:
    sections: dict[str, list[str]] = {}
    for place, (picture, png) in enumerate(zip(pictures, pngs, strict=True)):
        title = escape(picture.title)
        sections.setdefault(picture.section, []).append(
            f'<figure><figcaption>{title} <a href="{quote(png)}">png</a></figcaption>'
            f"{svg_of(picture, place)}</figure>"
        )
    if not sections:
        return [_section("Learning", "<p>No results yet.</p>")]
    legend = _legend(report)
    return [
        _section(
            name, f"{legend if name != 'Time' else ''}<div class=figures>{''.join(figures)}</div>"
        )
        for name, figures in sections.items()
    ]


def _legend(report: Report) -> str:
    if len(report.groups) < 2:
        return ""
    named = report.groups[: len(PALETTE)]
    entries = [
        f"<li>{_swatch(place)}{escape(group.label)}</li>" for place, group in enumerate(named)
    ]
    if more := len(report.groups) - len(named):
        entries.append(f"<li>{_swatch(len(named))}{more} more</li>")
    return f"<ul class=legend>{''.join(entries)}</ul>"


def _swatch(place: int) -> str:
    return f'<i class=swatch style="background:{color_of(place)}"></i>'


def _videos(report: Report, home: Path) -> str:
    found = [
        path
        for run in report.runs
        for path in run.folder.rglob("*")
        if path.suffix.lower() in VIDEOS and path.is_file() and path.stat().st_size
    ]
    newest = sorted(found, key=lambda path: path.stat().st_mtime)[-MAX_VIDEOS:]
    cells = [
        f"<figure><figcaption>{escape(_relative(path, home))}</figcaption>{_video(path, home)}"
        "</figure>"
        for path in newest
    ]
    return _section("Episodes", f"<div class=figures>{''.join(cells)}</div>") if cells else ""


def _video(path: Path, home: Path) -> str:
    kind = path.suffix.lower().lstrip(".")
    source = quote(_relative(path, home))
    if path.stat().st_size <= MAX_EMBEDDED_BYTES:
        media = "image" if kind == "gif" else "video"
        source = f"data:{media}/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    if kind == "gif":
        return f'<img src="{source}" alt="an episode">'
    return f'<video src="{source}" controls muted playsinline preload=metadata></video>'


def _relative(path: Path, home: Path) -> str:
    return Path(os.path.relpath(path, home)).as_posix()


def _differences(report: Report) -> str:
    """The settings in which groups differ, side by side."""
    groups = report.groups[:MAX_COLUMNS]
    flats = [flatten(settings_of(group), ".") for group in groups]
    keys = settings_that_differ([_compared(settings_of(group)) for group in groups])
    if not keys:
        return ""
    rows = [
        [f"<code>{escape(key)}</code>", *(_value(flat.get(key, "-")) for flat in flats)]
        for key in keys
    ]
    headings = ["", *(group.label for group in groups)]
    left_out = len(report.groups) - len(groups)
    note = f"<p class=note>Of the {len(groups)} best; {left_out} more differ.</p>"
    return _section("Settings that differ", _table(headings, rows) + (note if left_out else ""))


def _compared(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in NOT_COMPARED}


def _runs(report: Report) -> str:
    rows = [
        [
            escape(run.folder.name),
            escape(group.label),
            _value(run.seed),
            escape(str(run.status)),
            number(values[-1]) if (values := run.values(report.metric)) else "-",
            number(number_in(run.last_result, "timesteps_total"), "d"),
            duration(number_in(run.last_result, "time_total_s") or 0.0),
            escape(run.error),
        ]
        for group in report.groups
        for run in group.runs
    ]
    headings = ["run", "group", "seed", "status", report.metric, "env steps", "time", "error"]
    if not any(run.error for run in report.runs):
        headings, rows = headings[:-1], [row[:-1] for row in rows]
    return _section("Runs", _table(headings, rows))


def _software(report: Report) -> str:
    """What the runs were made with, once for all that are alike."""
    found: dict[str, list[RunRecord]] = {}
    for run in report.runs:
        facts = read_json(run.folder / VERSIONS)
        if facts:
            found.setdefault(json.dumps(_facts(facts)), []).append(run)
    blocks = []
    for text, runs in found.items():
        rows = [[escape(name), escape(value)] for name, value in json.loads(text).items()]
        names = ", ".join(run.folder.name for run in runs)
        note = f"<p class=note>Of {escape(names)}</p>" if len(found) > 1 else ""
        blocks.append(_table([], rows, "facts") + note)
    return _section("Software", "".join(blocks)) if blocks else ""


def _facts(versions: dict[str, Any]) -> dict[str, str]:
    packages = versions.get("packages") or {}
    changes = versions.get("git_changes")
    commit = versions.get("git_commit") or "no repository"
    return {
        "commit": f"{commit}{', with changes that are not committed' if changes else ''}",
        **{str(name): str(version) for name, version in packages.items()},
        "python": str(versions.get("python", "-")),
        "platform": str(versions.get("platform", "-")),
        "working directory": str(versions.get("working_directory", "-")),
    }


def _all_settings(report: Report) -> str:
    blocks = []
    for group in report.groups[:MAX_COLUMNS]:
        flat = flatten(settings_of(group), ".")
        rows = [[f"<code>{escape(key)}</code>", _value(value)] for key, value in flat.items()]
        if rows:
            summary = f"<summary>{escape(group.label)}</summary>"
            blocks.append(f"<details>{summary}{_table([], rows)}</details>")
    return _section("All settings", "".join(blocks)) if blocks else ""


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Cells are HTML, headings are text."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    top = f"<thead><tr>{head}</tr></thead>" if headings else ""
    return f'<div class=wide><table class="{kind}">{top}<tbody>{body}</tbody></table></div>'


def _value(value: Any) -> str:
    return escape("none" if value is None else value_text(value))
