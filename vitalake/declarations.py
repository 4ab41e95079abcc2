"""Declarations: what the project ships, and what a home declares beside it, in YAML.

A *kind* of declaration (datasets, vocabulary, tasks) is a folder of the package and a folder of the same name in the
home. A process works with the declarations of one home, that whose settings it has loaded. They are checked against a
structure; an error names the file and the line and quotes no value.
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

from vitalake.errors import SettingsError
from vitalake.guarded import read_guarded
from vitalake.strict_yaml import explain, line_of, read_yaml

T = TypeVar("T")
Given = TypeVarTuple("Given")

KINDS = ("datasets", "vocabulary", "tasks")
"""The folders of a home that hold declarations."""

FOLDERS = {"tasks": "task.yaml"}
"""Kinds of which each declaration is a folder of its name, and the file that it must hold."""

NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")
"""What a declaration may be called: its file's name, a table's or a task's; it stands in paths and in SQL."""

MOST_REMEMBERED = 1024
"""Of what ``per_home`` has made, for all homes of a process together."""

_home: Path | None = None
_files: tuple[tuple[str, int, int], ...] = ()
"""The files that the home in use declares something in, as they were when it was taken into use."""


@dataclass(frozen=True, slots=True)
class Declared:
    """Where something is declared.

    Attributes:
        name: of the file, without its suffix; of a kind whose declarations are folders: of the folder.
        path: of the file.
        of_home: whether the home declares it; else the project ships it.
    """

    name: str
    path: Path
    of_home: bool

    @property
    def where(self) -> str:
        """Return how an error names the file: one of the package by its name, one of the home by its path."""
        if self.of_home:
            return str(self.path)
        return self.path.name if self.path.stem == self.name else f"{self.name}/{self.path.name}"


def use(home: Path | None) -> None:
    """Let the declarations of a home hold from now on in this process; None: only those that the project ships."""
    global _home, _files
    _home, _files = home, _stamps(home) if home else ()


def in_use() -> Path | None:
    """Return the home whose declarations hold; what is made of them is kept by ``per_home``."""
    return _home


def per_home(make: Callable[[*Given], T]) -> Callable[[*Given], T]:
    """Return a function that makes something of what is declared, once for each home and its arguments.

    It is made anew when ``use`` finds other files, or changed ones. Homes that declare nothing share it.
    """

    @lru_cache(MOST_REMEMBERED)
    def made(_of: object, *given: *Given) -> T:
        return make(*given)

    @wraps(make)
    def found(*given: *Given) -> T:
        return made(_files, *given)

    return found


def _stamps(home: Path) -> tuple[tuple[str, int, int], ...]:
    """Return path, time and size of each file in which a home declares something."""
    found = []
    for kind in KINDS:
        for path in sorted((home / kind).rglob("*.y*ml")):
            try:
                told = path.stat()
            except OSError:  # a link to nowhere: whoever reads it says so
                found.append((str(path), 0, 0))
            else:
                found.append((str(path), told.st_mtime_ns, told.st_size))
    return tuple(found)


def shipped(folder: Path) -> dict[str, Declared]:
    """Return what the project ships of a kind: name → where."""
    file = FOLDERS.get(folder.name)
    found = {path.parent.name if file else path.stem: path for path in folder.glob(f"*/{file}" if file else "*.yaml")}
    return {name: Declared(name, path, of_home=False) for name, path in sorted(found.items())}


def declared(kind: str, home: Path | None) -> dict[str, Declared]:
    """Return what a home declares of a kind: name → where.

    Raises:
        SettingsError: a file has a name that cannot be a name.
    """
    folder = home / kind if home else None
    if folder and kind in FOLDERS:
        return _declared_folders(folder, FOLDERS[kind])
    found = {}
    for path in sorted(folder.glob("*.y*ml")) if folder else ():
        if path.suffix != ".yaml" or not NAME.fullmatch(path.stem):
            raise SettingsError(
                "Declaration has a name that is none",
                where=str(path),
                remedy="Name it with small letters, digits and _, and .yaml at the end.",
            )
        found[path.stem] = Declared(path.stem, path, of_home=True)
    return found


def _declared_folders(folder: Path, file: str) -> dict[str, Declared]:
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.is_dir() and not path.name.startswith((".", "__")):
            if not NAME.fullmatch(path.name) or not (path / file).is_file():
                raise SettingsError(
                    f"Declaration is a folder without {file}, or has a name that is none",
                    where=str(path),
                    remedy=f"Name it with small letters, digits and _, and put {file} into it.",
                )
            found[path.name] = Declared(path.name, path / file, of_home=True)
        elif path.suffix in {".yaml", ".yml"}:
            raise SettingsError(
                "Declaration lies in no folder of its own",
                where=str(path),
                remedy=f"Make it {folder.name}/{path.stem}/{file}.",
            )
    return found


def doubt_of(home: Path) -> str:
    """Return why the declarations of a home may be the word of whoever runs this process; empty: they are not.

    What a column is decides how it is masked, so a declaration counts like the configuration itself.
    """
    for kind in KINDS:
        for path in sorted((home / kind).glob("*/*.y*ml" if kind in FOLDERS else "*.y*ml")):
            try:
                _, doubt = read_guarded(path)
            except (OSError, UnicodeDecodeError):
                continue  # whoever needs it will say so
            if doubt:
                return doubt
    return ""


def read(found: Declared) -> tuple[Any, str]:
    """Return a declaration's document and its text.

    Raises:
        SettingsError: it cannot be read, or is not YAML as configuration is written.
    """
    try:
        text = found.path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"Declaration cannot be read ({error.strerror})", where=found.where, remedy="Check the file's permissions."
        ) from None
    except UnicodeDecodeError as error:
        raise _not_yaml(error, found.where) from None
    return parse(text, where=found.where), text


def parse(text: str, *, where: str) -> Any:
    """Return the document of a declaration's text.

    Raises:
        SettingsError: it is not YAML as configuration is written.
    """
    try:
        return read_yaml(text)
    except yaml.YAMLError as error:
        raise _not_yaml(error, where) from None


def _not_yaml(error: yaml.YAMLError | UnicodeDecodeError, where: str) -> SettingsError:
    why, line = explain(error)
    return SettingsError(f"Declaration {why}", where=f"{where}:{line}", remedy="Correct that line.")


def convert(document: Any, form: type[T], *, where: str, text: str = "", at: Sequence[str | int] = ()) -> T:
    """Return a document, or a part of one, in its form.

    Args:
        document: what the YAML says there.
        form: a msgspec struct, or a mapping or list of some.
        where: the file, for errors.
        text: of the whole file, to find the line; empty: the line is not known.
        at: keys and places on the way from the whole document to this part.

    Raises:
        SettingsError: it does not fit; names file, line and field.
    """
    try:
        return msgspec.convert(document, form)
    except msgspec.ValidationError as error:
        why, _, path = str(error).partition(" - at `$")
    if why.startswith(("Invalid enum value", "Invalid value")):  # it would quote it
        why = "the value is none of the allowed ones"
    inside = _steps(path.rstrip("`"))
    number = "Write a number, without quotes, and an exponent with its sign: 1.0e+9."
    remedy = number if why == "Expected `float`, got `str`" else "Correct that line."
    raise refused(f"Declaration does not fit: {why}", where=where, text=text, at=(*at, *inside), remedy=remedy)


def refused(
    what: str, *, where: str, text: str = "", at: Sequence[str | int] = (), remedy: str = "Correct that line."
) -> SettingsError:
    """Return the error of a declaration that does not hold, with the line of what is wrong.

    Args:
        what: what is wrong, without a value.
        where: the file.
        text: of the whole file; empty: the line is not known.
        at: keys and places on the way to what is wrong.
        remedy: what to do.
    """
    place = f"{where}:{line_of(text, at)}" if text else where
    names = ".".join(map(str, at))
    return SettingsError(what, where=f"{place} ({names})" if names else place, remedy=remedy)


def _steps(path: str) -> list[str | int]:
    """Return the way to a place as msgspec writes it; of a mapping's entries it does not say which."""
    steps: list[str | int] = []
    for name, number in re.findall(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]", path):
        if number == "...":
            break
        steps.append(name or int(number))
    return steps


def entries(
    document: Mapping[str, Any], form: type[T], *, where: str, text: str, at: Sequence[str | int]
) -> dict[str, T]:
    """Return a mapping's entries in their form, so that an error names the entry; as ``convert``."""
    return {name: convert(entry, form, where=where, text=text, at=(*at, name)) for name, entry in document.items()}
