"""Whatever is done to the audit's files without the key shows; whatever a crash does to them is survived."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governance.audit import AuditEvent, FileAuditSink, verify_chain, who_saw
from governance.audit.chain import Chain
from governance.audit.records import ChainPosition, Record, Seals
from vitalake.keys import Key, KeyRing

KEYS = KeyRing({"audit": (Key("audit", "v1", bytes(range(32))),)}, {"audit": "v1"})
PATIENT = "v1." + "a" * 32
FILES = ("serving.jsonl", "serving.head", "cli.jsonl", "cli.head", "writers.jsonl", "writers.head")
RECORDS = 7


def _event(actor: str) -> AuditEvent:
    return AuditEvent("identity.read", actor, "clinician", (PATIENT,), {"dataset": "patient"})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit of two writers; in one chain a crash has torn a record, which was sealed off."""
    folder = tmp_path_factory.mktemp("written") / "audit"
    for writer in ("serving", "cli"):
        sink = FileAuditSink(folder, KEYS, writer)
        for number in range(RECORDS):
            if number == 3:
                with (folder / f"{writer}.jsonl").open("ab") as file:
                    file.write(b'{"n":4,"at":17')
            sink.record(_event(f"{writer}{number}"))
    assert verify_chain(folder, KEYS).whole
    return folder


def _copy(written: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(written, tmp_path_factory.mktemp("copy") / "audit"))


@given(name=st.sampled_from(FILES), at=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_a_changed_byte_shows(
    written: Path, tmp_path_factory: pytest.TempPathFactory, name: str, at: float, change: int
) -> None:
    path = _copy(written, tmp_path_factory) / name
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= change
    path.write_bytes(data)
    assert not verify_chain(path.parent, KEYS).whole


@given(name=st.sampled_from(FILES), at=st.floats(0, 1, exclude_max=True))
def test_a_cut_tail_shows(written: Path, tmp_path_factory: pytest.TempPathFactory, name: str, at: float) -> None:
    path = _copy(written, tmp_path_factory) / name
    data = path.read_bytes()
    path.write_bytes(data[: int(at * len(data))])
    assert not verify_chain(path.parent, KEYS).whole


@given(writer=st.sampled_from(["serving", "cli"]), order=st.permutations(range(RECORDS + 2)))
def test_another_order_shows(
    written: Path, tmp_path_factory: pytest.TempPathFactory, writer: str, order: list[int]
) -> None:
    path = _copy(written, tmp_path_factory) / f"{writer}.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == RECORDS + 2  # the torn one, and the one that says so
    path.write_bytes(b"".join(lines[index] for index in order))
    assert verify_chain(path.parent, KEYS).whole == (list(order) == sorted(order))


@given(
    writer=st.sampled_from(["serving", "cli"]),
    picks=st.lists(st.integers(0, RECORDS + 1), max_size=RECORDS + 3),
)
def test_dropped_and_repeated_lines_show(
    written: Path, tmp_path_factory: pytest.TempPathFactory, writer: str, picks: list[int]
) -> None:
    path = _copy(written, tmp_path_factory) / f"{writer}.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[index] for index in sorted(picks)))
    if sorted(picks) != list(range(RECORDS + 2)):
        assert not verify_chain(path.parent, KEYS).whole


@pytest.mark.parametrize("name", FILES)
def test_a_deleted_file_shows(written: Path, tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    path = _copy(written, tmp_path_factory) / name
    path.unlink()
    assert not verify_chain(path.parent, KEYS).whole


@pytest.mark.parametrize("names", [("serving.jsonl", "serving.head"), ("writers.jsonl", "writers.head")])
def test_a_chain_deleted_with_its_head_shows(
    written: Path, tmp_path_factory: pytest.TempPathFactory, names: tuple[str, str]
) -> None:
    folder = _copy(written, tmp_path_factory)
    for name in names:
        (folder / name).unlink()
    assert not verify_chain(folder, KEYS).whole


@given(suffix=st.sampled_from(["jsonl", "head"]))
def test_files_of_two_chains_exchanged_show(
    written: Path, tmp_path_factory: pytest.TempPathFactory, suffix: str
) -> None:
    folder = _copy(written, tmp_path_factory)
    one, other = folder / f"serving.{suffix}", folder / f"cli.{suffix}"
    held = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(held)
    assert not verify_chain(folder, KEYS).whole


@given(kept=st.integers(0, 1_000), crashes=st.integers(1, 3))
def test_a_crash_at_any_byte_of_a_record_loses_nothing_that_was_acknowledged(
    written: Path, tmp_path_factory: pytest.TempPathFactory, kept: int, crashes: int
) -> None:
    folder = _copy(written, tmp_path_factory)
    path, seals = folder / "serving.jsonl", Seals(KEYS)
    for _ in range(crashes):
        head = Chain(folder, "serving", seals).head()
        assert head is not None
        record = Record(head.records + 1, 0, "risk.read", "crashed", "clinician", (), {}, "audit/v1")
        line, _place = seals.line(record, after=ChainPosition(head.records, path.stat().st_size, head.mac))
        with path.open("ab") as file:
            file.write(line[: kept % (len(line) + 1)])
    assert verify_chain(folder, KEYS).whole  # said to be open, not broken
    FileAuditSink(folder, KEYS, "serving").record(_event("after"))
    report = verify_chain(folder, KEYS)
    assert report.whole
    assert not any(chain.unsealed for chain in report.chains)
    actors = [seen.actor for seen in who_saw(folder, KEYS, PATIENT) if seen.writer == "serving"]
    assert actors == [*(f"serving{number}" for number in range(RECORDS)), "after"]
