from __future__ import annotations

import json
import os
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlrun.loggers.wandb import WandbLogger

FAKE_KEY = "0123456789abcdef" * 3


def offline_folders(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*"))


def records(offline_folder: Path) -> list[Any]:
    """What `wandb sync` would upload: a LevelDB log of protocol buffers after a 7-byte header."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # its service process writes the file, some time after finish() has returned
    (path,) = offline_folder.glob("run-*.wandb")
    content, position, found, parts = path.read_bytes(), 7, [], b""
    while position < len(content):
        block_left = 32768 - position % 32768
        if block_left < 7:
            position += block_left
            continue
        _crc, length, kind = struct.unpack_from("<IHB", content, position)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last of several parts
            found.append(Record.FromString(parts))
            parts = b""
    return found


def history(offline_folder: Path) -> list[dict[str, Any]]:
    rows = [record.history for record in records(offline_folder) if record.HasField("history")]
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item}
        for row in rows
    ]


def only(found: list[Any], kind: str) -> Any:
    (record,) = [getattr(record, kind) for record in found if record.HasField(kind)]
    return record


@pytest.fixture
def logger(monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    return WandbLogger(mode="offline", group="seeds", tags=["test"])


def test_offline_run_holds_config_name_and_finite_scalars_at_timesteps(
    logger, make_run, make_result, tmp_path
):
    logger.start(make_run())
    logger.log_result(make_result(1, nan=float("nan")))
    logger.log_result(make_result(2, evaluation={"episode_reward_mean": 5.0}))
    logger.close("finished")
    (folder,) = offline_folders(tmp_path)
    run = only(records(folder), "run")
    assert (run.project, run.display_name, run.run_group) == ("rlrun", "PPO_cartpole", "seeds")
    assert list(run.tags) == ["test"]
    assert {item.key: item.value_json for item in run.config.update}["algo"] == '{"lr":0.001}'
    first, second = history(folder)
    assert (first["_step"], second["_step"]) == (1024, 2048)
    assert first["episode_reward_max"] == 112.0
    assert first["info/learner/default_policy/learner_stats/policy_loss"] == 0.1
    assert second["evaluation/episode_reward_mean"] == 5.0
    assert not [key for key in first if key.startswith(("nan", "config", "hist_stats"))]


@pytest.mark.parametrize(("status", "code"), [("finished", 0), ("interrupted", 255), ("failed", 1)])
def test_the_exit_code_tells_the_status(logger, make_run, tmp_path, status, code):
    logger.start(make_run())
    logger.close(status)
    (folder,) = offline_folders(tmp_path)
    assert only(records(folder), "exit").exit_code == code


def test_a_resumed_run_keeps_its_id_and_a_fresh_one_gets_its_own(logger, make_run, tmp_path):
    ids = []
    for start_iteration in (0, 5, 0):
        logger.start(make_run(start_iteration=start_iteration))
        logger.close("finished")
        ids.append((tmp_path / "wandb_id.txt").read_text())
    assert ids[0] == ids[1] != ids[2]
    assert {path.name.split("-")[3] for path in offline_folders(tmp_path)} == set(ids)


def test_an_open_run_of_the_users_own_code_is_left_alone(logger, make_run, make_result, tmp_path):
    import wandb

    (tmp_path / "mine").mkdir()
    mine = wandb.init(mode="offline", dir=tmp_path / "mine")
    logger.start(make_run())
    logger.log_result(make_result(1))
    logger.close("finished")
    assert wandb.run is mine
    mine.log({"my_metric": 1.0})
    mine.finish()
    (folder,) = offline_folders(tmp_path / "mine")
    assert [row["my_metric"] for row in history(folder)] == [1.0]


def test_a_failure_in_wandb_is_told_once_and_stops_logging_only(
    logger, make_run, make_result, tmp_path, caplog
):
    logger.start(make_run())
    logger._run.finish()  # a finished run refuses to log
    for iteration in (1, 2, 3):
        logger.log_result(make_result(iteration))
    logger.close("finished")
    (message,) = [record.message for record in caplog.records if record.name.startswith("rlrun")]
    (folder,) = offline_folders(tmp_path)
    assert message.startswith("W&B failed, so logging to it stops and training goes on (UsageError")
    assert message.endswith(f"wandb sync {folder}")


def test_an_upload_that_cannot_finish_is_told_and_not_raised(logger, make_run, monkeypatch, caplog):
    logger.start(make_run())
    finish = logger._run.finish

    def time_out(exit_code: int) -> None:
        finish(exit_code=exit_code)
        raise TimeoutError("gave up after 60 s")

    monkeypatch.setattr(logger._run, "finish", time_out)
    logger.close("finished")
    assert "could not finish its upload (TimeoutError: gave up after 60 s)" in caplog.text


@pytest.fixture
def silent_port():
    """Where connections are taken, and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_run_that_is_offline_ends_with_the_line_that_uploads_it(
    logger, make_run, tmp_path, caplog
):
    logger.start(make_run())
    logger.close("finished")
    (folder,) = offline_folders(tmp_path)
    (record,) = [record for record in caplog.records if record.name.startswith("rlrun")]
    assert record.levelname == "WARNING"  # so that it is seen without -v
    assert record.message == f"W&B is offline. To upload this run later: wandb sync {folder}"


def test_disabled_does_nothing_and_does_not_import_wandb(tmp_path):
    code = f"""
import sys
from pathlib import Path
from rlrun.loggers.base import RunInfo
from rlrun.loggers.wandb import WandbLogger
folder = Path({str(tmp_path)!r})
logger = WandbLogger(mode="disabled")
logger.start(RunInfo(folder=folder, name="x", config={{}}, stop={{}}, start_iteration=0))
logger.log_result({{"timesteps_total": 1}})
logger.close("finished")
print("wandb" in sys.modules, list(folder.iterdir()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False []"


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({}, "UsageError: No API key"),
        ({"WANDB_API_KEY": "short"}, "AuthenticationError"),
        ({"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": FAKE_KEY}, "CommError"),
        ({"WANDB_BASE_URL": "http://127.0.0.1:{silent}", "WANDB_API_KEY": FAKE_KEY}, "CommError"),
    ],
    ids=["no key", "a bad key", "no network", "a host that does not answer"],
)
def test_online_without_a_key_or_a_network_goes_offline_with_one_line(
    tmp_path, environment, reason, silent_port
):
    """In a process of its own, with a terminal as stdin and stderr: wandb must not ask there."""
    run_folder, home = tmp_path / "a run", tmp_path / "home"
    run_folder.mkdir()
    home.mkdir()
    code = f"""
import threading
from pathlib import Path
from rlrun.loggers.base import RunInfo
from rlrun.loggers.wandb import WandbLogger
folder = Path({str(run_folder)!r})
logger = WandbLogger(init_timeout_s=1.0)
logger.start(RunInfo(folder=folder, name="x", config={{}}, stop={{}}, start_iteration=0))
logger.log_result({{"timesteps_total": 7, "loss": 0.5}})
logger.close("finished")
reporters = [each.name for each in threading.enumerate() if "Otel" in each.name]
assert not reporters, reporters  # The end would wait for them.
"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment = {name: text.format(silent=silent_port) for name, text in environment.items()}
    master, slave = os.openpty()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "HOME": str(home), "TERM": "xterm", **environment},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        timeout=60,
    )
    os.close(slave)
    printed = os.read(master, 65536).decode()
    os.close(master)
    assert done.returncode == 0, printed
    (folder,) = offline_folders(run_folder)
    (line,) = printed.splitlines()
    assert line.startswith(f"W&B is not available online, so this run is logged offline ({reason}")
    assert line.endswith(f"wandb sync '{folder}'")
    assert [(row["_step"], row["loss"]) for row in history(folder)] == [(7, 0.5)]
    assert (run_folder / "wandb_id.txt").read_text() in folder.name
    key = environment.get("WANDB_API_KEY", FAKE_KEY)
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 5
    assert not [path for path in written if key.encode() in path.read_bytes()]
    assert not re.search(key, printed)


def test_trials_of_a_sweep_share_its_group_unless_the_user_names_one(
    monkeypatch, make_run, make_result, tmp_path
):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    found = []
    for number, group in enumerate([None, None, "mine"]):
        folder = tmp_path / str(number)
        folder.mkdir()
        logger = WandbLogger(mode="offline", group=group)
        logger.start(make_run(folder=folder, sweep="sweep_1", name=f"{number} lr=0.1"))
        logger.log_result(make_result(1))
        logger.close("finished")
        (written,) = offline_folders(folder)
        run = only(records(written), "run")
        found.append((run.run_group, run.display_name))
    assert found == [("sweep_1", "0 lr=0.1"), ("sweep_1", "1 lr=0.1"), ("mine", "2 lr=0.1")]
