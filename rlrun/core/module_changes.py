"""Notices when any module of this process gets another part, at the cost of comparing a number."""

from __future__ import annotations

from typing import Any

from torch.nn.modules import module

count = 0
"""How often a submodule or parameter was put in place, of whatever module."""


def _note(*args: Any) -> None:
    global count
    count += 1


module.register_module_module_registration_hook(_note)
module.register_module_parameter_registration_hook(_note)
