"""A sweep's journal holds what happened, whatever moment a kill came at."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlrun.core.errors import CheckpointError, RlrunError
from rlrun.sweep.journal import JOURNAL, Journal, read_journal


def test_events_come_back_in_their_order(tmp_path):
    journal = Journal(tmp_path)
    journal.write("start", number=1)
    journal.write("result", in_haste=True, number=1, result={"x": 0.5})
    journal.close()
    assert list(read_journal(tmp_path)) == [
        {"event": "start", "number": 1},
        {"event": "result", "number": 1, "result": {"x": 0.5}},
    ]


def test_a_half_written_last_line_is_cut_off(tmp_path):
    (tmp_path / JOURNAL).write_text('{"event": "start", "number": 0}\n{"event": "res')
    assert [event["number"] for event in read_journal(tmp_path)] == [0]
    journal = Journal(tmp_path)
    journal.write("start", number=1)
    assert [event["number"] for event in read_journal(tmp_path)] == [0, 1]


def test_a_damaged_line_before_the_last_is_named(tmp_path):
    (tmp_path / JOURNAL).write_text('{"event": "start"\n{"event": "start", "number": 0}\n')
    with pytest.raises(CheckpointError, match="has a line that is no event"):
        list(read_journal(tmp_path))


def test_there_are_no_events_before_the_first(tmp_path):
    assert list(read_journal(tmp_path)) == []


def test_a_full_disk_is_said_once(tmp_path):
    journal = Journal(tmp_path)
    journal._file.close()
    journal._file = Path("/dev/full").open("ab")  # noqa: SIM115 - the journal closes it
    with pytest.raises(RlrunError, match="cannot be written"):
        journal.write("asked")
    journal.close()
