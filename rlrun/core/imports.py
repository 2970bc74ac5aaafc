"""Objects by import path: the one door through which a user's own classes come in."""

from __future__ import annotations

import importlib
import re
from typing import Any

from rlrun.core.errors import ConfigError

IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
"""A module and a name in it, with dots."""

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


def import_path(named: Any, key: str) -> str:
    """`named` itself if it is text, or the path by which every process can import that class.

    Raises ConfigError for what has none: an instance, or a class made in a function or a script.
    """
    if isinstance(named, str):
        return named
    if not isinstance(named, type):
        kind = type(named).__name__
        raise ConfigError(
            f"{key} is an object of the class {kind}; every process of a run makes its own. Give "
            f"the class, by its import path: {key}='my_module.{kind}'."
        )
    if "." in named.__qualname__ or named.__module__ == "__main__":
        place = "a script" if named.__module__ == "__main__" else "a function or a class"
        raise ConfigError(
            f"{key}: the class {named.__qualname__} is made in {place}, where other processes of "
            f"the run cannot import it. Put it in a module: {key}='my_module.{named.__name__}'."
        )
    return f"{named.__module__}.{named.__qualname__}"
