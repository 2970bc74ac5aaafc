"""`rlrun report`: what was asked for, and the files that answer it."""

from __future__ import annotations

import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlrun.core.errors import ConfigError, RlrunError
from rlrun.loggers.files import replace_file
from rlrun.report.figures import pictures_of, write_png
from rlrun.report.groups import read_report
from rlrun.report.page import page_of

COMMAND = "rlrun report"
"""What stands before a path in messages."""

PAGE = "report.html"


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    paths: list[Path]
    out: Path
    """The page; its PNGs go into the folder of the same name."""
    is_opened: bool


def read_request(arguments: Sequence[str]) -> Request:
    """What was typed behind `rlrun report`. Raises ConfigError."""
    out, is_opened = "", False
    paths: list[Path] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name == "--out":
            out = value if equals else next(rest, "")
            if Path(out).suffix not in (".html", ".htm"):
                raise ConfigError(f"--out needs the name of a page, got {out!r}: --out report.html")
        elif argument == "--open":
            is_opened = True
        elif argument.startswith("-"):
            raise ConfigError(f"{COMMAND}: there is no option {argument}. See {COMMAND} --help.")
        else:
            paths.append(Path(argument))
    if not paths:
        raise ConfigError(f"{COMMAND} needs the folder of a run or sweep: {COMMAND} results/DIR")
    page = Path(out) if out else (paths[0] if len(paths) == 1 else Path()) / PAGE
    return Request(paths, page, is_opened)


def report(request: Request) -> int:
    """Write the page and its PNGs, and say where; returns the exit status.

    Raises ConfigError if there is no run, MissingExtraError without matplotlib, RlrunError if the
    disk refuses.
    """
    found = read_report(request.paths)
    pictures = pictures_of(found)
    folder = request.out.with_suffix("")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for picture in pictures:
            write_png(picture, found, folder / picture.file_name)
        pngs = [f"{folder.name}/{picture.file_name}" for picture in pictures]
        page = page_of(found, pictures, pngs, request.out.absolute().parent)
        with replace_file(request.out) as file:
            file.write(page)
    except OSError as error:
        raise RlrunError(f"The report {request.out} cannot be written: {error}") from error
    print(f"{request.out}: {len(found.runs)} run(s), {len(pictures)} figure(s), PNGs in {folder}")
    if request.is_opened:
        webbrowser.open(request.out.absolute().as_uri())
    return 0
