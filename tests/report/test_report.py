from __future__ import annotations

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from sweep_folders import make_result, write_run, write_sweep

from rlrun.cli import write_report
from rlrun.core.errors import ConfigError, MissingExtraError
from rlrun.records import read_experiment
from rlrun.report.command import read_request
from rlrun.report.curves import SECONDS, STEPS, curve_of, learner_keys, seconds_by_phase
from rlrun.report.groups import read_report

pytest.importorskip("matplotlib")

REWARDS = {
    (0.1, 0): [10.0, 20.0, 30.0],
    (0.1, 1): [10.0, 40.0, 50.0],
    (0.01, 0): [40.0, 45.0, 60.0],
}


class Page(HTMLParser):
    """What a browser would fetch from elsewhere, and which elements are left open."""

    VOID = ("meta", "img", "link", "path", "use")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.ids: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        facts = dict(attrs)
        self.sources += [facts[key] for key in ("src", "href") if key in facts]
        self.ids += [facts["id"]] if "id" in facts else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def report_on(*paths: Path, out: Path) -> str:
    assert write_report([*map(str, paths), "--out", str(out)]) == 0
    return out.read_text()


def test_a_sweep_becomes_one_page_and_its_pngs(tmp_path, capsys):
    html = report_on(write_sweep(tmp_path / "s", REWARDS), out=tmp_path / "out" / "r.html")
    page = Page(html)
    assert page.open == []
    links = [source for source in page.sources if not source.startswith("#")]
    assert links == [
        "r/episode_reward_mean_over_env_steps.png",
        "r/episode_reward_mean_over_time.png",
    ]
    for link in links:
        assert (tmp_path / "out" / link).read_bytes().startswith(b"\x89PNG")
    assert len(page.ids) == len(set(page.ids))
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", html)  # nothing is fetched
    assert "3 run(s), 2 figure(s)" in capsys.readouterr().out


def test_figures_take_the_colours_of_the_page_and_leave_its_titles_out(tmp_path):
    html = report_on(write_sweep(tmp_path / "s", REWARDS), out=tmp_path / "r.html")
    svg = html[html.index("<svg") : html.index("</svg>")]
    assert "fill: var(--ink)" in svg
    assert "#1f2328" not in svg
    assert "prefers-color-scheme: dark" in html
    assert "@media print" in html


def test_by_default_the_page_lies_in_the_folder_that_it_is_about(tmp_path):
    assert read_request([str(tmp_path)]).out == tmp_path / "report.html"
    assert read_request(["a", "b"]).out == Path("report.html")
    assert read_request(["a", "--out=x.html", "--open"]).is_opened


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs the folder of a run"),
        (["a", "--out"], "--out needs the name of a page, got ''"),
        (["a", "--out", "x.pdf"], "--out needs the name of a page, got 'x.pdf'"),
        (["a", "--best"], "there is no option --best"),
        (["/no/such/folder"], "there is no such folder"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        write_report(arguments)


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run", [1.0, 2.0])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'rlrun\[report\]'"):
        write_report([str(folder)])


def test_runs_that_are_not_whole_are_reported_as_far_as_they_go(tmp_path, recwarn):
    runs = tmp_path / "runs"
    write_run(runs / "good", [1.0, 2.0])
    half = write_run(runs / "half", [5.0], seed=1)
    with (half / "result.json").open("a") as file:
        file.write('{"training_iteration": 2, "episode')
    write_run(runs / "empty", [], seed=2)
    odd = write_run(runs / "odd", [], algo={"lr": "<script>"})
    odd_result = make_result(1, float("nan"), time_total_s=float("inf"))
    (odd / "result.json").write_text(json.dumps(odd_result) + "\n[1, 2]\nnot json\n")
    (runs / "garbage").mkdir()
    (runs / "garbage" / "params.json").write_bytes(b"\xff\xfe[")
    (runs / "garbage" / "result.json").write_bytes(bytes(range(256)))
    (runs / "garbage" / "versions.json").write_text("[]")
    html = report_on(runs, out=tmp_path / "r.html")
    assert Page(html).open == []
    assert "<script" not in html
    assert not [warning for warning in recwarn if warning.category is RuntimeWarning]


def test_a_run_without_results_says_so(tmp_path):
    html = report_on(write_run(tmp_path / "run", []), out=tmp_path / "r.html")
    assert "No results yet." in html


def test_settings_versions_and_videos_are_on_the_page(tmp_path):
    first = write_run(tmp_path / "a", [1.0, 2.0])
    second = write_run(
        tmp_path / "b", [3.0, 4.0], algo={"_target_": "rlrun.algos.ppo.PPO", "lr": 9}
    )
    facts = {"packages": {"torch": "2.13"}, "git_commit": "abc123", "git_changes": " M x.py"}
    (first / "versions.json").write_text(json.dumps(facts))
    (first / "videos").mkdir()
    (first / "videos" / "one.mp4").write_bytes(b"small")
    (second / "two film.mp4").write_bytes(bytes(3_000_000))
    html = report_on(first, second, out=tmp_path / "out" / "r.html")
    assert "<code>algo.lr</code>" in html
    assert "abc123, with changes that are not committed" in html
    assert 'src="data:video/mp4;base64,c21hbGw="' in html
    assert 'src="../b/two%20film.mp4"' in html


def test_several_paths_are_compared_and_seeds_put_together(tmp_path):
    sweep = write_sweep(tmp_path / "swept", REWARDS)
    write_run(tmp_path / "p0", [70.0], seed=0)
    write_run(tmp_path / "p1", [90.0], seed=1)
    report = read_report([tmp_path / "p0", sweep, tmp_path / "p1"])
    assert [(group.label, len(group.runs)) for group in report.groups] == [
        ("p0", 2),
        ("swept lr=0.01", 1),
        ("swept lr=0.1", 2),
    ]


def test_runs_of_the_same_settings_and_seed_are_told_apart_by_their_folders(tmp_path):
    for name in ("before", "after"):
        write_run(tmp_path / name, [1.0])
    report = read_report([tmp_path / "before", tmp_path / "after"])
    assert [group.label for group in report.groups] == ["before", "after"]


def test_sweeps_that_were_judged_differently_do_not_stand_in_one_report(tmp_path):
    write_sweep(tmp_path / "a", REWARDS)
    write_sweep(tmp_path / "b", REWARDS)
    (tmp_path / "b" / "sweep.json").write_text('{"mode": "min"}')
    with pytest.raises(ConfigError, match="a by max episode_reward_mean, b by min"):
        read_report([tmp_path / "a", tmp_path / "b"])


def test_a_curve_over_seeds_is_their_mean_at_common_steps(tmp_path):
    runs = read_experiment(write_sweep(tmp_path / "s", REWARDS)).runs[:2]
    curve = curve_of(runs, "episode_reward_mean", STEPS)
    at = {step: float(np.interp(step, curve.x, curve.y.center)) for step in (100, 200, 250, 300)}
    # Seeds at step 200: 20 and 40; at 250, by interpolation: 25 and 45.
    assert at == pytest.approx({100: 10.0, 200: 30.0, 250: 35.0, 300: 40.0}, abs=0.3)
    assert (curve.y.low[-1], curve.y.high[-1]) == (30.0, 50.0)


def test_a_seed_that_has_ended_stays_at_its_last_value(tmp_path):
    short, long = write_run(tmp_path / "a", [10.0]), write_run(tmp_path / "b", [0.0, 0.0, 20.0])
    runs = [*read_experiment(short).runs, *read_experiment(long).runs]
    curve = curve_of(runs, "episode_reward_mean", SECONDS)
    # They end after 0.5 and 1.5 s, so half of them has at 1 s.
    assert curve.x[-1] == 1.0
    assert curve.y.center[-1] == 5.0


def test_learners_numbers_that_never_change_get_no_figure(tmp_path):
    folder = write_run(tmp_path / "run", [])
    with (folder / "result.json").open("w") as file:
        for iteration in (1, 2):
            stats = {"policy_loss": -iteration, "gamma": 0.9}
            info = {"learner": {"default_policy": {"learner_stats": stats}}}
            file.write(json.dumps(make_result(iteration, 1.0, info=info)) + "\n")
    runs = read_experiment(folder).runs
    assert learner_keys(runs) == {
        "info/learner/default_policy/learner_stats/policy_loss": "policy_loss"
    }


def test_time_by_phase_is_summed_and_falls_back_on_timers(tmp_path):
    folder = write_run(tmp_path / "run", [])
    results = [
        make_result(1, 1.0, time_by_phase={"env": 1.0, "learning": 3.0, "replay": 0.0}),
        make_result(2, 1.0, time_by_phase={"env": 2.0, "learning": 3.0}),
    ]
    (folder / "result.json").write_text("".join(json.dumps(each) + "\n" for each in results))
    assert seconds_by_phase(read_experiment(folder).runs) == {"learning": 6.0, "env": 3.0}
    timers = {"learn_time_ms": 500.0, "training_iteration_time_ms": 800.0}
    (folder / "result.json").write_text(json.dumps(make_result(1, 1.0, timers=timers)) + "\n")
    assert seconds_by_phase(read_experiment(folder).runs) == {"learning": 0.5}
    html = report_on(folder, out=tmp_path / "r.html")
    assert "time by phase" in html


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser")
def test_a_browser_shows_the_page_without_scrolling_sideways_on_a_phone(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    report_on(write_sweep(tmp_path / "s", REWARDS), out=tmp_path / "r.html")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.goto((tmp_path / "r.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
        assert page.locator("figure svg").count() == 2
        assert said == []
        browser.close()


def test_a_run_that_lies_in_several_paths_is_counted_once(tmp_path):
    sweep = write_sweep(tmp_path / "s", REWARDS)
    once = [(len(group.runs), group.standing.center) for group in read_report([sweep]).groups]
    for paths in ([sweep, sweep], [sweep, sweep / "0"]):
        found = read_report(paths)
        assert [(len(each.runs), each.standing.center) for each in found.groups] == once
    assert len(read_report([sweep / "0", sweep / "0"]).runs) == 1


def test_videos_that_lead_nowhere_are_left_out(tmp_path):
    sweep = write_sweep(tmp_path / "s", REWARDS)
    (sweep / "0" / "lost.mp4").symlink_to(tmp_path / "nowhere.mp4")
    assert "lost.mp4" not in report_on(sweep, out=tmp_path / "r.html")


def test_groups_of_a_result_may_be_numbers_of_a_training_function(tmp_path):
    odd = {**make_result(1, 5.0), "info": 3, "timers": [1], "time_by_phase": "x"}
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(odd))
    assert learner_keys(read_experiment(folder).runs) == {}
    assert seconds_by_phase(read_experiment(folder).runs) == {}


def test_damaged_settings_and_journals_are_read_as_far_as_they_go(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "params.json").write_text(json.dumps({"seed": [1]}))
    assert len(read_experiment(tmp_path).runs) == 2
    sweep = write_sweep(tmp_path / "s", REWARDS)
    num_runs = len(read_experiment(sweep).runs)
    with (sweep / "journal.jsonl").open("a") as file:
        file.write('{"event": "trial"}\n{"event": "end", "number": [1]}\n')
    assert len(read_experiment(sweep).runs) == num_runs
