"""A home and lake of an earlier release: what it read then it reads now, before, during and after its upgrade."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from governance.belonging import open_vault
from governance.policy.masks import Pseudonyms
from pipelines.core.open_letters import topic_of
from pipelines.history.load import load_history
from pipelines.republish.republish import republish, restricted_datasets
from pipelines.republish.upgrade import STEPS, upgrade
from tests import frozen
from tests.attribution import Ward
from tests.fhir import message
from tests.services.upgrade_process import KILLED, killed_at
from vitalake.cli.app import main
from vitalake.errors import LakeError
from vitalake.keys import load_keys
from vitalake.lake.commits.format import FORMAT, Format, read_format, write_format
from vitalake.lake.commits.lake import Lake
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.maintenance.verify import verify
from vitalake.lake.unlinkable.message_tokens import in_clear, says_partition
from vitalake.lake.unlinkable.record_versions import versions_in_clear
from vitalake.settings import load_settings

WANTED = frozen.expected()
UPGRADED = frozen.without_times(WANTED["settled"])
BEGINNING = ("upgrade-begun", "upgrade-step", "fence-raised", "fence-raised:3", "upgrade-settled", "upgrade-step")
"""Where an upgrade is killed, one run after the other: each goes on where the one before was."""

MIDDLE = (
    "rewrite-staged", "rewrite-committed", "upgrade-times:6", "upgrade-step", "upgrade-step",
    "rewrite-staged", "rewrite-committed", "upgrade-positions", "rewrite-committed:2",
)  # fmt: skip
END = ("upgrade-positions:2", "rewrite-staged:2", "upgrade-step")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home as that release left it."""
    return frozen.unpack(tmp_path_factory.mktemp("frozen"))


@pytest.fixture(scope="module")
def settled(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What it reads before it is upgraded, of what an upgrade leaves as it is."""
    home = Path(shutil.copytree(unpacked, tmp_path_factory.mktemp("settled") / "home"))
    frozen.settle(home)
    assert frozen.reading(home, like=WANTED["settled"]) == WANTED["settled"]
    return frozen.reading(home, like=UPGRADED)


@pytest.fixture(scope="module")
def upgraded(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, upgraded without being killed."""
    home = Path(shutil.copytree(unpacked, tmp_path_factory.mktemp("upgraded") / "home"))
    done = upgrade(load_settings(home))
    assert (done.before, done.after, done.settled, done.keys) == (0, FORMAT, 1, ["message"])
    assert done.steps == [step.name for step in STEPS]
    return home


@pytest.fixture
def home(unpacked: Path, tmp_path: Path) -> Path:
    """A copy of what that release left, elsewhere."""
    return Path(shutil.copytree(unpacked, tmp_path / "elsewhere" / "home"))


@pytest.fixture
def new(upgraded: Path, tmp_path: Path) -> Path:
    """A copy of the upgraded home."""
    return Path(shutil.copytree(upgraded, tmp_path / "elsewhere" / "home"))


def _lake(home: Path, dataset: str = "observation") -> Lake:
    settings = load_settings(home)
    return Lake(settings.lake_uri, settings.storage_options, dataset=dataset)


def _published(home: Path) -> Iterator[tuple[str, pa.Table]]:
    for name, table in _lake(home).present().items():
        if name.startswith("published/"):
            yield name, table.scan()


def test_it_reads_what_it_read_then(home: Path) -> None:
    assert frozen.reading(home, like=WANTED["lies"]) == WANTED["lies"]


def test_what_was_decided_and_not_added_is_added_once(home: Path) -> None:
    for _ in range(2):
        frozen.settle(home)
        assert frozen.reading(home, like=WANTED["settled"]) == WANTED["settled"]


def test_the_erased_patient_is_in_no_byte_of_it_and_stays_forgotten(upgraded: Path) -> None:
    settings = load_settings(upgraded)
    keys = load_keys(settings.path(settings.keys))
    others = Pseudonyms(keys, "patient-identifier").token(frozen.PATIENTS[30])
    assert frozen.traces(upgraded, [others])  # so the search does find what is there
    assert frozen.traces(upgraded, WANTED["erased"]) == []
    assert frozen.traces(upgraded, [frozen.PATIENTS[30]]) == []  # others' numbers are sealed
    vault = open_vault(settings, keys)
    try:
        assert vault.look_up(WANTED["erased"][-1]) is None
    finally:
        vault.close()


def test_upgraded_it_reads_the_same_and_no_position_is_left_in_any_version(
    upgraded: Path, settled: dict[str, Any]
) -> None:
    assert frozen.reading(upgraded, like=UPGRADED) == settled
    assert {finding.kind for finding in verify(_lake(upgraded))} <= {"no-digest"}
    for _, table in _lake(upgraded).present().items():
        if table.name.startswith("published/"):
            files = table.storage.files()
            assert set(files) == set(table.snapshot().files)  # what was replaced is deleted
            for rows in map(table.storage.read_parquet, files):
                assert not in_clear(rows["source_position"])
                assert not says_partition(rows["source"].combine_chunks()).to_numpy(zero_copy_only=False).any()
                for counting in {"version", "attribution"} & {*rows.column_names}:
                    assert not versions_in_clear(rows[counting].combine_chunks()).any()


def test_killed_anywhere_on_its_way_an_upgrade_goes_on_and_ends_the_same(
    home: Path, upgraded: Path, settled: dict[str, Any]
) -> None:
    assert killed_at(home, *BEGINNING) == [KILLED] * len(BEGINNING)
    assert frozen.reading(home, like=UPGRADED) == settled
    assert killed_at(home, *MIDDLE) == [KILLED] * len(MIDDLE)
    assert read_format(_lake(home).storage) == Format(0, FORMAT, ("home", "keys", "settle", "times", "words"))
    with pytest.raises(LakeError, match="has format 0"):
        _lake(home).open_all()
    assert frozen.reading(home, like=UPGRADED) == settled
    assert killed_at(home, *END, "nowhere", "nowhere") == [*[KILLED] * len(END), 0, 0]
    assert frozen.reading(home, like=UPGRADED) == settled
    assert [finding for finding in verify(_lake(home)) if finding.severity == "error"] == []
    assert read_format(_lake(home).storage) == Format(FORMAT)
    # The keys of the two homes differ, and so do their tokens; messages are told apart in both.
    assert _messages(home) == _messages(upgraded)


def test_upgraded_no_row_is_known_before_it_was_and_what_senders_said_stays(home: Path, upgraded: Path) -> None:
    frozen.settle(home)
    before, after = ({name: _times(table) for name, table in _published(each)} for each in (home, upgraded))
    day, ours = timedelta(days=1), 0
    for name, rows in before.items():
        assert rows.keys() == after[name].keys()
        pairs = (pair for key, some in rows.items() for pair in zip(some, after[name][key], strict=True))
        for was, (*told, ingested) in pairs:
            assert timedelta() <= ingested - was[2] < day
            assert (ingested.hour, ingested.minute, ingested.second) == (0, 0, 0)
            for now, then in zip(told, was[:2], strict=True):
                assert now == then or timedelta() < now - then < day + timedelta(minutes=61)
                ours += now != then
    assert ours  # what was attributed by hand is known since somebody said so


def test_upgraded_the_versions_of_each_record_follow_each_other_as_they_did(home: Path, upgraded: Path) -> None:
    frozen.settle(home)
    before, after = _sequences(home), _sequences(upgraded)
    assert any(len(versions) > 1 for rows in before.values() for versions in rows.values())
    assert after == before


def _sequences(home: Path) -> dict[str, dict[str, list[str]]]:
    """Return what the versions of each published record say, in the order of their versions."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, table in _published(home):
        key = [column for column in load_dataset(name.rpartition("/")[2]).key if column != "version"]
        records: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for row in table.to_pylist():
            said = _said(row)
            records[repr([row[column] for column in key])].append((row["version"], row.get("attribution") or 0, said))
        found[name] = {record: [said for *_, said in sorted(versions)] for record, versions in records.items()}
    return found


def _said(row: dict[str, Any]) -> str:
    """Return what a published row says, but for what of it an upgrade hides."""
    hidden = (*frozen.OF_OURS, "source_position")
    shown = row | {"source": topic_of(row["source"])}
    if row.get("attribution"):
        shown["attribution"] = row["attribution"] % 2
    return repr(sorted((k, v) for k, v in shown.items() if k not in hidden))


def _times(table: pa.Table) -> dict[str, list[tuple[Any, ...]]]:
    """Return the times of rows that may be ours, rows by all else that they say; in order: several may say the same."""
    times: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for row in table.to_pylist():
        same = _said(row)
        times[same].append((row["available_at"], row.get("told_at"), row["ingested_at"]))
    return {same: sorted(some, key=str) for same, some in times.items()}


def _messages(home: Path) -> dict[str, int]:
    return {name: len(frozen.by_message(table.to_pylist())) for name, table in _published(home)}


def _tokens(home: Path) -> dict[str, set[tuple[Any, ...]]]:
    """Return which rows have which token, rows by their keys: a later release may publish less of the others."""
    return {
        name: {
            (*(row[key] for key in load_dataset(name.rpartition("/")[2]).key), row["source_position"])
            for row in table.to_pylist()
        }
        for name, table in _published(home)
    }


def test_published_anew_every_message_has_the_token_that_the_upgrade_gave_it(new: Path) -> None:
    before, settings = _tokens(new), load_settings(new)
    for dataset in restricted_datasets(settings):
        republish(settings, dataset)
    assert _tokens(new) == before


def test_an_upgraded_home_goes_on(new: Path) -> None:
    settings = load_settings(new)
    assert load_history(settings, str(new / "city.yaml")) == 0  # known again, whatever was published of it
    ward = Ward(new, begin=frozen.BEGIN, sent=frozen.SENT)
    ward.stream([message(number, patient=frozen.PATIENTS[0]) for number in range(1000, 1003)])
    ward.associate("bed-9", frozen.PATIENTS[14], 0)
    assert ward.attribute().released == 4  # what waited
    ward.associate("bed-1", frozen.PATIENTS[15], 5, 10)
    assert ward.attribute().moved == 10  # five values are taken back that the earlier release had given to another one
    rows = _lake(new).published.scan(columns=["observation_id", "attribution", "source_position"]).to_pylist()
    told = [(row["observation_id"], row["source_position"]) for row in rows if row["attribution"] is not None]
    assert len(told) > len(set(told)) == len({name for name, _ in told})  # rows of then and now have one token
    assert [finding for finding in verify(_lake(new)) if finding.severity == "error"] == []


REFUSED = (
    ["lake", "verify"], ["lake", "tables"], ["lake", "upgrade"], ["ledger"], ["sql", "SELECT 1 FROM observation"],
    ["stream", "--no-view"], ["lake", "rewrite", "--republish", "condition"], ["dead-letters", "list"],
    ["history", "load", "city.yaml"], ["lake", "compact"], ["devices", "list"],
)  # fmt: skip


@pytest.mark.parametrize("found", [Format(FORMAT + 1), Format(FORMAT, upgrading=FORMAT + 1)], ids=["later", "becoming"])
def test_a_lake_of_a_later_release_is_neither_read_nor_written(
    home: Path, found: Format, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_format(_lake(home).storage, found)
    before = {path: path.stat().st_mtime_ns for path in (home / "lake").rglob("*")}
    monkeypatch.chdir(home)
    for command in REFUSED:
        assert main([*command, "--home", str(home)]) == 13, command
        assert f"has format {FORMAT + 1}" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (home / "lake").rglob("*")} == before


WRITERS = (
    ["stream", "--no-view"], ["history", "load", "city.yaml"], ["devices", "attribute"],
    ["devices", "associate", "--device", "bed-9", "--patient", "1", "--from", "2025-06-01T10:00Z"],
    ["dead-letters", "replay"], ["lake", "rewrite", "--rekey"], ["lake", "compact"], ["lake", "schema", "--apply"],
    ["lake", "rewrite", "--bucket", "4"], ["lake", "rewrite", "--retention"], ["lake", "rebuild", "published"],
    ["lake", "rewrite", "--retire-key", "v1"], ["dead-letters", "discard", "--all", "--reason-text", "Test"],
)  # fmt: skip


def test_before_the_upgrade_readers_read_and_writers_say_what_to_do(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (home / "lake").rglob("*")}
    monkeypatch.chdir(home)
    for command in WRITERS:
        assert main([*command, "--home", str(home)]) == 13, command
        assert "vitalake lake upgrade" in capsys.readouterr().err
    assert main(["sql", "SELECT count(*) FROM observation", "--home", str(home)]) == 0
    assert main(["ledger", "--home", str(home)]) == 0
    assert main(["lake", "verify", "--home", str(home)]) == 0
    assert "older-format" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (home / "lake").rglob("*")} == before


def test_an_upgrade_takes_the_digests_of_files_of_before(home: Path) -> None:
    settings = load_settings(home)
    assert "no-digest" in {finding.kind for finding in verify(Lake(settings.lake_uri, {}))}
    upgrade(settings)
    assert "no-digest" not in {finding.kind for finding in verify(Lake(settings.lake_uri, {}))}
