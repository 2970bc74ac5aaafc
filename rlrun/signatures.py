"""What a class of ours takes, read off its source: importing it would import torch, which takes
seconds. For what is refused early, and for `rlrun options`."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, make_dataclass
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any, Literal

from rlrun.config import check_arguments, class_in
from rlrun.core.errors import ConfigError
from rlrun.core.ranges import check_not_negative, check_range, check_widths, refuse_unused
from rlrun.core.schedules import check_schedule_range

PACKAGE = Path(__file__).resolve().parent

RANGE_CHECKS = {"check_range", "check_schedule_range", "check_not_negative"}
"""The calls in a class's __post_init__ that say which numbers a key may have."""

KNOWN_HERE: dict[str, Any] = {
    each.__name__: each
    for each in (
        ConfigError,
        check_not_negative,
        check_range,
        check_schedule_range,
        check_widths,
        refuse_unused,
    )
}
"""What statements of a __post_init__ may name, to be carried out without their class."""


@dataclass(frozen=True)
class Range:
    """Which numbers a key may have, by one of RANGE_CHECKS."""

    check: str
    options: Mapping[str, Any]

    def __str__(self) -> str:
        if self.check == "check_not_negative":
            return "> 0" if self.options.get("exclusive") else ">= 0"
        low, high = self.options["low"], self.options.get("high")
        return f">= {low:g}" if high is None else f"{low:g} to {high:g}"


@dataclass(frozen=True)
class Key:
    """One field of a dataclass."""

    name: str
    annotation: Any
    type_text: str
    default: str | None
    """As it stands in the source; None: it must be given."""
    doc: str
    ranges: tuple[Range, ...] = ()

    @property
    def takes_object(self) -> bool:
        """Whether its value may be the node of an object."""
        return self.annotation is Any or class_in(self.annotation) is not None


@dataclass(frozen=True)
class Signature:
    """The fields of a dataclass and its bases, in their order."""

    name: str
    keys: dict[str, Key]
    constants: dict[str, Any]
    """The class variables that are plain values."""
    checks: list[tuple[CodeType, dict[str, Any]]]
    """What __post_init__ refuses by keys alone, each with the names that it uses."""

    def check(self, arguments: Mapping[str, Any], group: str) -> None:
        """Raise ConfigError, in the words of the class itself, for what it would refuse of these:
        an unknown key, a type, a number out of its range, keys that do not go together."""
        given = {
            name: value
            for name, value in arguments.items()
            # An object that a known key's node stands for is built later.
            if not (name in self.keys and self.keys[name].takes_object and stands_for_object(value))
        }
        skeleton = make_dataclass(
            self.name,
            [
                (key.name, key.annotation, _field(key, given.get(key.name)))
                for key in self.keys.values()
                if key.name in given or key.name not in arguments
            ],
            kw_only=True,
        )
        checked = check_arguments(skeleton, given, group)
        names: dict[str, Any] = {"self": skeleton(**checked)}
        for code, known in self.checks:
            try:
                exec(code, known | names, names)  # our own source
            except (AttributeError, NameError):
                continue  # It looks at an object that is built later.


@cache
def signature_of(path: str) -> Signature | None:
    """That of the dataclass at an import path; None for classes that are not ours, or are none."""
    module, _, name = path.rpartition(".")
    found = _find_class(module, name)
    if found is None:
        return None
    signature = Signature(name, {}, {}, [])
    sources = _with_bases(*found)
    for source in reversed(sources):
        _add(signature, source)
    return signature if any(_is_dataclass(node) for _, node in sources) else None


@dataclass(frozen=True)
class _Module:
    """The names that a module of ours defines or imports."""

    name: str
    classes: dict[str, ast.ClassDef]
    values: dict[str, ast.expr]
    imported: dict[str, tuple[str, str]]


@cache
def _read(module: str) -> _Module | None:
    root, *parts = module.split(".")
    if root != "rlrun":
        return None
    path = PACKAGE.joinpath(*parts)
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.is_file():
        return None
    found = _Module(module, {}, {}, {})
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found.classes[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.values[node.targets[0].id] = node.value
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found.imported[alias.asname or alias.name] = (node.module, alias.name)
    return found


def _find_class(module: str, name: str) -> tuple[_Module, ast.ClassDef] | None:
    """Where a class is defined that `module` defines or imports under `name`."""
    here = _read(module)
    if here is None:
        return None
    if name in here.classes:
        return here, here.classes[name]
    return _find_class(*here.imported[name]) if name in here.imported else None


def _with_bases(module: _Module, node: ast.ClassDef) -> list[tuple[_Module, ast.ClassDef]]:
    """The class and its bases, each once, as Python looks names up (for our simple families)."""
    found = [(module, node)]
    for base in node.bases:
        if isinstance(base, ast.Name) and (place := _find_class(module.name, base.id)):
            found += [each for each in _with_bases(*place) if each not in found]
    return found


def _add(signature: Signature, source: tuple[_Module, ast.ClassDef]) -> None:
    """What a class adds to the signature of its bases."""
    module, node = source
    keys = signature.keys
    following = [*node.body[1:], None]
    for statement, after in zip(node.body, following, strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name, text = statement.target.id, ast.unparse(statement.annotation)
            if text.startswith("ClassVar"):
                signature.constants[name] = _literal(_default_text(statement.value))
            elif not _is_dataclass(node):
                continue
            elif "init=False" in ast.unparse(statement):
                keys.pop(name, None)
            else:
                before = keys.get(name)
                keys[name] = Key(
                    name,
                    _evaluated(module, statement.annotation),
                    text,
                    _default_text(statement.value),
                    _doc(after) or (before.doc if before else ""),
                    before.ranges if before else (),
                )
        elif isinstance(statement, ast.FunctionDef) and statement.name == "__post_init__":
            for name, found in _ranges(module, statement.body, {}):
                if name in keys:
                    key = keys[name]
                    keys[name] = Key(**{**vars(key), "ranges": (*key.ranges, found)})
            signature.checks.extend(_checks(module, statement.body, keys))


def _checks(
    module: _Module, body: list[ast.stmt], keys: Mapping[str, Key]
) -> Iterator[tuple[CodeType, dict[str, Any]]]:
    """The statements that need nothing but the keys, functions of KNOWN_HERE and plain values."""
    known = dict(KNOWN_HERE)
    known |= {name: _literal(ast.unparse(value)) for name, value in module.values.items()}
    local = {"self"}
    for statement in body:
        names = [each for each in ast.walk(statement) if isinstance(each, ast.Name)]
        assigned = {each.id for each in names if isinstance(each.ctx, ast.Store)}
        looked_at = {
            each.attr
            for each in ast.walk(statement)
            if isinstance(each, ast.Attribute) and ast.unparse(each.value) == "self"
        }
        used = {each.id for each in names} - assigned - local
        is_plain = all(known.get(name) is not None or hasattr(builtins, name) for name in used)
        changes_nothing = "self." not in "".join(_targets(statement))
        if is_plain and changes_nothing and looked_at <= keys.keys() and "super" not in used:
            yield compile(ast.Module([statement], []), module.name, "exec"), known
            local |= assigned


def _targets(statement: ast.stmt) -> Iterator[str]:
    for each in ast.walk(statement):
        if isinstance(each, ast.Assign | ast.AnnAssign | ast.AugAssign):
            targets = each.targets if isinstance(each, ast.Assign) else [each.target]
            yield from map(ast.unparse, targets)


def _field(key: Key, value: Any) -> Any:
    """A field with the key's default; with the value itself where the source names no plain one."""
    if key.default is None:
        return field()
    default = _literal(key.default)
    default = value if default is None else default
    is_mutable = isinstance(default, list | dict)
    return field(default_factory=lambda: default) if is_mutable else field(default=default)


def _literal(text: str | None) -> Any:
    """The plain value that stands in the source; None for others."""
    try:
        return ast.literal_eval(text or "None")
    except ValueError:
        return None


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(each) for each in node.decorator_list)


def _default_text(value: ast.expr | None) -> str | None:
    if value is None:
        return None
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        given = {each.arg: each.value for each in value.keywords}
        if "default" in given:
            return ast.unparse(given["default"])
        factory = given.get("default_factory")
        if factory is None:
            return None
        if isinstance(factory, ast.Lambda):
            return ast.unparse(factory.body)
        return {"dict": "{}", "list": "[]"}.get(ast.unparse(factory), ast.unparse(factory))
    return ast.unparse(value)


def _doc(after: ast.stmt | None) -> str:
    is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    return " ".join(str(after.value.value).split()) if is_text else ""  # type: ignore[union-attr]


def _evaluated(module: _Module, node: ast.expr) -> Any:
    """An annotation as an object; a class that is none of Python's own becomes an empty one."""
    names: dict[str, Any] = {"Literal": Literal, "Any": Any}
    for each in ast.walk(node):
        if isinstance(each, ast.Name) and each.id not in names:
            names[each.id] = _named(module, each.id)
    try:
        return eval(compile(ast.Expression(node), module.name, "eval"), names)  # our own source
    except TypeError:  # A generic class that is none of Python's own: anything may pass.
        return Any


def _named(module: _Module, name: str) -> Any:
    builtin = {"int": int, "float": float, "bool": bool, "str": str, "list": list, "dict": dict}
    if name in builtin or name == "tuple":
        return builtin.get(name, tuple)
    if name in module.values:
        return _evaluated(module, module.values[name])
    if name in module.imported and (other := _read(module.imported[name][0])):
        return _named(other, module.imported[name][1])
    return type(name, (), {})


def _ranges(
    module: _Module, body: list[ast.stmt], names: Mapping[str, str]
) -> Iterator[tuple[str, Range]]:
    """(key, range) of the checks that are made in any case; `names` are those of loops around."""
    for statement in body:
        if isinstance(statement, ast.For) and isinstance(statement.target, ast.Name):
            values = statement.iter
            if isinstance(values, ast.Name):
                values = module.values.get(values.id, values)
            for each in getattr(values, "elts", ()):
                if isinstance(each, ast.Constant):
                    bound = {**names, statement.target.id: str(each.value)}
                    yield from _ranges(module, statement.body, bound)
        elif isinstance(statement, ast.If):
            # Where another value than a number is allowed, or none.
            about = ast.unparse(statement.test)
            for name, found in _ranges(module, statement.body, names):
                if about in (f"self.{name} is not None", f"self.{name} != 'auto'"):
                    yield name, found
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            yield from _range_of_call(statement.value, names)


def _range_of_call(call: ast.Call, names: Mapping[str, str]) -> Iterator[tuple[str, Range]]:
    check = ast.unparse(call.func)
    if check not in RANGE_CHECKS:
        return
    try:
        options = {each.arg: ast.literal_eval(each.value) for each in call.keywords if each.arg}
    except ValueError:  # Bounds that are not numbers in the source.
        return
    checked = call.args[1:] if check == "check_not_negative" else call.args[:1]
    for argument in checked:
        if isinstance(argument, ast.JoinedStr):
            last = argument.values[-1]
            variable = ast.unparse(last.value) if isinstance(last, ast.FormattedValue) else ""
            name = names.get(variable, "")
        elif isinstance(argument, ast.Name):
            name = names.get(argument.id, "")
        else:
            name = str(argument.value) if isinstance(argument, ast.Constant) else ""
        yield name.rpartition(".")[2], Range(check, options)


def stands_for_object(value: Any) -> bool:
    """Whether a YAML value is the node of an object."""
    return isinstance(value, Mapping) and "_target_" in value
