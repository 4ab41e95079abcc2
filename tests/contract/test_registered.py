"""Every mask and notification rule that is registered goes through its contract."""

from __future__ import annotations

from typing import Any

from governance.policy.masks import mask_kinds
from tests.contract.masks import MaskContract
from tests.contract.notifications import RuleContract
from vitalake.notifications import rule_kinds
from vitalake.settings import AlertSettings

MASK_OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    "round": ({"digits": 0}, {"digits": 2}),
    "cap": ({"at": 90}, {"at": 0}),
    "generalise": ({"unit": "minute"}, {"unit": "day"}, {"unit": "year"}),
}
"""Of masks that need options."""

RULE_OPTIONS: dict[str, dict[str, Any]] = {"share": AlertSettings().model_dump()}

for _name, _mask in mask_kinds().items():
    _told = {"kind": _mask, "options": MASK_OPTIONS.get(_name, ({},))}
    globals()[f"TestMask{_name.title()}"] = type(f"TestMask{_name.title()}", (MaskContract,), _told)

for _name, _rule in rule_kinds().items():
    _told = {"kind": _rule, "options": RULE_OPTIONS.get(_name, {})}
    globals()[f"TestRule{_name.title()}"] = type(f"TestRule{_name.title()}", (RuleContract,), _told)


def test_the_project_s_own_are_among_them() -> None:
    assert list(mask_kinds()) == ["keep", "round", "cap", "generalise", "pseudonym", "redact", "drop"]
    assert list(rule_kinds()) == ["pause", "share"]
