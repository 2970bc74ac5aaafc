"""The floors of the house: who may import whom, read off the source without importing it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import rlrun

PACKAGE = Path(rlrun.__file__).resolve().parent

FLOORS = {
    "cli": 5,
    "train": 5,
    "__main__": 5,
    "trial_server": 5,
    "run": 4,
    "config": 4,
    "compose": 4,
    "parts": 4,
    "data_parts": 4,
    "run_folder": 4,
    "training_function": 4,
    "rollout": 4,
    "records": 4,
    "analysis": 4,
    "report": 4,
    "check": 4,
    "replay_runs": 4,
    "key_watch": 4,
    "sweep": 4,
    "settle": 4,
    "overrides": 4,
    "examples": 4,
    "arguments": 4,
    "rllib_import": 4,
    "python_api": 4,
    "error_report": 4,
    "validate": 4,
    "saved": 4,
    "signatures": 4,
    "verify_resume": 4,
    "autotune": 4,
    "debug_preset": 4,
    "options": 4,
    "stack": 4,
    "logs": 4,
    "early": 4,
    "trainer": 3,
    "progress": 3,
    "evaluation": 3,
    "evaluation_config": 3,
    "loggers": 2,
    "curriculum": 2,
    "algos": 1,
    "workers": 1,
    "envs": 1,
    "core": 0,
}
"""Floor of each module or package of rlrun; the root, which only names others, has none."""

SIBLINGS = {"algos", "envs", "workers"}
"""Packages of one floor that know nothing of each other."""

IMPORTS_IN_FUNCTIONS = {
    # So that a Ctrl-C is heard while it imports.
    "__main__": {"rlrun.cli"},
    # A command imports no torch, no Hydra and no msgspec before it needs them.
    "cli": {
        *("rlrun.autotune", "rlrun.check", "rlrun.logs", "rlrun.options", "rlrun.report.command"),
        *("rlrun.rollout", "rlrun.stack", "rlrun.verify_resume"),
        "importlib",
    },
    "train": {
        *("hydra", "hydra.core.hydra_config", "rlrun.run", "rlrun.run_folder", "rlrun.saved"),
        *("rlrun.sweep.runner", "rlrun.sweep.trial_process"),
    },
    "compose": {
        *("hydra", "hydra._internal.hydra", "hydra._internal.utils", "hydra.errors"),
        *("hydra.core.config_search_path", "hydra.core.global_hydra", "hydra.core.hydra_config"),
        "yaml",
    },
    "config": {"msgspec"},
    # With gymnasium, which what is wrong elsewhere need not wait for.
    "early": {"rlrun.workers.envs"},
    "python_api": {"rlrun.sweep.runner"},
    "sweep.request": {"hydra.types"},
    "sweep.search.optuna_search": {"optuna", "optuna.trial"},
    "sweep.search.space": {"hydra.core.override_parser.types"},
    "sweep.trial_configs": {"hydra", "omegaconf.errors", "rlrun.parts"},
    "settle": {"hydra"},
    "rollout": {
        "rlrun.parts",
        "rlrun.workers.actor",
        "rlrun.workers.atari",
        "rlrun.workers.evaluate",
        "rlrun.workers.rollout_worker",
        "rlrun.workers.task_state",
        "rlrun.workers.video",
    },
    "overrides": {
        "hydra.core.override_parser.overrides_parser",
        "hydra.core.override_parser.types",
        "hydra.errors",
    },
    "examples": {"hydra.core.config_store"},
    "validate": {
        "hydra.core.hydra_config",
        "omegaconf.errors",
        "rlrun.parts",
        "rlrun.sweep.launcher",
    },
    # Once everything else is at hand, as Hydra looks for its plugins.
    "trial_server": {"hydra.core.plugins", "rlrun.train", "rlrun.sweep.fork_server"},
    "sweep.packing": {"torch"},
    "training_function": {"torch"},
    "core.checkpoint": {"safetensors", "safetensors.numpy"},
    "core.export": {"onnxscript", "safetensors.torch"},
    "core.weight_files": {"h5py", "pickle", "safetensors", "safetensors.torch", "torch"},
    "core.networks": {"rlrun.core.imports"},
    "core.peers": {"torch.distributed"},
    "core.finite": {"torch"},
    "core.process": {"torch", "threadpoolctl"},
    "core.processes": {"psutil"},
    "core.resources": {"torch"},
    "core.seeding": {"torch"},
    # Extras.
    "analysis": {"pandas"},
    "report.figures": {"matplotlib", "matplotlib.figure"},
    "loggers.terminal": {"rich.console"},
    "sweep.table": {"rich.console", "rich.live", "rich.progress_bar", "rich.table", "rich.text"},
    # Optional or slow, and only imported by the logger that is switched on.
    "loggers.console": {
        "rich.console",
        "rich.live",
        "rich.progress_bar",
        "rich.table",
        "rich.text",
    },
    "loggers.wandb": {"PIL", "wandb"},
    "workers.atari": {"pygame"},
    "workers.video": {"imageio_ffmpeg"},
    "workers.offline.minari_source": {"minari"},
    "workers.offline.reference_batches": {"lz4.frame"},
    "workers.envs": {"ale_py"},
    "workers.pool": {"ray", "rlrun.core.denormals"},
    "workers.ray_connection": {"ray"},
    # Ray is not imported where there are no remote workers.
    "workers.worker_set": {"rlrun.workers.pool", "rlrun.workers.remote_shards"},
}
"""Every import that a function may do, by module; there are no others."""

HOMES = {
    "ray": {"workers.pool", "workers.ray_connection"},
    "wandb": {"loggers.wandb"},
    "rich": {"loggers.console", "loggers.terminal", "sweep.table"},
    "pandas": {"analysis"},
    "matplotlib": {"report.figures"},
    "hydra": {
        *("train", "compose", "examples", "overrides", "settle", "validate", "trial_server"),
        *("sweep.request", "sweep.search.space", "sweep.trial_configs", "sweep.launcher"),
    },
    "omegaconf": {
        "arguments",
        "train",
        "compose",
        "debug_preset",
        "examples",
        "rllib_import.files",
        "rllib_import.translate",
        "options",
        "run",
        "settle",
        "sweep.launcher",
        "sweep.request",
        "sweep.trial_configs",
        "validate",
    },
    "msgspec": {"config"},
    "safetensors": {"core.checkpoint", "core.export", "core.weight_files"},
    "optuna": {"sweep.search.optuna_search"},
    "tensorboard": set(),
    "ale_py": {"workers.envs"},
    "minari": {"workers.offline.minari_source"},
    "lz4": {"workers.offline.reference_batches"},
    # Of weight_files only the error that torch raises where a file would need it.
    "pickle": {"core.weight_files", "workers.offline.reference_batches"},
    "h5py": {"core.weight_files"},
    "onnxscript": {"core.export"},
    "imageio_ffmpeg": {"workers.video"},
}
"""The only modules that may import these packages, anywhere in them."""

NEVER_AT_THE_TOP = {
    *("ray", "wandb", "rich", "hydra", "tensorboard", "ale_py", "safetensors", "minari", "lz4"),
    *("h5py", "onnxscript", "imageio_ffmpeg"),
    "optuna",
    *("pandas", "matplotlib"),
}
"""Packages that no module imports when it is imported itself."""

PLUGINS = {"hydra": {"sweep.launcher"}}
"""But these, which extend a class of the package, and are imported where that is needed."""


@dataclass(frozen=True)
class Import:
    """One imported module, by whom, and whether only a function or a type checker does it."""

    by: str
    module: str
    in_function: bool
    for_types: bool


def read_imports() -> list[Import]:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        found += imports_in(ast.parse(path.read_text()), name_of(path))
    return found


def name_of(path: Path) -> str:
    """`core.batch` for rlrun/core/batch.py, `core` for rlrun/core/__init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def imports_in(
    node: ast.AST, by: str, in_function: bool = False, for_types: bool = False
) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        inside = in_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        types = for_types or (
            isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        )
        for module in modules_of(child):
            yield Import(by, module, in_function, for_types)
        yield from imports_in(child, by, inside, types)


def modules_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "rlrun imports by full names"
        assert node.module is not None
        inner = [f"{node.module}.{alias.name}" for alias in node.names]
        submodules = [name for name in inner if is_module(name)]
        return submodules if len(submodules) == len(inner) else [node.module, *submodules]
    return []


def is_module(name: str) -> bool:
    path = PACKAGE.parent / name.replace(".", "/")
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


IMPORTS = read_imports()
OURS = [each for each in IMPORTS if each.module.split(".")[0] == "rlrun"]
AT_THE_TOP = [each for each in IMPORTS if not each.in_function and not each.for_types]


def inner_name(module: str) -> str:
    return module.removeprefix("rlrun").lstrip(".")


def top(module: str) -> str:
    """The part of a name that has a floor: `core` of `core.batch`."""
    return module.split(".")[0]


def edges(imports: list[Import]) -> dict[str, set[str]]:
    """Which modules of ours each module imports."""
    graph: dict[str, set[str]] = {}
    for each in imports:
        if each.module.startswith("rlrun."):
            graph.setdefault(each.by, set()).add(inner_name(each.module))
    return graph


def reachable(start: str, graph: dict[str, set[str]]) -> set[str]:
    """`start` and all modules that it imports, directly or not."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += graph.get(module, set())
    return seen


def with_packages(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same, each module also importing the package that it lies in, as Python does."""
    modules = set(graph).union(*graph.values())
    return {
        module: graph.get(module, set()) | ({module.rpartition(".")[0]} - {""})
        for module in modules
    }


def test_every_module_has_a_floor():
    modules = {top(name_of(path)) for path in PACKAGE.rglob("*.py")} - {""}
    assert modules == set(FLOORS)


def test_modules_import_only_from_their_own_floor_and_lower_ones():
    upward = [
        (each.by, each.module)
        for each in OURS
        if each.by and FLOORS[top(inner_name(each.module))] > FLOORS[top(each.by)]
    ]
    assert upward == []


def test_algorithms_envs_and_workers_know_nothing_of_each_other():
    crossing = [
        (each.by, each.module)
        for each in OURS
        if len({top(each.by), top(inner_name(each.module))} & SIBLINGS) == 2
    ]
    assert crossing == []


def test_nobody_inside_imports_the_package_root():
    assert [each.by for each in OURS if each.module == "rlrun"] == []


def test_the_package_root_imports_nothing_of_ours():
    assert [each.module for each in OURS if each.by == ""] == []


def test_no_module_imports_itself_by_way_of_others():
    graph = edges(AT_THE_TOP)
    in_circles = [
        module
        for module in graph
        if any(module in reachable(imported, graph) for imported in graph[module])
    ]
    assert in_circles == []


def test_functions_import_only_what_the_allow_list_names():
    in_functions: dict[str, set[str]] = {}
    for each in IMPORTS:
        if each.in_function:
            in_functions.setdefault(each.by, set()).add(each.module)
    assert in_functions == IMPORTS_IN_FUNCTIONS


@pytest.mark.parametrize("package", sorted(HOMES))
def test_a_package_is_imported_only_where_it_lives(package):
    importers = {each.by for each in IMPORTS if top(each.module) == package}
    assert importers <= HOMES[package]


@pytest.mark.parametrize("package", sorted(NEVER_AT_THE_TOP))
def test_a_heavy_package_is_never_imported_together_with_a_module(package):
    importers = {each.by for each in AT_THE_TOP if top(each.module) == package}
    assert importers == PLUGINS.get(package, set())


def test_only_workers_and_envs_import_gymnasium_beyond_its_spaces():
    importers = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                continue
            names = [name for name in names if top(name) == "gymnasium"]
            if any(not name.startswith("gymnasium.spaces") for name in names):
                importers.add(top(name_of(path)))
    assert importers == {"envs", "workers"}


@pytest.mark.parametrize("module", ["cli", "compose", "config", "analysis", "report.command"])
def test_the_command_line_imports_no_torch_with_itself(module):
    together = reachable(module, with_packages(edges(AT_THE_TOP)))
    importers = {each.by for each in AT_THE_TOP if top(each.module) in ("torch", "gymnasium")}
    assert together & importers == set()
