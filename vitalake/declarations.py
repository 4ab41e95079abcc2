"""Reads declarations in YAML: those that the project ships, and those that a home adds.

A *kind* of declaration (datasets, vocabulary, tasks) is a folder of the package and a folder of the same name in the
home. A process works with the declarations of one home: the home whose settings it has loaded. Every declaration is
checked against a structure. An error names the file and the line, and quotes no value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

import msgspec
import yaml
from msgspec import inspect

from vitalake.errors import SettingsError, VitaLakeError
from vitalake.guarded import read_guarded, read_regular
from vitalake.strict_yaml import explain, line_of, read_yaml

T = TypeVar("T")
Given = TypeVarTuple("Given")

KINDS = ("datasets", "vocabulary", "tasks")
"""The folders of a home that hold declarations."""

FOLDERS = {"tasks": "task.yaml"}
"""Kinds where each declaration is a folder of its own, with the name of the file that must be in it."""

NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")
"""What a declaration may be called. Its name is the name of a file, a table or a task: it occurs in paths and SQL."""

END = r"$(?!\n)"
r"""The end of a text in the pattern of a field: in Python ``$`` also stands before a last line feed, and the JSON
Schemas for editors know no ``\Z``."""

MOST_REMEMBERED = 1024
"""Results that each function of ``per_home`` caches, for all homes of a process together."""

ENDINGS = frozenset({".yaml", ".yml"})
"""Endings of YAML files, in small letters. Files end in the first; what ends in the other is refused, not ignored."""

_home: Path | None = None
_files: tuple[tuple[str, int, int], ...] = ()
"""Path, time and size of the declaration files of the home in use, from the moment ``use`` was called."""


@dataclass(frozen=True, slots=True)
class Declared:
    """The file of a declaration.

    Attributes:
        name: name of the file without its suffix; where declarations are folders, name of the folder.
        path: path of the file.
        of_home: whether the home declares it; else the project ships it.
    """

    name: str
    path: Path
    of_home: bool

    @property
    def where(self) -> str:
        """Return how an error names the file: its path if the home declares it, its name if the project ships it."""
        if self.of_home:
            return str(self.path)
        return self.path.name if self.path.stem == self.name else f"{self.name}/{self.path.name}"


def use(home: Path | None) -> None:
    """Use the declarations of a home from now on in this process; None: only those that the project ships."""
    global _home, _files
    _home, _files = home, _stamps(home) if home else ()


def in_use() -> Path | None:
    """Return the home whose declarations this process uses; None: only those that the project ships."""
    return _home


def per_home(make: Callable[[*Given], T]) -> Callable[[*Given], T]:
    """Decorate a function whose result follows from the declarations, so that it is cached for each home.

    The cache key is the state of the home's files and the arguments: after ``use`` has found new or changed files the
    function runs again. Homes that declare nothing share their results.
    """

    @lru_cache(MOST_REMEMBERED)
    def cached(_files_key: object, *given: *Given) -> T:
        return make(*given)

    @wraps(make)
    def of_home_in_use(*given: *Given) -> T:
        return cached(_files, *given)

    return of_home_in_use


def is_yaml(path: Path, *, error: type[VitaLakeError] = SettingsError) -> bool:
    """Return whether a file's name ends in ``.yaml``.

    Raises:
        error: it ends in ``.yml``, ``.YAML`` or the like: whoever wrote the file believes that it holds.
    """
    if path.suffix != ".yaml" and path.suffix.lower() in ENDINGS:
        raise error(
            "File would not be read: its name does not end in .yaml",
            where=str(path),
            remedy=f"Rename it to {path.stem}.yaml, or move it to another folder.",
        )
    return path.suffix == ".yaml"


def _stamps(home: Path) -> tuple[tuple[str, int, int], ...]:
    """Return path, time and size of each file in which a home declares something."""
    found = []
    for kind in KINDS:
        for path in sorted(path for path in (home / kind).rglob("*") if path.suffix.lower() in ENDINGS):
            try:
                status = path.stat()
            except OSError:  # a link to nowhere: reading the declaration raises the error
                found.append((str(path), 0, 0))
            else:
                found.append((str(path), status.st_mtime_ns, status.st_size))
    return tuple(found)


def shipped(folder: Path) -> dict[str, Declared]:
    """Return the declarations of a kind that the project ships, by name."""
    file = FOLDERS.get(folder.name)
    found = {path.parent.name if file else path.stem: path for path in folder.glob(f"*/{file}" if file else "*.yaml")}
    return {name: Declared(name, path, of_home=False) for name, path in sorted(found.items())}


def declared(kind: str, home: Path | None) -> dict[str, Declared]:
    """Return the declarations of a kind that a home adds, by name; hidden files and folders are left out.

    Raises:
        SettingsError: a file or folder has a name that is not allowed, or lies in the wrong place.
    """
    folder = home / kind if home else None
    if folder and kind in FOLDERS:
        return _declared_folders(folder, FOLDERS[kind])
    found = {}
    for path in sorted(folder.glob("*")) if folder else ():
        if path.name.startswith(".") or not is_yaml(path):  # hidden: an editor's
            continue
        if not NAME.fullmatch(path.stem):
            raise SettingsError(
                "Name of the declaration is not allowed",
                where=str(path),
                remedy="Begin it with a small letter, and use only small letters, digits and _.",
            )
        found[path.stem] = Declared(path.stem, path, of_home=True)
    return found


def _declared_folders(folder: Path, file: str) -> dict[str, Declared]:
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.name.startswith("__"):
            if not NAME.fullmatch(path.name) or not (path / file).is_file():
                raise SettingsError(
                    f"Declaration is a folder without {file}, or its name is not allowed",
                    where=str(path),
                    remedy=f"Begin its name with a small letter, use only small letters, digits and _, and put {file} "
                    "into it.",
                )
            found[path.name] = Declared(path.name, path / file, of_home=True)
        elif is_yaml(path):
            raise SettingsError(
                "Declaration is not in a folder of its own",
                where=str(path),
                remedy=f"Move it to {folder.name}/{path.stem}/{file}.",
            )
    return found


def doubt_of(home: Path) -> str:
    """Return why the account that runs this process could have written the home's declarations; empty: it could not.

    The declared class of a column decides how it is masked. Declarations are therefore guarded like the configuration.
    """
    for kind in KINDS:
        for path in sorted((home / kind).glob("*/*.yaml" if kind in FOLDERS else "*.yaml")):
            try:
                _, doubt = read_guarded(path)
            except (OSError, UnicodeDecodeError):
                continue  # reading the declaration raises the error
            if doubt:
                return doubt
    return ""


def read(found: Declared) -> tuple[Any, str]:
    """Return a declaration's document and its text.

    Raises:
        SettingsError: it cannot be read, or is not YAML in the strict form that configuration has.
    """
    try:
        text = read_regular(found.path)
    except OSError as error:
        raise SettingsError(
            f"Declaration cannot be read ({error.strerror})",
            where=found.where,
            remedy="Make it a regular file of at most 1 MiB that this account may read.",
        ) from None
    except UnicodeDecodeError as error:
        raise _not_yaml(error, found.where) from None
    return parse(text, where=found.where), text


def parse(text: str, *, where: str) -> Any:
    """Return the document of a declaration's text.

    Raises:
        SettingsError: it is not YAML in the strict form that configuration has.
    """
    try:
        return read_yaml(text)
    except yaml.YAMLError as error:
        raise _not_yaml(error, where) from None


def _not_yaml(error: yaml.YAMLError | UnicodeDecodeError, where: str) -> SettingsError:
    why, line = explain(error)
    return SettingsError(f"Declaration {why}", where=f"{where}:{line}", remedy="Correct that line.")


def convert(document: Any, form: type[T], *, where: str, text: str = "", at: Sequence[str | int] = ()) -> T:
    """Convert a document, or a part of one, to its structure.

    Args:
        document: what the YAML says, as plain types.
        form: a msgspec struct, or a mapping or list of structs.
        where: the file, for errors.
        text: text of the whole file, to find the line; empty: the line is not known.
        at: keys and indexes that lead from the whole document to this part.

    Raises:
        SettingsError: it does not fit the structure; names file, line and field.
    """
    try:
        return msgspec.convert(document, form)
    except msgspec.ValidationError as error:
        why, _, path = str(error).partition(" - at `")
    of_key, inside, remedy = (
        path.startswith("key` in"),
        _steps(path.rpartition("$")[2].rstrip("`")),
        "Correct that line.",
    )
    if of_key and why.startswith("Expected `str`"):
        why, remedy = "a key is read as a number, a date or a boolean", "Write it in quotes."
    elif why.startswith(("Invalid enum value", "Invalid value")):  # msgspec quotes the value
        why = "the value is not one of those allowed"
        if allowed := _allowed(form, inside):
            remedy = f"Write one of: {', '.join(allowed)}."
    elif why == "Expected `float`, got `str`":
        remedy = "Write a number, without quotes, and an exponent with its sign: 1.0e+9."
    raise refused(f"Declaration does not fit: {why}", where=where, text=text, at=(*at, *inside), remedy=remedy)


def _allowed(form: Any, steps: Sequence[str | int]) -> list[str]:
    """Return the values that a structure allows at a place, where it lists them."""
    found = _kinds(inspect.type_info(form))
    for step in steps:
        found = [kind for outer in found for kind in _inside(outer, step)]
    return [str(value) for kind in found if isinstance(kind, inspect.LiteralType) for value in kind.values]


def _inside(kind: inspect.Type, step: str | int) -> list[inspect.Type]:
    if isinstance(kind, inspect.StructType):
        return [inner for field in kind.fields if field.encode_name == step for inner in _kinds(field.type)]
    if isinstance(kind, inspect.ListType):
        return _kinds(kind.item_type)
    return _kinds(kind.value_type) if isinstance(kind, inspect.DictType) else []


def _kinds(kind: inspect.Type) -> list[inspect.Type]:
    """Return the alternatives of a type, each without what is said of it for JSON Schemas."""
    if isinstance(kind, inspect.UnionType):
        return [inner for one in kind.types for inner in _kinds(one)]
    return _kinds(kind.type) if isinstance(kind, inspect.Metadata) else [kind]


def refused(
    what: str, *, where: str, text: str = "", at: Sequence[str | int] = (), remedy: str = "Correct that line."
) -> SettingsError:
    """Return the error of a declaration that is not valid, with the line of the mistake.

    Args:
        what: what is wrong, without a value.
        where: the file.
        text: text of the whole file; empty: the line is not known.
        at: keys and indexes that lead to the mistake.
        remedy: what to do.
    """
    place = f"{where}:{line_of(text, at)}" if text else where
    names = ".".join(map(str, at))
    return SettingsError(what, where=f"{place} ({names})" if names else place, remedy=remedy)


def _steps(path: str) -> list[str | int]:
    """Return the keys and indexes of a path as msgspec writes it.

    For an entry of a mapping msgspec writes ``[...]`` and not the key: the steps end there.
    """
    steps: list[str | int] = []
    for name, number in re.findall(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]", path):
        if number == "...":
            break
        steps.append(name or int(number))
    return steps


def entries(
    document: Mapping[str, Any], form: type[T], *, where: str, text: str, at: Sequence[str | int]
) -> dict[str, T]:
    """Convert the entries of a mapping one by one, as ``convert`` does, so that an error names the entry."""
    return {name: convert(entry, form, where=where, text=text, at=(*at, name)) for name, entry in document.items()}
