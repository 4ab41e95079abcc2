"""What the environment may say of the settings: addresses, ports and sizes, one variable a field; all else is refused.

Whoever runs a command chooses its environment. Who is an officer, which rules and keys there are, and where the vault,
the audit and the erasures lie, is therefore read from the configuration file only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, JsonValue
from pydantic.fields import FieldInfo

from vitalake.errors import SettingsError

PREFIX, NESTED = "VITALAKE_", "__"

ALLOWED: dict[str, JsonValue] = {"environment": True}
"""``json_schema_extra`` of a field that a variable may set."""

Path = tuple[str, ...]


def variables(model: type[BaseModel], environment: Mapping[str, str]) -> dict[Path, str]:
    """Return which fields the environment sets: path of the field → name of the variable.

    Variables that name no section of the settings, such as ``VITALAKE_HOME``, are not settings.

    Raises:
        SettingsError: a variable names a setting that the environment may not set, or none. Values are not echoed.
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
    """Return a configuration with the environment's values in place of its own.

    Args:
        document: as the file has it; not changed.
        found: as ``variables`` returns it.
        environment: with the values.

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
    if not path:
        return value
    if not isinstance(document, dict | None):
        return document  # its form is not valid, which is said when it is read
    inner = document or {}
    return {**inner, path[0]: _with(inner.get(path[0]), path[1:], value)}


def _refused(name: str, path: Path, *, known: bool) -> SettingsError:
    setting = ".".join(path)
    if not known:
        return SettingsError(
            "Environment variable names no single setting", where=name, remedy="See docs/reference/configuration.md."
        )
    return SettingsError(
        f"Environment may not set {setting}",
        where=name,
        remedy=f"Unset the variable, and write {setting} in the configuration file, as a reference if it is a secret.",
    )
