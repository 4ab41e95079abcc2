"""Finds the masks that installed packages register as entry points of the group ``vitalake.masks``."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint
from itertools import pairwise

from governance.errors import RuleError
from governance.policy.masks.base import BY_TOKEN, MaskKind
from vitalake import plugins
from vitalake.errors import PrivacyError

GROUP = "vitalake.masks"

OURS = ("keep", "round", "cap", "generalise", "pseudonym", "redact", "drop")
"""The built-in masks, which every installation has."""


@cache
def mask_kinds() -> dict[str, MaskKind]:
    """Return every mask that is registered, by name, from the least to the most restrictive.

    Raises:
        SettingsError: a mask cannot be loaded, is not a MaskKind or has another name than its entry point; two masks
            have the same name or rank; or another package's mask is for a class that only built-in masks may mask. Then
            nothing is published.
        PrivacyError: a built-in mask is missing.
    """
    entries = plugins.registered(GROUP)
    if missing := [name for name in OURS if name not in entries]:
        raise PrivacyError(
            "A mask is not registered",
            where=f"entry points {GROUP}: {', '.join(missing)}",
            remedy="Install vitalake again ('make setup').",
        )
    found = sorted((_loaded(entry) for entry in entries.values()), key=lambda kind: kind.rank)
    for one, other in pairwise(found):
        if one.rank == other.rank:
            entry = entries[next(kind.name for kind in (other, one) if kind.name not in OURS)]
            raise plugins.unusable(entry, "has a rank that another mask has, so that neither of them would win")
    return {kind.name: kind for kind in found}


def mask_kind(name: str) -> MaskKind:
    """Return a mask by the name that a rule gives.

    Raises:
        RuleError: no installed mask has this name; the error does not show the name.
    """
    kinds = mask_kinds()
    if name not in kinds:
        raise RuleError(
            "Rule names a mask that is not installed", where="then.mask", remedy=f"The masks are: {', '.join(kinds)}."
        )
    return kinds[name]


def _loaded(entry: EntryPoint) -> MaskKind:
    kind = plugins.load(entry)
    if not isinstance(kind, MaskKind):
        raise plugins.unusable(entry, "is not a MaskKind")
    if kind.name != entry.name:
        raise plugins.unusable(entry, "has another name than its entry point")
    plugins.check_options(entry, kind.options)
    if kind.name not in OURS:
        if not 0 < kind.rank < 60:
            raise plugins.unusable(entry, "has a rank outside of 1 to 59")
        if kind.classes is None or kind.classes & BY_TOKEN:
            raise plugins.unusable(entry, "does not exclude the classes that rows are found by")
    return kind
