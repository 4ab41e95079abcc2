"""Masking rules as data: read from YAML, checked as strictly as code.

The format starts here and grows: *who* (role, purpose, relationship) comes with the governance issue. A rule can name
masks that installed packages register, and no code. A field that is not known is refused, never ignored: a rule that is
silently not applied is worse than none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import msgspec
import yaml

from governance.errors import RuleError
from governance.policy.masks.base import NoOptions
from governance.policy.masks.registry import mask_kind
from vitalake.strict_yaml import explain, line_of, read_yaml


class What(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"data_class": "class"}):
    """What a rule speaks of; every part that is given must hold."""

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
        """Return what the version of the rules counts it by; rules of before there were plug-ins keep theirs."""
        said: dict[str, Any] = {"mask": self.mask, "filter": self.filter, "unit": None, "digits": None, "at": None}
        if self.mask is None:
            return said
        revision = mask_kind(self.mask).revision
        return said | msgspec.structs.asdict(self.options) | ({"revision": revision} if revision > 1 else {})


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"given": "in", "expected": "out"}):
    """A value and what becomes of it; checked whenever the rules are read."""

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
    """One rule, with why it is there and who answers for it."""

    id: str
    then: Then
    reason: str
    legal_basis: str
    owner: str
    what: What = What()
    examples: list[Example] = []

    def speaks_of(self, *, dataset: str, column: str, data_class: str) -> bool:
        """Return whether the rule is about a column."""
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
        version: a hash of their content; the same rules have the same version wherever they lie.
        lists: name → the texts that columns held to it may publish, such as the names of wards. They are no part of
            the version: a hospital that opens a ward has changed no rule.
    """

    rules: tuple[Rule, ...]
    version: str = field(default="")
    lists: Mapping[str, frozenset[str]] = field(default_factory=lambda: MappingProxyType({}))


def load_policy(folder: Path) -> Policy:
    """Return the rules of all ``*.yaml`` and ``*.yml`` files of a folder.

    Raises:
        RuleError: the folder is missing or empty, or a file or rule does not hold. Values are not echoed.
    """
    # Both endings: a file that is not read is a rule that is not applied.
    files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    if not files:
        raise RuleError(
            "No rules found", where=str(folder), remedy="Nothing is published without rules: run 'vitalake init'."
        )
    rules: list[Rule] = []
    lists: dict[str, frozenset[str]] = {}
    for path in files:
        own, listed = _read(path)
        rules += own
        for name, texts in listed.items():
            if name in lists:
                raise RuleError("Two files have one list", where=f"{path.name} list {name}", remedy="Join them.")
            lists[name] = frozenset(texts)
    seen: set[str] = set()
    for rule in rules:
        if rule.id in seen:
            raise RuleError("Two rules have one id", where=rule.id, remedy="Rename one of them.")
        seen.add(rule.id)
    content = [msgspec.structs.asdict(rule) | {"then": rule.then.canonical()} for rule in rules]
    digest = hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()
    return Policy(tuple(rules), digest[:12], MappingProxyType(lists))


def read_then(document: Mapping[str, Any]) -> Then:
    """Return the action that a rule declares: the options of a mask stand beside its name.

    Raises:
        RuleError: it names no mask that is installed, or the options do not fit it; ``where`` is the way to what is
            wrong, within the action.
        SettingsError: a mask that is registered cannot be loaded.
    """
    options = {name: value for name, value in document.items() if name not in ("mask", "filter")}
    mask = document.get("mask")
    if (mask is None) == (document.get("filter") is None):
        raise RuleError("Rule needs a mask or a filter, and not both", remedy="Correct 'then'.")
    try:
        if mask is None:
            msgspec.convert(options, NoOptions)
            return Then(filter=msgspec.convert(document["filter"], Filter))
        return Then(mask, msgspec.convert(options, mask_kind(msgspec.convert(mask, str)).options))
    except msgspec.ValidationError as error:
        what = "Mask and its options do not fit" if mask is not None else "Filter does not have the form of one"
        way = str(error).partition(" - at `$")[2].strip("`.")
        raise RuleError(what, where=f"then.{way}".strip("."), remedy=_plain(str(error))) from None


def _read(path: Path) -> tuple[list[Rule], dict[str, list[str]]]:
    try:
        text = path.read_text()
        document = read_yaml(text)
    except (OSError, UnicodeDecodeError) as error:
        raise RuleError(
            f"Rule file cannot be read ({type(error).__name__})", where=path.name, remedy="Check its permissions."
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
            at = [name for name in error.where.split(".") if name]
            place = f"{path.name}:{line_of(text, ['rules', i, *at])} rule {form.id} {error.where}"
            raise RuleError(error.what, where=place.strip(), remedy=error.remedy) from None
        rules.append(rule)
    return rules, found.lists


def _unfit(path: Path, text: str, document: Any, message: str) -> RuleError:
    """Say where a file does not have the form of rules; msgspec's text names the field, never its value."""
    where, rule_id, at = message.rpartition(" - at ")[2].strip("`"), "", list[str | int]()
    if where.startswith("$.rules["):
        index = int(where[len("$.rules[") :].partition("]")[0])
        at = ["rules", index, *where.partition("].")[2].partition("[")[0].split(".")]
        rule = document["rules"][index]
        rule_id = f" rule {rule['id']}" if isinstance(rule, dict) and isinstance(rule.get("id"), str) else ""
        if isinstance(rule, dict) and "who" in rule:
            place = f"{path.name}:{line_of(text, ['rules', index, 'who'])}{rule_id}"
            return RuleError("Rules for readers (who) are not there yet", where=place, remedy="Remove 'who'.")
    return RuleError(
        "Rule does not have the form of one",
        where=f"{path.name}:{line_of(text, at)}{rule_id} {where}".strip(),
        remedy=f"{_plain(message)} See docs/reference/rules.md.",
    )


def _plain(message: str) -> str:
    """Return the part of msgspec's text that names fields and types; an enum's message would quote the value."""
    head = message.rpartition(" - at ")[0] or message
    return "The value is none of the allowed ones." if head.startswith("Invalid enum value") else f"{head}."


def _check(rule: Rule) -> None:
    if rule.then.mask is not None and rule.what == What():
        raise RuleError("Rule speaks of nothing", where="what", remedy="Give 'what' a dataset, column or class.")
    if rule.then.filter is not None and (rule.what.column or rule.what.data_class):
        raise RuleError(
            "Filter is for whole rows", where="what", remedy="Give 'what' a dataset only; the filter names its column."
        )
