"""A reason that is kept for ever must not name a patient by name, date of birth or address."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from governance.belonging import open_vault
from governance.erasure.reasons import named_by, refuse_naming, refuse_others
from governance.home import init_home
from governance.keyservice import KeyRevoked
from governance.samples import copy_samples
from governance.vault import Identity, Vault
from vitalake.cli.app import main
from vitalake.errors import InputError
from vitalake.keys import load_keys
from vitalake.settings import load_settings

WHO = Identity("HOSP|4711", "Quartermaine, Zébulon O", "ZZMRN-1", "1958-03-09", "12 Larkspur Road, 04109 Leipzig")
SHORT = Identity("9", "Wu, Li", None, None, None)
MANY = [Identity(f"z-{i}", f"{family}, {given}") for i, (family, given) in
        enumerate([("Long", "Will"), ("Clock", "Zoe"), ("Wrong", "Unit"), ("Patient", "Test"), ("Ward", "Long"),
                      ("Unknown", "Male"), ("Girl", "Baby"), ("Berg", "Anna Maria van der"), ("Junge", "Anna"),
                      ("Page", "May"), ("Herr", "Olga"), ("Lamb", "Baby Girl")])]  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("Zebulon Quartermaine asked", "name"),
        ("letter of ZÉBULON", "name"),
        ("asked by Mr quartermaine.", "name"),
        ("the patient of Larkspur Road", "address"),
        ("request from 04109", "address"),
        ("LEIPZIG", "address"),
        ("born 09.03.1958", "date of birth"),
        ("born 9/3/58, 1958-03-09", "date of birth"),
        ("3/9/1958", "date of birth"),
        ("19580309", "date of birth"),
        ("9 March 1958", "date of birth"),
        ("9. März 1958", "date of birth"),
        ("March 9th, 1958", "date of birth"),
        ("of 4711", "id or a number"),
        ("ZZMRN-1 asks", "id or a number"),
    ],
)
def test_what_names_the_patient_is_refused_and_not_repeated(reason: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        refuse_naming(reason, [WHO.source_id, WHO.mrn or ""], [WHO])
    assert said in str(refused.value)
    for word in ("bulon", "uartermaine", "arkspur", "04109", "eipzig", "1958", "4711", "ZZMRN"):
        assert word not in str(refused.value)


@pytest.mark.parametrize(
    "reason", ["request 2026-17", "court order 5 of 2026-03-09", "the road to erasure, 12 letters", "moved to ward 4"]
)
def test_what_names_nobody_is_taken(reason: str) -> None:
    refuse_naming(reason, [WHO.source_id, WHO.mrn or ""], [WHO, SHORT])


def test_short_words_are_a_name_where_they_stand_together() -> None:
    with pytest.raises(InputError, match="name"):
        refuse_naming("Li Wu asked", [], [SHORT])
    refuse_naming("wu of li", [], [SHORT])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Miller, Art", "Request under art. 17 of 3 May"),
        ("Miller, Art", "of May 3, art 17a"),
        ("Unknown, Frau", "asked for by Frau Junge, unknown until now"),
        ("Baby Boy 2", "the boy of bed 2, a baby"),
        ("Patient, Test", "patient of the test of 2026"),
        ("Unknown, Male", "asked by a male"),
        ("Junge", "the Junge of bed 2"),
    ],
)
def test_numbers_of_articles_and_placeholders_name_nobody(name: str, reason: str) -> None:
    refuse_naming(reason, [], [Identity("9", name, None, None, None)])


@pytest.mark.parametrize("reason", ["Art May asked under art. 17", "Mrs May asked", "letter of art", "May, Art"])
def test_the_same_words_alone_are_a_name(reason: str) -> None:
    with pytest.raises(InputError, match="name"):
        refuse_naming(reason, [], [Identity("9", "May, Art", None, None, None)])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Junge, Anna", "asked for by Mrs Junge"),
        ("Kind, Eva", "letter of Frau Kind"),
        ("Kind, E.", "letter of Frau Kind"),
        ("Child, Tom", "Child, 12"),
        ("Boy, Lee", "Mr Boy asked"),
        ("Twin, Ann", "for Twin"),
        ("May, Tom", "Mr May 12"),
        ("May, Tom", "of 3 May"),
        ("Page, Tom", "Mr Page 12"),
        ("Rule, Tom", "no 3, rule"),
        ("Junge, Anna", "Anna Junge"),
        ("Herr, Anna", "asked by Anna Herr"),
        ("Van, Li", "van li"),
        ("Frau Junge", "letter of Junge"),
        ("Miss Child", "for child"),
        ("Junge", "asked for by Frau Junge"),
        ("Kind", "Mr Kind asked"),
    ],
)
def test_names_that_are_words_of_something_else_are_names(name: str, reason: str) -> None:
    with pytest.raises(InputError, match="name"):
        refuse_naming(reason, [], [Identity("9", name, None, None, None)])


@pytest.fixture
def home(tmp_path: Path) -> Path:
    init_home(tmp_path / "home", copy_samples)
    return tmp_path / "home"


@pytest.fixture
def vault(home: Path) -> Vault:
    settings = load_settings(home)
    vault = open_vault(settings, load_keys(settings.path(settings.keys)))
    vault.put([(f"v1.{i}", 1, who) for i, who in enumerate([WHO, SHORT, *MANY])])
    vault.enrol([("HOSP|55512345", "v1.only-an-id")])
    return vault


@pytest.mark.parametrize(
    "reason",
    ["Quartermaine and Zebulon", "for Li Wu", "old, of HOSP|4711 ZZMRN-1", "zebulon o. quartermaine", "long, ward",
     "Maria van der Berg", "Anna M. Berg", "Anna Junge complained", "drift found by Junge, Anna", "May Page",
     "asked by Olga Herr", "of Baby Lamb", "HOSP|4711 complained", "(of HOSP|4711).", "zzmrn-1 asked", "of zzMrn-1",
     "of patient 55512345", "hosp|55512345"],
)  # fmt: skip
def test_a_reason_of_no_patient_names_none_of_all(vault: Vault, reason: str) -> None:
    found = named_by(reason, vault)
    assert found is not None
    what, patients = found
    assert what.endswith("of a patient")
    assert len(patients) == 1


@pytest.mark.parametrize("reason", ["duplicate of HOSP|55512345", "duplicate of record zzmrn-1", "Anna Junge asked"])
def test_a_reason_about_one_patient_names_no_other(home: Path, vault: Vault, reason: str) -> None:
    """The reason is kept in a certificate or a hold, which an erasure of the other patient does not reach."""
    with pytest.raises(InputError, match="of a patient: --reason"):
        refuse_others(reason, vault)
    refuse_others("request 17", vault)
    vault.enrol([("held-1", "v1.held")])
    vault.close()
    assert main(["patient", "hold", "held-1", "--reason", reason, "--home", str(home)]) == 11
    assert main(["patient", "hold", "held-1", "--reason", "request 17", "--home", str(home)]) == 0


def test_a_hold_until_a_day_holds_all_of_that_day(home: Path, vault: Vault, capsys: pytest.CaptureFixture[str]) -> None:
    """It ended as its last day began."""
    vault.close()
    command = ["patient", "hold", "HOSP|4711", "--reason", "request 17", "--until", "2099-12-31", "--home", str(home)]
    assert main(command) == 0
    assert "until 2099-12-31" in capsys.readouterr().out
    settings = load_settings(home)
    opened = open_vault(settings, load_keys(settings.path(settings.keys)))
    (hold,) = opened.holds(opened.subject_of("HOSP|4711"))
    opened.close()
    assert hold.until is not None
    assert f"{hold.until:%Y-%m-%d %H:%M}" == "2099-12-31 23:59"
    assert main(["patient", "erase", "HOSP|4711", "--reason", "request 17", "--yes", "--home", str(home)]) != 0
    assert "until 2099-12-31" in capsys.readouterr().err


def test_two_holds_of_a_patient_are_told_and_released_one_by_one(
    home: Path, vault: Vault, capsys: pytest.CaptureFixture[str]
) -> None:
    vault.close()

    def run(*arguments: str) -> tuple[int, str]:
        code = main(["patient", arguments[0], "HOSP|4711", *arguments[1:], "--home", str(home)])
        out, errors = capsys.readouterr()
        return code, out + errors

    assert run("hold", "--reason", "case 100") == (
        0, "Legal hold set until it is released.\nThe patient is on legal hold until it is released (case 100).\n"
    )  # fmt: skip
    code, said = run("hold", "--reason", "case 200", "--until", "2099-12-31")
    assert (code, said.splitlines()[1:]) == (
        0,
        [
            "The patient is on legal hold until it is released (case 100).",
            "The patient is on legal hold until 2099-12-31 (case 200).",
        ],
    )
    code, said = run("hold", "--reason", "case 200", "--until", "2098-12-31")
    assert "Legal hold set until 2098-12-31, instead of until 2099-12-31." in said
    code, said = run("release")
    assert code == 11
    assert "until it is released (case 100), until 2098-12-31 (case 200)" in " ".join(said.split())
    code, said = run("release", "--reason", "case 100")
    assert (code, said) == (
        0, "Legal hold released.\nThe patient is on legal hold until 2098-12-31 (case 200).\n"
    )  # fmt: skip
    code, said = run("erase", "--reason", "request 17", "--yes")
    assert code == 12
    assert "until 2098-12-31 (case 200)" in " ".join(said.split())
    assert run("release") == (0, "Legal hold released.\n")


def test_one_damaged_certificate_hides_no_other_and_keeps_no_erasure_from_being_applied(
    home: Path, vault: Vault, capsys: pytest.CaptureFixture[str]
) -> None:
    """The list and 'reapply' ended at it, and did not say which file it was."""
    vault.close()
    for patient in ("HOSP|4711", "HOSP|55512345"):
        assert main(["patient", "erase", patient, "--reason", "request 17", "--yes", "--home", str(home)]) == 0
    folder = home / "certificates"
    damaged, whole = sorted(folder.glob("erasure-*.json"))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    capsys.readouterr()
    assert main(["patient", "certificate", "--home", str(home)]) == 11
    out, err = capsys.readouterr()
    assert whole.stem in out
    assert f"certificates/{damaged.name}" in err
    assert main(["patient", "reapply", "--home", str(home)]) == 12
    out, err = capsys.readouterr()
    assert "1 erasure is in force" in out
    assert damaged.stem in err, "as one whose certificate is missing"


def test_the_erased_are_named_behind_the_systems_of_others(vault: Vault) -> None:
    vault.erase(vault.subject_of("HOSP|55512345"), "certificate")
    assert named_by("of patient 55512345", vault) == ("an id or a number of a patient", frozenset())
    assert named_by("of patient 55512346", vault) is None


def test_all_who_are_named_by_an_id_or_a_name_are_found(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = "ZZMRN-1 and Anna Junge, Li Wu"
    tokens = vault.tokens()
    wanted = {tokens[vault.subject_of(name)] for name in ("HOSP|4711", "9")}
    found = named_by(reason, vault)
    assert found is not None
    assert found[1] > wanted
    assert len(found[1]) == 3

    def locked() -> None:
        raise KeyRevoked("Keys are revoked", where="vault", remedy="None.")

    monkeypatch.setattr(vault, "identities", locked)
    found = named_by(reason, vault)
    assert found == ("an id or a number of a patient", frozenset([tokens[vault.subject_of("HOSP|4711")]])), (
        "all the same"
    )


@pytest.mark.parametrize(
    "reason",
    ["the clock was wrong for a long while in May", "test of the new patient feed", "test patient", "long",
     "too long on the ward", "on the ward for long", "unknown male dummy", "baby girl cot monitor"],
)  # fmt: skip
def test_words_of_names_that_do_not_stand_together_or_stand_for_none_are_ordinary(vault: Vault, reason: str) -> None:
    assert named_by(reason, vault) is None


def test_withdrawing_a_score_names_nobody_and_does_not_wait_for_keys(
    home: Path, vault: Vault, capsys: pytest.CaptureFixture[str]
) -> None:
    vault.close()
    command = ["models", "withdraw", "mortality", "--unit", "icu", "--home", str(home), "--reason"]
    assert main([*command, "Zebulon Quartermaine complained"]) == 11
    assert "Zebulon" not in capsys.readouterr().err
    assert main(["audit", "begin", "--home", str(home), "--reason", "Zebulon Quartermaine"]) == 11
    capsys.readouterr()
    assert main(["audit", "list", "--home", str(home), "--json"]) == 0
    records = msgspec.json.decode(capsys.readouterr().out)["records"]
    assert [record["patients"] for record in records if record["action"] == "denied"] == [1, 1]
    refused = [record["detail"]["permission"] for record in records if record["action"] == "denied"]
    assert sorted(refused) == ["audit.begin", "models.withdraw"], "each refusal says that somebody is a patient"
    assert main([*command, "drifting"]) == 0
    assert main(["keys", "revoke", "--home", str(home)]) == 0
    assert main([*command, "drifting again"]) == 0


def test_beginning_an_audit_names_nobody_though_there_is_none_to_record_it(
    home: Path, vault: Vault, capsys: pytest.CaptureFixture[str]
) -> None:
    vault.close()
    settings = load_settings(home)
    assert main(["audit", "list", "--home", str(home)]) == 0
    shutil.rmtree(settings.path(settings.audit))
    command = ["audit", "begin", "--home", str(home), "--reason"]
    assert main([*command, "Zebulon Quartermaine"]) == 11
    assert "Zebulon" not in capsys.readouterr().err
    assert main([*command, "incident 7"]) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("hold", "--reason", "Zebulon"),
        ("hold", "--reason", "case 17", "--until", "2020-01-01"),
        ("release", "--reason", "case 17"),
    ],
)
def test_that_a_hold_or_its_release_is_refused_is_on_record(
    home: Path, vault: Vault, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    vault.close()
    assert main(["patient", arguments[0], "HOSP|4711", *arguments[1:], "--home", str(home)]) == 11
    assert "Zebulon" not in capsys.readouterr().err
    assert main(["audit", "list", "--home", str(home), "--json"]) == 0
    (record,) = [
        record
        for record in msgspec.json.decode(capsys.readouterr().out)["records"]
        if record["action"] == "patient.hold"
    ]
    assert (record["detail"]["outcome"], record["patients"]) == ("refused", 1)
