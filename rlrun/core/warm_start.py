"""Which of a policy's weights other weights can take the place of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlrun.core.errors import ConfigError
from rlrun.core.policy import Policy
from rlrun.core.weight_files import Weights

HOOK = "map_weights"
"""The method by which a module of the user's says what of a file belongs where in it."""


@dataclass
class LoadReport:
    """What of some weights a policy took over; `str` gives it line by line."""

    source: str
    """Where they are from."""
    loaded: dict[str, str] = field(default_factory=dict)
    """The policy's names -> those of the file."""
    not_loaded: dict[str, str] = field(default_factory=dict)
    """The policy's names that keep their weights -> why."""
    not_used: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """What of the file nothing took -> its shape."""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Those of the policy's weights."""

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.not_loaded)
        lines = [f"{self.source}: {len(self.loaded)} of {total} arrays loaded"]
        for name, given in self.loaded.items():
            origin = "" if given == name else f" from {given}"
            lines.append(f"  loaded      {name} {_shown(self.shapes[name])}{origin}")
        for name, reason in self.not_loaded.items():
            lines.append(f"  not loaded  {name} {_shown(self.shapes[name])}: {reason}")
        for name, shape in self.not_used.items():
            lines.append(f"  not used    {name} {_shown(shape)}")
        return "\n".join(lines)


def load_weights(policy: Policy, weights: Weights, source: str) -> LoadReport:
    """Take over what of `weights` fits: modules with a method `map_weights` say themselves what
    that is; elsewhere an array goes where name and shape are the same, or, if the file knows none
    of the policy's names, one after the other to the parameters with its shape.

    Raises ConfigError if nothing fits, or if `map_weights` gives what its module does not have.
    """
    present = policy.state_dict()
    report = LoadReport(source, shapes={name: tuple(x.shape) for name, x in present.items()})
    found, by_hook = _by_hooks(policy, weights, report)
    rest = {name: part for name, part in report.shapes.items() if not name.startswith(by_hook)}
    if by_hook and not rest.keys() & weights.keys():
        report.not_loaded |= dict.fromkeys(rest, "the source has none of that name")
    elif rest.keys() & weights.keys():
        found |= _by_name(rest, weights, report)
    else:
        parameters = {name for name, _ in policy.named_parameters()}
        found |= _by_shape(rest, parameters, weights, report)
    used = set(report.loaded.values())
    report.not_used = {name: x.shape for name, x in weights.items() if name not in used}
    if not found:
        raise ConfigError(f"Nothing in {source} fits this policy.\n{report}")
    for name, array in found.items():
        present[name] = np.array(array)
    policy.set_weights(present)
    return report


def _by_hooks(
    policy: Policy, weights: Weights, report: LoadReport
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What modules with the hook take, and how the names of their weights begin."""
    found: dict[str, Any] = {}
    prefixes = []
    for place, module in policy.named_modules():
        if not place or not hasattr(module, HOOK):
            continue
        prefixes.append(f"{place}.")
        own = {name: tuple(part.shape) for name, part in module.state_dict().items()}
        mapped = dict(getattr(module, HOOK)(dict(weights)))
        for name, array in mapped.items():
            if own.get(name) != np.shape(array):
                raise ConfigError(
                    f"{type(module).__name__}.{HOOK} gives {name!r} with the shape "
                    f"{tuple(np.shape(array))}; the module has {own.get(name, 'no such weight')}."
                )
            found[f"{place}.{name}"] = array
            same = (given for given, part in weights.items() if part is array)
            report.loaded[f"{place}.{name}"] = next(same, HOOK)
        for name in own.keys() - mapped.keys():
            report.not_loaded[f"{place}.{name}"] = f"{HOOK} leaves it out"
    return found, tuple(prefixes)


def _by_name(
    own: dict[str, tuple[int, ...]], weights: Weights, report: LoadReport
) -> dict[str, Any]:
    found = {}
    for name, shape in own.items():
        if name not in weights:
            report.not_loaded[name] = "the source has none of that name"
        elif weights[name].shape != shape:
            report.not_loaded[name] = f"the source has {_shown(weights[name].shape)}"
        else:
            found[name], report.loaded[name] = weights[name], name
    return found


def _by_shape(
    own: dict[str, tuple[int, ...]], parameters: set[str], weights: Weights, report: LoadReport
) -> dict[str, Any]:
    """Parameters in their order, each with the first array of its shape that is still there."""
    found, left = {}, dict(weights)
    for name, shape in own.items():
        fitting = (given for given, array in left.items() if array.shape == shape)
        given = next(fitting, None) if name in parameters else None
        if given is None:
            report.not_loaded[name] = "the source has none of that shape left"
        else:
            found[name], report.loaded[name] = left.pop(given), given
    return found


def _shown(shape: tuple[int, ...]) -> str:
    return str(list(shape))
