"""Networks that no memory can hold are refused before they are made."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest

from rlrun.core.errors import ResourceError
from rlrun.core.room import WORTH_A_LOOK
from rlrun.run import make_trainer


@pytest.mark.parametrize("widths", ["[1000000000000]", "[8, 1000000000000]"])
def test_an_absurd_width_is_refused_by_arithmetic(widths):
    with pytest.raises(ResourceError, match=r"x 1000000000000 weights takes .* GB are free"):
        make_trainer("ppo", "CartPole-v1", [f"model.fcnet_hiddens={widths}"])


def test_a_policy_that_fits_and_its_learner_that_does_not(monkeypatch):
    monkeypatch.setattr("rlrun.core.room.WORTH_A_LOOK", 0)
    free = SimpleNamespace(available=40_000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    # 2 networks of 4 x 512 weights and their heads: 14 kB and 13 kB.
    with pytest.raises(ResourceError, match="Learning a policy of"):
        make_trainer("ppo", "CartPole-v1", ["model.fcnet_hiddens=[512]", "tuned=none"])
    free.available = WORTH_A_LOOK
    make_trainer("ppo", "CartPole-v1", ["model.fcnet_hiddens=[512]", "tuned=none"]).stop()
