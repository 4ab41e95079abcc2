"""Masking rules as data: read from YAML, checked as strictly as code.

The format starts here and grows: *who* (role, purpose, relationship) and further masks come with the governance issue.
A field that is not known is refused, never ignored: a rule that is silently not applied is worse than none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

import msgspec
import yaml

from governance.errors import RuleError
from vitalake.strict_yaml import explain, read_yaml

MaskName = Literal["keep", "round", "cap", "generalise", "pseudonym", "redact", "drop"]
MASKS: tuple[MaskName, ...] = get_args(MaskName)
"""From the least to the most restrictive: of several rules for a column the later one wins."""

Unit = Literal["minute", "hour", "day", "month", "year"]


class What(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"data_class": "class"}):
    """What a rule speaks of; every part that is given must hold."""

    dataset: str | None = None
    column: str | None = None
    data_class: str | None = None


class Filter(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"values": "in"}):
    """Rows whose column holds one of these values are not published, and counted as filtered."""

    column: str
    values: list[str]


class Then(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What happens: one mask with its parameters, or one filter."""

    mask: MaskName | None = None
    unit: Unit | None = None
    digits: int | None = None
    at: int | None = None
    filter: Filter | None = None


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"given": "in", "expected": "out"}):
    """A value and what becomes of it; checked whenever the rules are read."""

    given: Any
    expected: Any


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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
    rules: list[Rule] | msgspec.UnsetType = msgspec.UNSET
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
        document = _read(path)
        rules += document.rules or []
        for name, texts in document.lists.items():
            if name in lists:
                raise RuleError("Two files have one list", where=f"{path.name} list {name}", remedy="Join them.")
            lists[name] = frozenset(texts)
    seen: set[str] = set()
    for rule in rules:
        if rule.id in seen:
            raise RuleError("Two rules have one id", where=rule.id, remedy="Rename one of them.")
        seen.add(rule.id)
    digest = hashlib.sha256(msgspec.json.encode(rules, order="sorted")).hexdigest()
    return Policy(tuple(rules), digest[:12], MappingProxyType(lists))


def _read(path: Path) -> _RuleFile:
    try:
        document = read_yaml(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise RuleError(
            f"Rule file cannot be read ({type(error).__name__})", where=path.name, remedy="Mend it."
        ) from None
    except yaml.YAMLError as error:
        why, line = explain(error)
        raise RuleError(f"Rule file {why}", where=f"{path.name}:{line}", remedy="Correct that line.") from None
    try:
        found = msgspec.convert(document, _RuleFile)
    except msgspec.ValidationError as error:
        raise _unfit(path, document, str(error)) from None
    if found.rules is msgspec.UNSET and not found.lists:
        raise RuleError("Rule file has neither rules nor lists", where=path.name, remedy="See docs/reference/rules.md.")
    for rule in found.rules or []:
        _check(rule, path.name)
    return found


def _unfit(path: Path, document: Any, message: str) -> RuleError:
    """Say where a file does not have the form of rules; msgspec's text names the field, never its value."""
    where, rule_id = message.rpartition(" - at ")[2].strip("`"), ""
    if where.startswith("$.rules["):
        index = int(where[len("$.rules[") :].partition("]")[0])
        rule = document["rules"][index]
        rule_id = f" rule {rule['id']}" if isinstance(rule, dict) and isinstance(rule.get("id"), str) else ""
        if isinstance(rule, dict) and "who" in rule:
            return RuleError(
                "Rules for readers (who) are not there yet", where=f"{path.name}{rule_id}", remedy="Remove 'who'."
            )
    return RuleError(
        "Rule does not have the form of one",
        where=f"{path.name}{rule_id} {where}".strip(),
        remedy=f"{_plain(message)} See docs/reference/rules.md.",
    )


def _plain(message: str) -> str:
    """Return the part of msgspec's text that names fields and types; an enum's message would quote the value."""
    head = message.rpartition(" - at ")[0] or message
    return "The value is none of the allowed ones." if head.startswith("Invalid enum value") else f"{head}."


def _check(rule: Rule, name: str) -> None:
    then = rule.then
    where = f"{name} rule {rule.id}"
    if (then.mask is None) == (then.filter is None):
        raise RuleError("Rule needs a mask or a filter, and not both", where=where, remedy="Mend 'then'.")
    if (then.mask == "generalise") != (then.unit is not None) or (then.mask == "round") != (then.digits is not None):
        raise RuleError(
            "Mask and parameters do not fit", where=where, remedy="'generalise' takes 'unit', 'round' takes 'digits'."
        )
    if (then.mask == "cap") != (then.at is not None):
        raise RuleError("Mask and parameters do not fit", where=where, remedy="'cap' takes 'at', no other mask does.")
    if then.at is not None and not 0 <= then.at <= 10_000:
        raise RuleError("Cap out of range", where=where, remedy="Use 0 to 10000.")
    if then.digits is not None and not 0 <= then.digits <= 12:
        raise RuleError("Digits out of range", where=where, remedy="Use 0 to 12.")
    if then.mask is not None and rule.what == What():
        raise RuleError("Rule speaks of nothing", where=where, remedy="Give 'what' a dataset, column or class.")
    if then.filter is not None and (rule.what.column or rule.what.data_class):
        raise RuleError(
            "Filter is for whole rows", where=where, remedy="Give 'what' a dataset only; the filter names its column."
        )
