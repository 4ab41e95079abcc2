"""A package adds a mask and a notification rule, as the how-to page shows; errors name a plug-in that is broken."""

from __future__ import annotations

import hmac
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
import yaml

from governance.errors import RuleError
from governance.policy import masks
from governance.policy import rules as policy_rules
from governance.policy.masks import MaskKey, MaskKind, NoOptions, is_text, making, over_texts, registry
from governance.policy.masks.making import guarded
from governance.policy.rules import Then, load_policy
from tests.contract.masks import KEYS, MaskContract
from tests.documented import blocks, install, passed_own_tests, run_console
from tests.notified import Titles
from vitalake import plugins
from vitalake.errors import PrivacyError, SettingsError
from vitalake.notifications import Notification, Notifier, RuleKind, Seen, Tally
from vitalake.notifications import registry as rules
from vitalake.settings import Settings

PAGE = "write-a-mask.md"
ROOT = Path(__file__).parents[4]


@pytest.fixture
def ward(home: Path) -> Path:
    """A home that uses what the page's package registers; its folder is next to ``packages``."""
    rule, when = blocks(PAGE, "yaml")
    (home / "governance" / "bands.yaml").write_text(rule)
    with (home / "vitalake.yaml").open("a") as file:
        file.write(when)
    install(PAGE, home.parent / "packages")
    return home.rename(home.parent / "ward")


@pytest.mark.slow
def test_a_home_uses_a_mask_and_a_rule_of_another_package_as_the_page_shows(ward: Path) -> None:
    (console,) = blocks(PAGE, "console")
    for run in run_console(console, ward.parent, PYTHONPATH=str(ward.parent / "packages")):
        assert run.said == run.shown, run.command


@pytest.mark.slow
def test_without_the_package_the_rule_and_the_setting_are_refused_with_file_and_line(ward: Path) -> None:
    (run, *_) = run_console("$ vitalake policy check --home ward; echo $?\n", ward.parent)
    assert run.said.startswith("Error: Rule names a mask that is not installed: bands.yaml:5 rule band-ages then.mask.")
    assert run.said.endswith("\n12\n")
    (run, *_) = run_console("$ vitalake doctor --home ward | grep 'notifications of'\n", ward.parent)
    assert "FAIL" in run.said and "(vitalake.yaml:" in run.said and "(notify_when.quiet)" in run.said


@pytest.mark.slow
def test_the_package_s_own_tests_run_through_the_contracts(ward: Path) -> None:
    packages = ward.parent / "packages"
    assert passed_own_tests(packages, "test_hospital_masks.py") == 18


@pytest.mark.slow
@pytest.mark.parametrize(
    ("group", "command"),
    [
        ("masks", "policy check --home ward"),
        ("stores", "patient hold 4711 --reason lawsuit --home ward"),
        ("commands", "--help"),
        ("notifications", "stream --home ward"),
    ],
)
def test_one_that_cannot_be_imported_is_named_and_nothing_is_done(ward: Path, group: str, command: str) -> None:
    packages = ward.parent / "packages"
    for path in packages.glob("*.dist-info/entry_points.txt"):
        path.write_text(f"[vitalake.{group}]\nmine = no_such_package:MINE\n")
    (run,) = run_console(f"$ vitalake {command}; echo $?\n", ward.parent, PYTHONPATH=str(packages))
    named = f"entry point vitalake.{group}: mine = no_such_package:MINE, of hospital-masks 1.0"
    assert f"Error: Plug-in cannot be loaded (ModuleNotFoundError): {named}." in run.said
    assert "Traceback" not in run.said and run.said.endswith("\n10\n")


def _kind(**changes: Any) -> MaskKind:
    told: dict[str, Any] = {
        "name": "band", "description": "x", "rank": 25, "options": NoOptions,
        "make": lambda _options, _key: lambda column: column,
        "accepts": lambda _kind: True, "classes": frozenset({"age"}),
    }  # fmt: skip
    return MaskKind(**told | changes)


class Loose(msgspec.Struct):
    """Options that allow unknown fields."""


_UNCACHED = registry.mask_kinds.__wrapped__

BAD = _kind()
"""The object that the entry points of these tests load."""


def _register(monkeypatch: pytest.MonkeyPatch, kind: Any, *names: str) -> None:
    ours = list(entry_points(group=registry.GROUP))
    more = [EntryPoint(name, f"{__name__}:BAD", registry.GROUP) for name in names or ("band",)]
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: [*ours, *more])
    monkeypatch.setattr(f"{__name__}.BAD", kind)
    monkeypatch.setattr(registry, "mask_kinds", _UNCACHED)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("no mask", "is not a MaskKind"),
        (_kind(name="other"), "another name than its entry point"),
        (_kind(options=Loose), "not a frozen msgspec struct"),
        (_kind(rank=60), "a rank outside"),
        (_kind(rank=0), "a rank outside"),
        (_kind(rank=20), "rank that another mask has"),
        (_kind(classes=None), "the classes that rows are found by"),
        *(
            (_kind(classes=frozenset({"age", f"{whose}-identifier"})), "the classes that rows are found by")
            for whose in ("patient", "encounter", "device")
        ),
    ],
)
def test_a_mask_that_is_none_is_refused_and_named(monkeypatch: pytest.MonkeyPatch, kind: Any, said: str) -> None:
    _register(monkeypatch, kind)
    with pytest.raises(SettingsError, match=rf"Plug-in .*{said}.*entry point vitalake\.masks: band = "):
        registry.mask_kinds()


@pytest.mark.parametrize("rank", [1, 59])
def test_a_mask_stands_between_keep_and_drop(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    _register(monkeypatch, _kind(rank=rank))
    assert [name for name in registry.mask_kinds() if name in ("keep", "band", "drop")] == ["keep", "band", "drop"]


def test_two_of_one_name_and_one_of_ours_are_refused(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    _register(monkeypatch, _kind(), "band", "band")
    with pytest.raises(SettingsError, match=r"under one name: entry point vitalake\.masks: band"):
        load_policy(home / "governance")
    _register(monkeypatch, _kind(name="drop"), "drop")
    with pytest.raises(SettingsError, match="under one name"):
        load_policy(home / "governance")
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: [])
    with pytest.raises(PrivacyError, match="A mask is not registered"):
        load_policy(home / "governance")


def _fails(_column: pa.Array) -> pa.Array:
    raise ValueError("Zzmarker")


@pytest.mark.parametrize(
    "mask", [_fails, lambda column: column[:1], lambda column: column.cast(pa.float64()), lambda _column: None]
)
def test_a_mask_that_fails_publishes_nothing_and_names_no_value(mask: masks.Mask) -> None:
    with pytest.raises(RuleError, match="mask band") as refused:
        guarded(_kind(), mask, data_class="age")(pa.array([4711, 2]))
    assert "Zzmarker" not in str(refused.value) and refused.value.__cause__ is None
    assert guarded(_kind(), _fails, data_class="measurement")(pa.array([4711])).null_count == 1, "not for this class"


def _token(key: MaskKey) -> masks.Mask:
    def digest(text: str) -> str:
        return hmac.digest(key.secret, text.encode(), "sha256").hex()[:16]

    def token(text: str) -> str:
        if text == f"g{text[1:17]}{digest(text[1:17])}":
            return text
        tag = digest(text)
        return f"g{tag}{digest(tag)}"

    return over_texts(token)


class TestKeyed(MaskContract):
    """A keyed mask of text goes through the contract, too."""

    kind = _kind(make=lambda _options, key: _token(key), accepts=is_text, keyed=True)
    options = ({},)


def test_a_mask_over_texts_never_sees_a_null_and_keeps_the_columns_type() -> None:
    plain, indices = pa.array(["a", None, "b"]), pa.array([0, 1, 2, None], pa.int8())
    for column in (plain, pa.DictionaryArray.from_arrays(indices, plain)):
        masked = over_texts(str.upper)(column)
        assert masked.type == column.type
        assert masked.to_pylist() == ["A", None, "B", None][: len(column)]


def test_a_dictionary_is_text_if_its_values_are() -> None:
    assert is_text(pa.dictionary(pa.int32(), pa.string()))
    assert not is_text(pa.dictionary(pa.int32(), pa.int64()))


def test_a_mask_that_cannot_be_made_of_its_options_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(_options: Any, _key: MaskKey) -> masks.Mask:
        raise ValueError("Zzmarker")

    monkeypatch.setattr(making, "mask_kind", lambda _name: _kind(make=make))
    with pytest.raises(RuleError, match=r"Mask failed \(ValueError\): mask band") as refused:
        making.make_mask(Then("band", NoOptions()), keys=KEYS, domain="age")
    assert "Zzmarker" not in str(refused.value)


def test_a_raised_revision_is_another_version_of_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    said = []
    for revision in (1, 2):
        monkeypatch.setattr(policy_rules, "mask_kind", lambda _name, r=revision: _kind(revision=r))
        said.append(Then("band", NoOptions()).canonical())
    assert said[0] != said[1] and "revision" not in said[0]


def test_rules_of_the_release_before_have_the_version_that_models_were_trained_under(home: Path) -> None:
    path = home / "governance" / "limited-data-set.yaml"
    document = yaml.safe_load(path.read_text())
    added = {"keep-medication-codes", "keep-procedure-codes", "keep-what-documents-are"}
    document["rules"] = [rule for rule in document["rules"] if rule["id"] not in added]
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    assert load_policy(home / "governance").version == "32d9a5154d8b"


def test_a_notification_rule_that_fails_is_not_asked_again_and_the_others_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken:
        asked = 0

        def observe(self, seen: Seen) -> Notification | None:
            Broken.asked += 1
            raise ValueError("Zzmarker")

    kinds = dict(rules.rule_kinds())
    kinds["broken"] = RuleKind(name="broken", description="x", options=NoOptions, make=lambda _job, _options: Broken())
    monkeypatch.setattr(rules, "rule_kinds", lambda: kinds)
    told = Titles()
    watch = Notifier(Settings(notify_when={"broken": {}}), "vitals", told)
    for now in (0.0, 20.0):
        watch.observe(Seen(True, ["Disk is full"], Tally(), now))
    assert (Broken.asked, told) == (1, ["vitalake: vitals waits"])
