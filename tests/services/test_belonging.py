"""A home that is not the lake's own, or was put back to an earlier day: refused by every writer, or erased in again."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from governance.belonging import admit, examine_belonging, open_vault
from governance.belonging.erasures import ErasureCopies
from governance.belonging.fingerprints import FILE
from governance.home import init_home
from governance.samples import copy_samples
from pipelines.erasure.request import Eraser
from pipelines.live.preflight import preflight
from pipelines.online_store.opening import open_online_store
from tests import frozen
from tests.fhir import message
from tests.services.polls import LaneWithoutKafka
from tests.services.test_erasure_flow import _on_the_board, _published, _token
from vitalake import clock
from vitalake.cli.app import main
from vitalake.errors import LakeError, PrivacyError
from vitalake.keys import add_version, load_keys
from vitalake.lake.commits.lake import Lake
from vitalake.settings import Settings, load_settings

WHO, OTHER = "p-72", "p-8"
ASSOCIATE = ["devices", "associate", "--device", "p-1", "--patient", WHO, "--from", "2026-03-01T00:00:00Z"]


def _send(home: Path, topic_id: str, batch: list[bytes]) -> None:
    lane = LaneWithoutKafka(home, topic_id=topic_id)
    lane.send([(0, each) for each in batch], cut=True, broker_ms=clock.now_us() // 1000)
    lane.rows()
    lane.lane.steps.close()


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose lake, beside it, has two patients' values."""
    base = tmp_path_factory.mktemp("belonging")
    init_home(base / "home", copy_samples)
    (base / "home/vitalake.yaml").write_text("lake: {uri: ../lake}\njobs: {vitals: {}}\n")
    at = [f"{clock.now() - timedelta(minutes=i):%Y-%m-%dT%H:%M:%SZ}" for i in range(10)]
    held = [message(i, patient=WHO if i % 2 else OTHER, effectiveDateTime=at[i]) for i in range(10)]
    _send(base / "home", "u", [*held, b"{"])
    assert _on_the_board(base / "home", WHO) == 5
    admit(load_settings(base / "home"))
    return base


@pytest.fixture
def base(filled: Path, tmp_path: Path) -> Path:
    """A copy of both."""
    return Path(shutil.copytree(filled, tmp_path / "base"))


def _settings(base: Path, home: str = "home") -> Settings:
    return load_settings(base / home)


def _erase(base: Path, patient: str) -> str:
    settings = _settings(base)
    keys = load_keys(settings.path(settings.keys))
    with closing(open_vault(settings, keys)) as vault:
        return Eraser(settings, keys, vault).erase(patient, reason="request 17", actor="officer").id


def _bytes(base: Path) -> dict[str, bytes]:
    """Return every byte of the lake."""
    return {str(path): path.read_bytes() for path in sorted((base / "lake").rglob("*")) if path.is_file()}


# -- other keys, another vault, none


def test_the_lake_keeps_fingerprints_and_no_key(base: Path) -> None:
    content = (base / "lake" / FILE).read_text()
    document = yaml.safe_load((base / "home/keys.yaml").read_text())
    assert set(msgspec.json.decode(content)["keys"]) >= {"pseudonym", "observation", "vault"}
    for entry in document["keys"].values():
        assert not any(secret in content for secret in entry["versions"].values())
    settings = _settings(base)
    found = examine_belonging(settings, load_keys(settings.path(settings.keys)))
    assert (found.known, found.problems) == (True, [])


def _other_keys(base: Path) -> None:
    shutil.rmtree(base / "home")
    init_home(base / "home", copy_samples)
    (base / "home/vitalake.yaml").write_text("lake: {uri: ../lake}\njobs: {vitals: {}}\n")


def _no_vault(base: Path) -> None:
    for path in (base / "home").glob("vault.db*"):
        path.unlink()


def _another_vault(base: Path) -> None:
    _no_vault(base)
    settings = Settings(home=base / "home", lake={"uri": "nowhere"})
    open_vault(settings, load_keys(settings.path(settings.keys))).close()


def _another_observation_key(base: Path) -> None:
    path = base / "home/keys.yaml"
    document = yaml.safe_load(path.read_text())
    versions = document["keys"]["observation"]["versions"]
    versions["v1"] = "A" * 43 + "="
    path.write_text(yaml.safe_dump(document))


CASES = [
    (_other_keys, "other keys than this home's"),
    (_no_vault, "The vault is gone"),
    (_another_vault, "sealed by another vault than this home's"),
    (_another_observation_key, "other keys than this home's: observation/v1"),
]


@pytest.mark.parametrize(("spoil", "said"), CASES)
def test_every_writer_refuses_a_home_that_is_not_the_lakes(
    base: Path, spoil: Callable[[Path], None], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor does one write a byte into the lake before it refuses."""
    spoil(base)
    home, before = ["--home", str(base / "home")], _bytes(base)
    writers = [
        ["lake", "compact"],
        ["lake", "rewrite", "--rekey"],
        ["lake", "rewrite", "--republish", "observation"],
        ["lake", "rewrite", "--bucket", "4"],
        ["lake", "rewrite", "--retention"],
        ["lake", "repair"],
        ["lake", "rebuild", "published"],
        ["lake", "rebuild", "care"],
        ["lake", "schema", "--apply"],
        ["lake", "rebuild", "care"],
        ["lake", "rewrite", "--retire-key", "v1"],
        ["lake", "rewrite", "--give-up", "observation"],
        ["lake", "upgrade"],
        ["dead-letters", "discard", "--all", "--reason-text", "old"],
        ["dead-letters", "replay"],
        ["dead-letters", "replay", "--dry-run"],
        ["devices", "attribute"],
        ASSOCIATE,
        ["history", "load", "mimic-demo"],
        ["patient", "erase", WHO, "--yes", "--reason", "r"],
        ["patient", "reapply"],
        ["patient", "hold", WHO, "--reason", "r"],
        ["patient", "release", WHO],
        ["keys", "init"],
        ["keys", "rotate"],
    ]
    for writer in writers:
        assert main([*writer, *home]) == 12, writer
        assert said in capsys.readouterr().err, writer
    with pytest.raises(PrivacyError, match=said):
        preflight(_settings(base), "vitals")
    with pytest.raises(PrivacyError, match=said):
        _send(base / "home", "u", [message(50, patient=WHO)])
    for reader in (["audit", "list"], ["dead-letters", "list"], ["ledger"], ["sql", "SELECT 1 AS one"]):
        main([*reader, *home])
    assert _bytes(base) == before
    if spoil is _no_vault:
        assert not list((base / "home").glob("vault.db*"))  # no other one was made in its place


def test_nothing_identified_is_opened_or_written_once_keys_are_revoked(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dead letter's own key is in the key file; it is the patients' keys that say whether it may be opened."""
    home = ["--home", str(base / "home")]
    (base / "home/vitalake.yaml").write_text("lake: {uri: ../lake}\njobs: {vitals: {topics: {t: fhir}}}\n")
    assert main(["dead-letters", "replay", "--dry-run", *home]) == 0
    assert "1 rejected again" in capsys.readouterr().out
    assert main(["keys", "revoke", *home]) == 0
    before = _bytes(base)
    for command in (
        ["dead-letters", "replay"],
        ["dead-letters", "replay", "--dry-run"],
        ["devices", "attribute"],
        ASSOCIATE,
        ["lake", "rewrite", "--rekey"],
        ["lake", "rewrite", "--republish", "observation"],
        ["lake", "rebuild", "care"],
        ["patient", "erase", WHO, "--yes", "--reason", "r"],
        ["patient", "reapply"],
        ["patient", "hold", WHO, "--reason", "r"],
    ):
        assert main([*command, *home]) == 12, command
    assert _bytes(base) == before


@pytest.mark.parametrize(("spoil", "said"), CASES)
def test_doctor_keys_status_and_verify_show_it(
    base: Path, spoil: Callable[[Path], None], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(base)
    (base / "home/vitalake.yaml").write_text("lake: {uri: ../lake}\njobs: {}\n")
    home = ["--home", str(base / "home"), "--json"]
    said = said.partition(":")[0]
    main(["doctor", *home])
    checks = {check["name"]: check for check in msgspec.json.decode(capsys.readouterr().out)["checks"]}
    assert (checks["lake's home"]["result"], checks["lake's home"]["exit_code"]) == ("fail", 12)
    assert main(["keys", "status", *home]) == 12
    assert said in msgspec.json.decode(capsys.readouterr().out)["lake"]["errors"][0]
    (base / "home/vitalake.yaml").write_text("lake: {uri: ../lake}\njobs: {vitals: {}}\n")
    assert main(["lake", "verify", *home]) == 13
    found = msgspec.json.decode(capsys.readouterr().out)["findings"]
    assert [said in finding["detail"] for finding in found if finding["kind"] == "another-home"] == [True]


def test_a_new_version_of_the_pseudonym_key_is_the_same_homes_and_an_older_key_file_is_not(base: Path) -> None:
    kept = (base / "home/keys.yaml").read_text()
    add_version(base / "home/keys.yaml", "pseudonym", "v2")
    admit(_settings(base))
    (base / "home/keys.yaml").write_text(kept)
    with pytest.raises(PrivacyError, match="pseudonym/v2"):
        admit(_settings(base))


def test_the_right_home_of_a_lake_without_fingerprints_shows_that_it_is_and_another_does_not(base: Path) -> None:
    (base / "lake" / FILE).unlink()
    admit(_settings(base))
    assert (base / "lake" / FILE).exists()
    for spoil, said in ((_no_vault, "The vault is gone"), (_other_keys, "not made with this home's keys")):
        (base / "lake" / FILE).unlink(missing_ok=True)
        spoil(base)
        with pytest.raises(PrivacyError, match=said):
            admit(_settings(base))
        assert not (base / "lake" / FILE).exists()
    assert not (base / "home/vault.db").exists(), "and no new one takes its place in silence"


def test_the_frozen_home_is_taken_for_its_lakes_by_the_upgrade_and_another_is_not(tmp_path: Path) -> None:
    home = frozen.unpack(tmp_path / "frozen")
    shutil.copytree(home, tmp_path / "other")
    with pytest.raises(LakeError, match="has format 0"):
        admit(load_settings(home))
    admit(load_settings(home), any_format=True)
    assert not (home / "lake" / FILE).exists()  # nothing is written into a lake of another format
    assert main(["lake", "upgrade", "--home", str(home)]) == 0
    stone = msgspec.json.decode((home / "lake/erasures.jsonl").read_bytes().splitlines()[0])
    assert (home / "lake/erasures" / f"{stone['certificate']}.json").exists()
    for path in home.glob("vault.db*"):
        path.unlink()
    with pytest.raises(PrivacyError, match="The vault is gone"):
        admit(load_settings(home))
    for path in (tmp_path / "other").glob("vault.db*"):
        path.unlink()
    (tmp_path / "other/erasures.jsonl").unlink()
    assert main(["lake", "upgrade", "--home", str(tmp_path / "other")]) == 12


# -- put back to a day before an erasure


def test_a_home_that_was_put_back_learns_of_the_erasure_from_the_lake(base: Path) -> None:
    shutil.copytree(base / "home", base / "earlier")
    _erase(base, WHO)
    shutil.rmtree(base / "home")
    (base / "earlier").rename(base / "home")
    settings = _settings(base)
    keys = load_keys(settings.path(settings.keys))
    assert not (base / "home/certificates").exists()
    with closing(open_vault(settings, keys)) as vault:
        assert vault.tombstone(vault.subject_of(WHO)) is not None
        assert vault.look_up(_token(base / "home", WHO)) is None
    assert _on_the_board(base / "home", WHO) == 0
    assert _on_the_board(base / "home", OTHER) == 5
    content = b"".join(path.read_bytes() for path in (base / "home").glob("care.db*"))
    assert _token(base / "home", WHO).encode() not in content


def test_a_lake_that_was_put_back_is_not_written_before_it_is_erased_in_again(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _erase(base, OTHER)  # so that the older lake has a copy of the log
    shutil.copytree(base / "lake", base / "earlier")
    certificate = _erase(base, WHO)
    shutil.rmtree(base / "lake")
    (base / "earlier").rename(base / "lake")
    assert _published(base / "home", WHO) == 5
    with pytest.raises(PrivacyError, match="older than 1 erasures") as caught:
        admit(_settings(base))
    assert caught.value.where == certificate
    assert main(["patient", "reapply", "--home", str(base / "home")]) == 0
    assert "published/observation: 5 rows removed again" in capsys.readouterr().out
    admit(_settings(base))
    assert _published(base / "home", WHO) == 0


def test_a_lake_put_back_to_before_its_first_erasure_is_refused_by_all_and_shown(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = base / "lake/erasures.jsonl"
    assert copy.read_bytes() == b""  # made with the lake: one that has none was put back
    for has_copy in (True, False):  # False: by the release before, which made it at the first erasure
        shutil.copytree(base / "lake", base / "earlier")
        if not has_copy:
            (base / "earlier/erasures.jsonl").unlink()
        if has_copy:
            certificate = _erase(base, WHO)
        shutil.rmtree(base / "lake")
        (base / "earlier").rename(base / "lake")
        home = ["--home", str(base / "home")]
        for _ in range(2):  # an opening that is refused does not make the next one pass
            with pytest.raises(PrivacyError, match="older than 1 erasures") as caught:
                admit(_settings(base))
            assert caught.value.where == certificate
        capsys.readouterr()
        assert main(["sql", "SELECT count(*) FROM observation", *home]) == 12
        assert "older than 1 erasures" in capsys.readouterr().err
        main(["doctor", "--json", *home])
        checks = {check["name"]: check for check in msgspec.json.decode(capsys.readouterr().out)["checks"]}
        assert (checks["lake's home"]["result"], checks["lake's home"]["exit_code"]) == ("fail", 12)
        assert main(["lake", "verify", "--json", *home]) == 13
        found = msgspec.json.decode(capsys.readouterr().out)["findings"]
        assert [finding["where"] for finding in found if finding["kind"] == "put-back"] == [certificate]
        assert main(["patient", "reapply", *home]) == 0
        assert _published(base / "home", WHO) == 0
        admit(_settings(base))
        assert main(["sql", "SELECT count(*) FROM observation", *home]) == 0


def test_a_home_that_was_put_back_is_named_before_its_vault_is_opened(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """'keys status' and 'lake verify' said that all was well with a vault that had the erased patient's key."""
    shutil.copytree(base / "home", base / "earlier")
    certificate = _erase(base, WHO)
    shutil.rmtree(base / "home")
    (base / "earlier").rename(base / "home")
    home = ["--home", str(base / "home"), "--json"]
    assert main(["keys", "status", *home]) == 12
    (said,) = msgspec.json.decode(capsys.readouterr().out)["lake"]["errors"]
    assert "restored from a back-up" in said and certificate in said and "vitalake patient reapply" in said
    assert main(["lake", "verify", *home]) == 13
    (finding,) = msgspec.json.decode(capsys.readouterr().out)["findings"]
    assert (finding["kind"], finding["where"]) == ("put-back", certificate)
    assert "vitalake patient reapply" in finding["detail"]
    main(["doctor", *home])
    checks = {check["name"]: check for check in msgspec.json.decode(capsys.readouterr().out)["checks"]}
    assert (checks["lake's home"]["result"], checks["lake's home"]["exit_code"]) == ("fail", 12)
    assert main(["patient", "reapply", "--home", str(base / "home")]) == 0
    assert _on_the_board(base / "home", WHO) == 0
    for command in (["keys", "status"], ["lake", "verify"]):
        assert main([*command, *home]) == 0, command


# -- damage to what tells of erasures


def _flip(path: Path) -> None:
    """Change a digit of the first hash."""
    content = path.read_bytes()
    match = re.search(rb"[0-9a-f]{32}", content)
    assert match is not None
    at = match.start()
    path.write_bytes(content[:at] + (b"1" if content[at : at + 1] == b"0" else b"0") + content[at + 1 :])


def _garbage(path: Path) -> None:
    path.write_bytes(b"\x00\xff{" * 20)


def _lost(path: Path) -> None:
    path.unlink()


DAMAGED = [("lake/erasures.jsonl", _flip), ("lake/erasures.jsonl", _garbage), ("home/erasures.jsonl", _flip)]
DAMAGED += [("lake/erasures/{}.json", damage) for damage in (_flip, _garbage, _lost)]


@pytest.mark.parametrize(("name", "damage"), DAMAGED)
def test_what_tells_of_erasures_is_named_where_it_is_damaged_and_written_again(
    base: Path, name: str, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The marks of the erased were held against nothing, and of a flipped copy the home's log was blamed."""
    chosen = base / name.format(_erase(base, WHO))
    whole, home = chosen.read_bytes(), ["--home", str(base / "home"), "--json"]
    damage(chosen)
    said = f"{chosen.name} (lake)" if name.startswith("lake") else chosen.name
    assert main(["lake", "verify", *home]) == 13
    (finding,) = msgspec.json.decode(capsys.readouterr().out)["findings"]
    assert finding["kind"] == "erasures-damaged" and said in finding["where"]
    assert main(["keys", "status", *home]) == 12
    assert said in msgspec.json.decode(capsys.readouterr().out)["lake"]["errors"][0]
    assert main(["lake", "repair", *home]) == 0
    assert said in msgspec.json.decode(capsys.readouterr().out)["notes"][0]
    assert chosen.read_bytes() == whole
    assert main(["lake", "verify", *home]) == 0
    admit(_settings(base))


def test_a_damaged_copy_that_had_more_than_the_log_is_not_written_over(base: Path) -> None:
    """The erasure that only it knows would be forgotten, and its patient back."""
    _erase(base, OTHER)
    shutil.copytree(base / "home", base / "earlier")
    _erase(base, WHO)
    shutil.rmtree(base / "home")
    (base / "earlier").rename(base / "home")
    _flip(base / "lake/erasures.jsonl")
    damaged = (base / "lake/erasures.jsonl").read_bytes()
    assert main(["lake", "repair", "--home", str(base / "home")]) == 12
    assert (base / "lake/erasures.jsonl").read_bytes() == damaged


@pytest.mark.parametrize("damage", [_flip, _garbage])
def test_a_damaged_certificate_is_named_and_is_never_taken_for_the_truth(
    base: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    certificate = _erase(base, WHO)
    chosen, marks = base / f"home/certificates/{certificate}.json", base / f"lake/erasures/{certificate}.json"
    whole, marked = chosen.read_bytes(), marks.read_bytes()
    before, tokens, after = whole.partition(b'"tokens"')
    chosen.write_bytes(after)
    damage(chosen)
    chosen.write_bytes(before + tokens + chosen.read_bytes())
    home = ["--home", str(base / "home"), "--json"]
    assert main(["lake", "verify", *home]) == 13
    (finding,) = msgspec.json.decode(capsys.readouterr().out)["findings"]
    assert finding["where"].startswith(chosen.name)
    assert main(["lake", "repair", *home]) == 13
    assert chosen.name in msgspec.json.decode(capsys.readouterr().out)["left"][0]
    assert marks.read_bytes() == marked
    chosen.write_bytes(whole)
    assert main(["lake", "repair", *home]) == 0


@pytest.mark.parametrize("emptied", [True, False])
def test_a_home_that_was_put_back_is_refused_where_the_lakes_copy_was_emptied_or_deleted(
    base: Path, emptied: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(base / "home", base / "earlier")
    certificate = _erase(base, WHO)
    shutil.rmtree(base / "home")
    (base / "earlier").rename(base / "home")
    (base / "lake/erasures.jsonl").write_bytes(b"") if emptied else (base / "lake/erasures.jsonl").unlink()
    for _ in range(2):
        with pytest.raises(PrivacyError, match=f"from a back-up made after {certificate}"):
            admit(_settings(base))
    assert main(["patient", "reapply", "--home", str(base / "home")]) == 12
    assert main(["keys", "status", "--home", str(base / "home")]) == 12
    assert certificate in capsys.readouterr().err


@pytest.mark.parametrize("place", ["mark", "update"])
def test_a_lake_whose_first_erasure_is_under_way_was_not_put_back(
    base: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when it is marked but not logged, and when it is logged but not in the copy."""
    settings, mark = _settings(base), ErasureCopies.mark
    keys = load_keys(settings.path(settings.keys))

    def killed(copies: ErasureCopies, *given: Any, **_: Any) -> None:
        if place == "mark":
            mark(copies, *given)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, closing(open_vault(settings, keys)) as vault:
        patched.setattr(ErasureCopies, place, killed)
        with pytest.raises(KeyboardInterrupt):
            Eraser(settings, keys, vault).erase(WHO, reason="request 17", actor="officer")
    assert list((base / "lake/erasures").iterdir())
    assert examine_belonging(settings, keys).problems == []
    admit(settings)


def test_home_and_lake_put_back_together_learn_of_it_from_other_storage(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (base / "elsewhere").mkdir()
    (base / "home/vitalake.yaml").write_text("lake: {uri: ../lake}\nanchors: ../elsewhere\njobs: {vitals: {}}\n")
    _erase(base, OTHER)
    for name in ("home", "lake"):
        shutil.copytree(base / name, base / f"earlier-{name}")
    _erase(base, WHO)
    for name in ("home", "lake"):
        shutil.rmtree(base / name)
        (base / f"earlier-{name}").rename(base / name)
    assert _published(base / "home", WHO) == 5
    with pytest.raises(PrivacyError, match="older than 1 erasures"):
        admit(_settings(base))
    assert main(["patient", "reapply", "--home", str(base / "home")]) == 0  # without its certificate
    assert "5 rows removed again" in capsys.readouterr().out
    assert _published(base / "home", WHO) == 0
    assert _on_the_board(base / "home", WHO) == 0


def test_where_neither_log_nor_lake_has_it_the_answer_says_which_back_up_to_fetch(base: Path) -> None:
    certificate = _erase(base, WHO)
    for path in (base / "home/erasures.jsonl", base / "lake/erasures.jsonl"):
        path.unlink()
    with pytest.raises(PrivacyError, match="from a back-up made after") as caught:
        admit(_settings(base))
    assert certificate in str(caught.value)


def test_two_histories_of_erasures_are_refused(base: Path) -> None:
    shutil.copytree(base, base / "other")
    _erase(base / "other", OTHER)
    _erase(base, WHO)
    shutil.copy(base / "other/lake/erasures.jsonl", base / "lake/erasures.jsonl")
    with pytest.raises(PrivacyError, match="contradict each other"):
        admit(_settings(base))


def test_a_care_store_that_was_put_back_forgets_again_when_it_is_opened(base: Path) -> None:
    shutil.copy(base / "home/care.db", base / "care.db")
    _erase(base, WHO)
    for path in (base / "home").glob("care.db*"):
        path.unlink()
    shutil.copy(base / "care.db", base / "home/care.db")
    assert _on_the_board(base / "home", WHO) == 0
    settings = _settings(base)
    with closing(open_online_store(settings, load_keys(settings.path(settings.keys)))) as care:
        assert care.erasure.erasures == 1


def test_a_lake_that_is_not_there_yet_is_not_made_by_looking(tmp_path: Path) -> None:
    init_home(tmp_path / "home", copy_samples)
    admit(load_settings(tmp_path / "home"))
    assert not (tmp_path / "home/lake").exists()
    Lake(str(tmp_path / "home/lake"), {}).open_all()
    admit(load_settings(tmp_path / "home"))
    assert (tmp_path / "home/lake" / FILE).exists()
