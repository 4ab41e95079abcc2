"""Reads masking rules from YAML and checks them strictly.

Rules for readers (*who*: role, purpose, relationship) are not there yet. A rule can name masks that installed packages
register, but contains no code. An unknown field is refused, never ignored: a rule that is silently not applied is worse
than no rule.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec
import yaml

from governance.errors import RuleError
from governance.policy.masks.base import NoOptions
from governance.policy.masks.registry import mask_kind
from vitalake.declarations import is_yaml
from vitalake.guarded import read_regular
from vitalake.lake.datasets.classes import CLASSES, nearest
from vitalake.strict_yaml import explain, line_of, read_yaml


class What(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"data_class": "class"}):
    """The columns that a rule applies to: those that match every given part."""

    dataset: str | None = None
    column: str | None = None
    data_class: str | None = None


class Filter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"values": "in"}):
    """Rows whose column holds one of these values are not published, and counted as filtered."""

    column: str
    values: list[str]


class Then(msgspec.Struct, frozen=True):
    """What happens: one mask with its options, or one filter."""

    mask: str | None = None
    options: Any = None
    filter: Filter | None = None

    def canonical(self) -> dict[str, Any]:
        """Return the form in which the action enters the version of the rules.

        It has the built-in masks' options even where they are not given, so that rules from before there were plug-ins
        keep their version.
        """
        form: dict[str, Any] = {"mask": self.mask, "filter": self.filter, "unit": None, "digits": None, "at": None}
        if self.mask is None:
            return form
        revision = mask_kind(self.mask).revision
        return form | msgspec.structs.asdict(self.options) | ({"revision": revision} if revision > 1 else {})


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"given": "in", "expected": "out"}):
    """A value and its masked form; checked whenever the rules are compiled for a dataset."""

    given: Any
    expected: Any


class _RuleForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    then: dict[str, Any]
    reason: str
    legal_basis: str
    owner: str
    what: What = What()
    examples: list[Example] = []


class Rule(msgspec.Struct, frozen=True):
    """One rule, with its reason, its legal basis and its owner."""

    id: str
    then: Then
    reason: str
    legal_basis: str
    owner: str
    what: What = What()
    examples: list[Example] = []

    def applies_to(self, *, dataset: str, column: str, data_class: str) -> bool:
        """Return whether the rule applies to a column."""
        what = self.what
        return (
            what.dataset in (None, dataset) and what.column in (None, column) and what.data_class in (None, data_class)
        )


_Listed = Annotated[str, msgspec.Meta(min_length=1, max_length=120)]


class _RuleFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: Literal[1]
    rules: list[_RuleForm] | msgspec.UnsetType = msgspec.UNSET
    lists: dict[str, list[_Listed]] = {}


@dataclass(frozen=True, slots=True)
class Policy:
    """All rules of a folder.

    Attributes:
        rules: in the order of file names and lines.
        version: a hash of their content; the same rules have the same version in whichever files they are.
        lists: name → the texts that columns with this list may publish, such as the names of wards. They are not part
            of the version: a hospital that opens a ward does not change a rule.
    """

    rules: tuple[Rule, ...]
    version: str
    lists: Mapping[str, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))


def load_policy(folder: Path) -> Policy:
    """Return the rules of all ``*.yaml`` files of a folder.

    Raises:
        RuleError: the folder is missing or empty, a file or rule is not valid, or a file ends in ``.yml``, ``.YAML`` or
            the like: its rules would silently not be applied. The error shows no values.
    """
    files = sorted(path for path in folder.glob("*") if is_yaml(path, error=RuleError))
    if not files:
        raise RuleError(
            "No rules found", where=str(folder), remedy="Run 'vitalake init': nothing is published without rules."
        )
    rules: list[Rule] = []
    lists: dict[str, frozenset[str]] = {}
    for path in files:
        own, listed = _read(path)
        rules += own
        for name, texts in listed.items():
            if name in lists:
                raise RuleError(
                    "Two files have a list of the same name",
                    where=f"{path.name} list {name}",
                    remedy="Put all texts of the list into one file.",
                )
            lists[name] = frozenset(texts)
    seen: set[str] = set()
    for rule in rules:
        if rule.id in seen:
            raise RuleError("Two rules have the same id", where=rule.id, remedy="Rename one of them.")
        seen.add(rule.id)
    content = [msgspec.structs.asdict(rule) | {"then": rule.then.canonical()} for rule in rules]
    digest = hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()
    return Policy(tuple(rules), digest[:12], MappingProxyType(lists))


def read_then(document: Mapping[str, Any]) -> Then:
    """Return the action of a rule; a mask's options are fields next to its name.

    Raises:
        RuleError: the mask is not installed, or the options do not fit it; ``where`` is the path to the wrong field,
            within the action.
        SettingsError: a registered mask cannot be loaded.
    """
    options = {name: value for name, value in document.items() if name not in ("mask", "filter")}
    mask = document.get("mask")
    if (mask is None) == (document.get("filter") is None):
        raise RuleError("Rule needs either a mask or a filter", remedy="Give exactly one of them under 'then'.")
    within = ""
    try:
        if mask is None:
            msgspec.convert(options, NoOptions)
            within = "filter."
            return Then(filter=msgspec.convert(document["filter"], Filter))
        return Then(mask, msgspec.convert(options, mask_kind(msgspec.convert(mask, str)).options))
    except msgspec.ValidationError as error:
        what = "Mask and its options do not fit" if mask is not None else "Filter is not valid"
        path = str(error).partition(" - at `$")[2].strip("`.")
        raise RuleError(what, where=f"then.{within}{path}".strip("."), remedy=_plain(str(error))) from None


def _read(path: Path) -> tuple[list[Rule], dict[str, list[str]]]:
    try:
        text = read_regular(path)
        document = _document(text)
    except (OSError, UnicodeDecodeError) as error:
        raise RuleError(
            f"Rule file cannot be read ({getattr(error, 'strerror', None) or type(error).__name__})",
            where=path.name,
            remedy="Make it a regular file of UTF-8 text that this account may read.",
        ) from None
    except yaml.YAMLError as error:
        why, line = explain(error)
        raise RuleError(f"Rule file {why}", where=f"{path.name}:{line}", remedy="Correct that line.") from None
    try:
        found = msgspec.convert(document, _RuleFile)
    except msgspec.ValidationError as error:
        raise _unfit(path, text, document, str(error)) from None
    if found.rules is msgspec.UNSET and not found.lists:
        raise RuleError("Rule file has neither rules nor lists", where=path.name, remedy="See docs/reference/rules.md.")
    rules = []
    for i, form in enumerate(found.rules or []):
        try:
            rule = Rule(**msgspec.structs.asdict(form) | {"then": read_then(form.then)})
            _check(rule)
        except RuleError as error:
            at = [name.partition("[")[0] for name in error.where.split(".")]
            place = f"{path.name}:{line_of(text, ['rules', i, *at])} rule {form.id} {error.where}"
            raise RuleError(error.what, where=place.strip(), remedy=error.remedy) from None
        rules.append(rule)
    return rules, found.lists


@lru_cache(maxsize=32)
def _document(text: str) -> Any:
    """Return what a rule file says, not to be changed; most files are read again and again as they were."""
    return read_yaml(text)


def _unfit(path: Path, text: str, document: Any, message: str) -> RuleError:
    """Return the error for a file that is not valid, with its place; msgspec's text names the field, not its value."""
    where, rule_id, at = message.partition(" - at ")[2].strip("`"), "", list[str | int]()
    if where.startswith("$.rules["):
        index = int(where[len("$.rules[") :].partition("]")[0])
        at = ["rules", index, *where.partition("].")[2].partition("[")[0].split(".")]
        rule = document["rules"][index]
        rule_id = f" rule {rule['id']}" if isinstance(rule, dict) and isinstance(rule.get("id"), str) else ""
        if isinstance(rule, dict) and "who" in rule:
            place = f"{path.name}:{line_of(text, ['rules', index, 'who'])}{rule_id}"
            return RuleError("Rules for readers ('who') are not supported yet", where=place, remedy="Remove 'who'.")
    return RuleError(
        "Rule is not valid",
        where=f"{path.name}:{line_of(text, at)}{rule_id} {where}".strip(),
        remedy=f"{_plain(message)} See docs/reference/rules.md.",
    )


def _plain(message: str) -> str:
    """Return the part of msgspec's text that names fields and types; its text about an enum would quote the value."""
    head = message.partition(" - at ")[0]
    return "The value is not one of the allowed values." if head.startswith("Invalid enum value") else f"{head}."


def _check(rule: Rule) -> None:
    """Check what a rule says by itself; ``masking.py`` checks it against the columns of a dataset."""
    if rule.then.mask is not None and rule.what == What():
        raise RuleError("Rule applies to nothing", where="what", remedy="Give 'what' a dataset, column or class.")
    if rule.then.filter is not None and (rule.what.column or rule.what.data_class):
        raise RuleError(
            "Filter applies to whole rows, not to a column or class",
            where="what",
            remedy="Give 'what' a dataset only; the filter names its column.",
        )
    if rule.what.data_class is not None and rule.what.data_class not in CLASSES:
        raise RuleError("Rule names an unknown data class", where="what.class", remedy=nearest(rule.what.data_class))
