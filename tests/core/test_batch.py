"""Columns as tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlrun.core.batch import Batch

ROWS = np.arange(6.0, dtype=np.float32).reshape(3, 2)


@pytest.mark.parametrize("num_rows", [1, 3])
def test_columns_that_run_backwards_become_tensors(num_rows):
    # NumPy calls a single row contiguous, whichever way it runs; torch takes neither.
    backwards = ROWS[:num_rows][::-1]
    found = Batch(obs=backwards).to()["obs"]
    assert torch.equal(found, torch.tensor(backwards.tolist()))


def test_columns_that_can_only_be_read_become_tensors_in_memory_of_their_own():
    only_read = ROWS.copy()
    only_read.setflags(write=False)
    found = Batch(obs=only_read).to()["obs"]
    found += 1.0
    assert torch.equal(found, torch.tensor((ROWS + 1.0).tolist()))
    assert np.array_equal(only_read, ROWS)


def test_other_columns_share_their_memory():
    rows = ROWS.copy()
    Batch(obs=rows).to()["obs"][0, 0] = 7.0
    assert rows[0, 0] == 7.0
