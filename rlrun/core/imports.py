"""Objects by import path: the one door through which a user's own classes come in."""

from __future__ import annotations

import importlib
from typing import Any

from rlrun.core.errors import ConfigError

FORBIDDEN_ROOTS = {"os", "sys", "subprocess", "shutil", "builtins", "posix", "pty", "importlib"}
"""Modules that no configuration has a reason to name; a shared YAML file must not run commands."""


def import_object(path: str, key: str) -> Any:
    """The class or function at `path` ("package.module.Name"); `key` is named in errors.

    Raises ConfigError if the path is malformed, forbidden, or cannot be imported.
    """
    module_path, _, name = path.rpartition(".")
    if not module_path or path.split(".")[0] in FORBIDDEN_ROOTS:
        raise ConfigError(
            f"{key}={path!r} must be the import path of a class or function, such as "
            f"'my_package.my_module.MyClass'."
        )
    try:
        module = importlib.import_module(module_path)
    except ModuleNotFoundError as error:
        if error.name and module_path.startswith(error.name):
            raise ConfigError(
                f"{key}={path!r}: there is no module {error.name!r}. It must be importable from "
                f"the current directory or installed."
            ) from error
        raise
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise ConfigError(f"{key}={path!r}: module {module_path!r} has no {name!r}.") from error
