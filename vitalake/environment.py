"""Lets environment variables set addresses, ports and sizes, one variable a field; for other settings it is refused.

Whoever runs a command chooses its environment. Therefore the privacy officers, the rules and keys, and the places of
the vault, the audit and the erasures are read from the configuration file only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo

from vitalake.errors import SettingsError

PREFIX, NESTED = "VITALAKE_", "__"

ALLOWED: dict[str, JsonValue] = {"environment": True}
"""Marks a field that a variable may set, as its ``json_schema_extra``."""

Path = tuple[str, ...]


def variables(model: type[BaseModel], environment: Mapping[str, str]) -> dict[Path, str]:
    """Return which fields the environment sets: path of the field → name of the variable.

    Variables that do not begin with a section of the settings, such as ``VITALAKE_HOME``, are left alone.

    Raises:
        SettingsError: a variable names a setting that the environment may not set, or that does not exist. The error
            does not show values.
    """
    found = {}
    for name in environment:
        path = tuple(name.upper().removeprefix(PREFIX).lower().split(NESTED))
        if not name.upper().startswith(PREFIX) or path == ("home",) or path[0] not in model.model_fields:
            continue
        field = _field(model, path)
        if field is None or field.json_schema_extra != ALLOWED:
            raise _refused(name, path, known=field is not None)
        found[path] = name
    return found


def may_set(field: FieldInfo) -> bool:
    """Return whether a variable may set a field."""
    return field.json_schema_extra == ALLOWED


def overlaid(document: dict[str, Any], found: Mapping[Path, str], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return a configuration in which the values of the environment replace those of the file.

    Args:
        document: the configuration as the file has it; it is not changed.
        found: fields and variables, as ``variables`` returns them.
        environment: the variables with their values.

    Raises:
        SettingsError: a variable names a job that the file does not have.
    """
    for path, name in found.items():
        if path[0] == "jobs" and path[1] not in (document.get("jobs") or {"vitals"}):
            raise SettingsError("Variable names a job that is not configured", where=name, remedy="Add the job first.")
        document = _with(document, path, environment[name])
    return document


def _field(model: type[BaseModel], path: Path) -> FieldInfo | None:
    """Return the field at a path; the level below ``jobs`` is a job's name."""
    field = model.model_fields.get(path[0])
    if field is None or len(path) == 1:
        return field
    kinds = [field.annotation, *get_args(field.annotation)]
    inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    rest = path[1:] if inner is field.annotation else path[2:]
    return _field(inner, rest) if inner is not None and rest else None


def _with(document: Any, path: Path, value: str) -> Any:
    """Return a document with the value at a path; the document itself is not changed."""
    if not path:
        return value
    if not isinstance(document, dict | None):
        return document  # the file has something else there; validation of the settings reports it
    inner = document or {}
    return {**inner, path[0]: _with(inner.get(path[0]), path[1:], value)}


def _refused(name: str, path: Path, *, known: bool) -> SettingsError:
    setting = ".".join(path)
    if not known:
        return SettingsError(
            "Environment variable does not name a single setting",
            where=name,
            remedy="Correct or unset it; docs/reference/configuration.md lists the settings.",
        )
    return SettingsError(
        f"Environment may not set {setting}",
        where=name,
        remedy=f"Unset the variable, and write {setting} in the configuration file, as a reference if it is a secret.",
    )
