"""The audit: durable before it returns, shared by threads and processes, and closed when it cannot be written."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import stat
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from governance.audit import (
    AuditBroken,
    AuditEvent,
    FileAuditSink,
    latest,
    open_audit,
    recording_stop,
    set_audit_aside,
    verify_chain,
    who_saw,
)
from governance.audit.chain import WRITERS, Chain
from governance.audit.records import Seals
from vitalake import clock
from vitalake.errors import LakeError, PrivacyError, ServiceUnavailable
from vitalake.keys import Key, KeyRing, load_keys
from vitalake.settings import load_settings

V1, V2 = Key("audit", "v1", bytes(range(32))), Key("audit", "v2", bytes(range(1, 33)))
KEYS = KeyRing({"audit": (V1,)}, {"audit": "v1"})
BOTH = KeyRing({"audit": (V1, V2)}, {"audit": "v2"})
PATIENT, OTHER = "v1." + "a" * 32, "v1." + "b" * 32


def _event(actor: str = "clinician", *patients: str) -> AuditEvent:
    return AuditEvent("risk.read", actor, "clinician", patients or (PATIENT,), {"dataset": "observation"})


def _sink(folder: Path, writer: str = "serving", keys: KeyRing = KEYS) -> FileAuditSink:
    return FileAuditSink(folder / "audit", keys, writer)


def _reports(folder: Path, **options: Any) -> dict[str, Any]:
    return {chain.writer: chain for chain in verify_chain(folder / "audit", KEYS, **options).chains}


# -- events


@pytest.mark.parametrize(
    "detail", [{"Dataset": "x"}, {"sql": "SELECT 'Doe'"}, {"patient": PATIENT}, {"dataset": "x" * 1001}]
)
def test_an_event_holds_codes_only(detail: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="codes only"):
        AuditEvent("sql.query", "a", "officer", (), detail)


def test_an_event_is_one_of_the_known_actions() -> None:
    with pytest.raises(ValueError, match="codes only"):
        AuditEvent("looked", "a", "officer")  # type: ignore[arg-type]


# -- recording


def test_who_saw_a_patient_names_them_in_order_and_the_files_do_not_name_the_patient(tmp_path: Path) -> None:
    serving, cli = _sink(tmp_path), _sink(tmp_path, "cli")
    before = clock.now()
    serving.record(_event("first"))
    cli.record(_event("second", OTHER, PATIENT))
    serving.record(_event("third", OTHER))
    assert who_saw(tmp_path / "audit", KEYS) == []
    seen = who_saw(tmp_path / "audit", KEYS, PATIENT, "v0." + "z" * 32)
    assert [(entry.actor, entry.writer, entry.patients) for entry in seen] == [
        ("first", "serving", 1),
        ("second", "cli", 2),
    ]
    assert before <= seen[0].at <= seen[1].at <= clock.now()
    assert seen[0].detail == {"dataset": "observation"}
    files = list((tmp_path / "audit").iterdir())
    assert files
    for path in files:
        assert PATIENT[3:] not in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "audit").stat().st_mode) == 0o700
    assert [entry.actor for entry in latest(tmp_path / "audit", KEYS, limit=2)] == ["second", "third"]


def test_a_record_is_on_disk_when_it_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink, synced = _sink(tmp_path), []
    sink.record(_event())  # the first one is anchored, too
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    sink.record(_event())
    assert [Path(name).name for name in synced] == ["serving.jsonl", ".serving.head"]


def test_threads_share_a_recorder(tmp_path: Path) -> None:
    sink = _sink(tmp_path)

    def record(actor: str) -> None:
        for _ in range(5):
            sink.record(_event(actor))

    threads = [threading.Thread(target=record, args=(f"a{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _reports(tmp_path)["serving"].records == 20
    assert verify_chain(tmp_path / "audit", KEYS).whole


def _record_some(folder: Path) -> None:
    sink = _sink(folder)
    for _ in range(5):
        sink.record(_event())


@pytest.mark.slow
def test_processes_share_a_chain_also_while_it_is_begun(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_record_some, args=(tmp_path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert _reports(tmp_path)["serving"].records == 15
    assert verify_chain(tmp_path / "audit", KEYS).whole


def test_a_new_key_version_goes_on_with_the_chain_and_finds_what_the_old_one_hid(tmp_path: Path) -> None:
    _sink(tmp_path).record(_event("old"))
    _sink(tmp_path, keys=BOTH).record(_event("new"))
    assert verify_chain(tmp_path / "audit", BOTH).whole
    assert [entry.actor for entry in who_saw(tmp_path / "audit", BOTH, PATIENT)] == ["old", "new"]
    assert not verify_chain(tmp_path / "audit", KEYS).whole  # who lacks the new key cannot vouch for it


def test_another_key_finds_nothing_and_nothing_holds(tmp_path: Path) -> None:
    _sink(tmp_path).record(_event())
    other = KeyRing({"audit": (Key("audit", "v1", bytes(32)),)}, {"audit": "v1"})
    assert not verify_chain(tmp_path / "audit", other).whole
    assert who_saw(tmp_path / "audit", other, PATIENT) == []
    with pytest.raises(PrivacyError):
        _sink(tmp_path, keys=other)


def test_settings_say_where_the_audit_is(home: Path) -> None:
    keys = load_keys(home / "keys.yaml")
    open_audit(load_settings(home), keys, writer="cli").record(_event())
    assert len(who_saw(home / "audit", keys, PATIENT)) == 1


def test_an_audit_that_was_never_begun_holds_and_is_empty(tmp_path: Path) -> None:
    assert verify_chain(tmp_path / "audit", KEYS).whole
    assert who_saw(tmp_path / "audit", KEYS, PATIENT) == []


@pytest.mark.parametrize("writer", ["", "Serving", "../x", WRITERS])
def test_writers_have_plain_names(tmp_path: Path, writer: str) -> None:
    with pytest.raises(ValueError, match="word"):
        _sink(tmp_path, writer)


# -- what stands in the way


def test_a_folder_that_cannot_be_written_is_said_and_nothing_is_shown(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("a file")
    with pytest.raises(ServiceUnavailable, match=r"Audit cannot be written \(FileExistsError\)"):
        _sink(tmp_path)


def test_a_full_disk_refuses_and_what_was_half_written_is_sealed_off_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = _sink(tmp_path)
    sink.record(_event("before"))
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 100:
            return real(descriptor, data[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: full(descriptor, data[:-10]))
        with pytest.raises(ServiceUnavailable, match="Disk is full"):
            sink.record(_event("lost"))
    assert _reports(tmp_path)["serving"].unsealed == 1
    sink.record(_event("after"))
    report = _reports(tmp_path)["serving"]
    assert (report.problem, report.torn, report.unsealed, report.records) == ("", 1, 0, 3)
    assert [entry.actor for entry in who_saw(tmp_path / "audit", KEYS, PATIENT)] == ["before", "after"]


def test_chains_that_are_gone_or_strange_refuse_to_go_on(tmp_path: Path) -> None:
    sink = _sink(tmp_path)
    sink.record(_event())
    folder = tmp_path / "audit"

    def refused(name: str) -> str:
        copy = tmp_path / f"without-{name}"
        shutil.copytree(folder, copy / "audit")
        (copy / "audit" / name).unlink()
        with pytest.raises(AuditBroken) as caught:
            _sink(copy).record(_event())
        assert caught.value.exit_code == 12
        assert type(pickle.loads(pickle.dumps(caught.value))) is AuditBroken  # noqa: S301
        return caught.value.what

    assert "file is gone" in refused("serving.jsonl")
    assert "head is gone" in refused("serving.head")
    assert "never begun" in refused("writers.jsonl")  # without the list the chain looks new, and has records
    shutil.copytree(folder, tmp_path / "y" / "audit")
    for name in ("writers.jsonl", "writers.head"):
        (tmp_path / "y" / "audit" / name).unlink()
    with pytest.raises(AuditBroken, match="list of writers is gone"):
        _sink(tmp_path / "y", "cli")
    (folder / "serving.jsonl").write_bytes(b"")
    with pytest.raises(AuditBroken, match="missing or changed"):
        sink.record(_event())


def test_verify_says_what_is_wrong_with_which_chain(tmp_path: Path) -> None:
    _sink(tmp_path).record(_event())
    _sink(tmp_path, "cli").record(_event())
    folder = tmp_path / "audit"
    (folder / "cli.head").unlink()
    (folder / "strange.jsonl").touch()
    shutil.copy(folder / "serving.jsonl", folder / "copy.jsonl")
    shutil.copy(folder / "serving.head", folder / "copy.head")
    (folder / "serving.jsonl").unlink()
    reports = _reports(tmp_path)
    assert {name: report.problem for name, report in reports.items() if report.problem} == {
        "cli": "head is missing, changed, or not signed with this home's key",
        "copy": "head is missing, changed, or not signed with this home's key",
        "serving": "file is missing",
        "strange": "head is missing, changed, or not signed with this home's key",
    }
    assert [entry.actor for entry in who_saw(folder, KEYS, PATIENT)] == ["clinician"]  # what holds can still be read


def test_a_chain_nobody_registered_does_not_hold_once_it_has_records(tmp_path: Path) -> None:
    _sink(tmp_path).record(_event())
    chain = Chain(tmp_path / "audit", "cuckoo", Seals(KEYS))
    chain.create()
    assert _reports(tmp_path)["cuckoo"].problem == ""  # what a crash leaves, and the next start takes on
    chain.append("risk.read")
    assert _reports(tmp_path)["cuckoo"].problem == "not in the list of writers"


def test_a_crash_while_the_first_chain_is_begun_is_taken_on(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    folder.mkdir()
    (folder / "writers.jsonl").touch()
    sink = _sink(tmp_path)
    sink.record(_event())
    assert verify_chain(folder, KEYS).whole


def test_a_crash_between_record_and_head_keeps_the_record(tmp_path: Path) -> None:
    sink = _sink(tmp_path)
    sink.record(_event("one"))
    head = (tmp_path / "audit/serving.head").read_bytes()
    sink.record(_event("two"))
    (tmp_path / "audit/serving.head").write_bytes(head)
    assert _reports(tmp_path)["serving"].unsealed == 1
    _sink(tmp_path).record(_event("three"))
    report = _reports(tmp_path)["serving"]
    assert (report.problem, report.unsealed, report.records) == ("", 0, 3)


def test_a_crash_while_a_torn_record_is_sealed_off_is_sealed_off_as_well(tmp_path: Path) -> None:
    _sink(tmp_path).record(_event("one"))
    with (tmp_path / "audit/serving.jsonl").open("ab") as file:
        file.write(b'{"n":2,"at"\n')  # the line was ended, and then the machine stopped again
    _sink(tmp_path).record(_event("two"))
    report = _reports(tmp_path)["serving"]
    assert (report.problem, report.torn, report.records) == ("", 1, 3)


def test_files_put_back_to_an_earlier_moment_show_against_a_report_kept_elsewhere(tmp_path: Path) -> None:
    sink = _sink(tmp_path)
    sink.record(_event("one"))
    shutil.copytree(tmp_path / "audit", tmp_path / "earlier")
    sink.record(_event("two"))
    kept = {chain.writer: (chain.records, chain.mac) for chain in verify_chain(tmp_path / "audit", KEYS).chains}
    sink.record(_event("three"))
    assert verify_chain(tmp_path / "audit", KEYS, known=kept).whole
    shutil.rmtree(tmp_path / "audit")
    shutil.rmtree(tmp_path / "audit.heads")  # all that is kept on this disk
    (tmp_path / "earlier").rename(tmp_path / "audit")
    assert verify_chain(tmp_path / "audit", KEYS).whole
    assert "the earlier report knows 2 records of it" in _reports(tmp_path, known=kept)["serving"].problem
    assert _reports(tmp_path, known={"serving": (1, "0" * 64)})["serving"].problem
    assert _reports(tmp_path, known={"gone": (1, "0" * 64)})["gone"].problem == "file is missing"


def test_lines_that_only_look_like_records_do_not_follow(tmp_path: Path) -> None:
    seals = Seals(KEYS)
    begin = seals.begin("serving")
    end = ',"mac":"' + "0" * 64 + '"}\n'
    strange = msgspec.json.encode({"n": 1, "key": "audit/v9"}).decode()
    for text in ("\n", "{}\n", end, "{" + end, "\udcff" + end, strange[:-1] + end):
        assert seals.follow(text.encode("utf-8", "surrogateescape"), after=begin) is None


# -- what was put back, or is gone


def _copy(folder: Path, *names: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for name in names for path in sorted(folder.glob(name))}


def _put_back(kept: dict[Path, bytes]) -> None:
    for path, content in kept.items():
        path.write_bytes(content)


def test_one_chain_put_back_shows_at_once_by_what_is_kept_beside_the_folder(tmp_path: Path) -> None:
    sink = _sink(tmp_path)
    sink.record(_event("one"))
    sink.record(_event("two"))
    earlier = _copy(tmp_path / "audit", "serving.*")
    sink.record(_event("three"))
    _put_back(earlier)
    problem = _reports(tmp_path)["serving"].problem
    assert problem.startswith("put back to an earlier state")
    assert "knows 3 records" in problem
    with pytest.raises(AuditBroken, match="put back to an earlier state"):
        _sink(tmp_path)
    with pytest.raises(AuditBroken):  # who has it open adds nothing that would hide it
        sink.record(_event("four"))


def test_one_chain_put_back_with_what_is_kept_beside_it_shows_by_the_other_chains(tmp_path: Path) -> None:
    sink = _sink(tmp_path)
    sink.record(_event("one"))
    earlier = _copy(tmp_path, "audit/serving.*", "audit.heads/serving")
    sink.record(_event("two"))
    _sink(tmp_path, "cli").record(_event("somebody else"))
    _put_back(earlier)
    assert "chain cli knows 2 records of it" in _reports(tmp_path)["serving"].problem


def test_the_list_of_writers_put_back_shows_by_the_chains_it_names(tmp_path: Path) -> None:
    sink = _sink(tmp_path)
    earlier = _copy(tmp_path, "audit/writers.*", "audit.heads/writers")
    sink.record(_event("one"))
    _sink(tmp_path, "cli").record(_event("two"))
    _put_back(earlier)
    assert "records of it" in _reports(tmp_path)["writers"].problem


def test_a_recorder_that_goes_on_is_anchored_every_minute_without_a_sync_a_record(tmp_path: Path) -> None:
    now = [0.0]
    sink = FileAuditSink(tmp_path / "audit", KEYS, "serving", seconds=lambda: now[0])

    def anchored() -> int:
        return (tmp_path / "audit/writers.jsonl").read_text().count('"anchor"')

    counts = []
    for seconds in (0.0, 59.0, 60.0, 61.0, 121.0):
        now[0] = seconds
        sink.record(_event())
        counts.append(anchored())
    assert counts == [1, 1, 2, 2, 3]
    earlier = _copy(tmp_path, "audit/serving.*", "audit.heads/serving")
    for _ in range(3):
        sink.record(_event())
    now[0] = 200.0
    sink.record(_event())
    _put_back(earlier)
    assert "chain writers knows 9 records" in _reports(tmp_path)["serving"].problem


def test_records_of_other_chains_do_not_show_in_what_is_listed(tmp_path: Path) -> None:
    _sink(tmp_path).record(_event())
    _sink(tmp_path, "cli").record(_event())
    assert [seen.detail for seen in latest(tmp_path / "audit", KEYS, limit=9)] == [{"dataset": "observation"}] * 2
    assert b'"~serving":"1 ' in (tmp_path / "audit/cli.jsonl").read_bytes()


def test_an_audit_that_is_gone_does_not_hold_and_is_not_begun_again_in_silence(tmp_path: Path) -> None:
    _sink(tmp_path).record(_event())
    shutil.rmtree(tmp_path / "audit")
    for _ in range(2):
        report = verify_chain(tmp_path / "audit", KEYS)
        assert report.problems == ["there is no audit, where there was one"]
        assert not report.whole
        with pytest.raises(AuditBroken, match="Audit is gone"):
            _sink(tmp_path)
        (tmp_path / "audit").mkdir(exist_ok=True)  # an empty folder is none, either


def test_a_new_audit_keeps_the_one_before_aside(tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    FileAuditSink(tmp_path / "audit", KEYS, "serving", outside=outside).record(_event())
    (tmp_path / "audit/serving.jsonl").write_bytes(b"")
    name = set_audit_aside(tmp_path / "audit", outside)
    sink = FileAuditSink(tmp_path / "audit", KEYS, "serving", outside=outside)
    sink.record(_event())
    assert verify_chain(tmp_path / "audit", KEYS, outside=outside).whole
    assert (tmp_path / name / "serving.head").exists()
    assert (tmp_path / f"{name}.heads" / "serving").exists()
    assert (outside / f"{name}.heads" / "serving").exists()


def test_a_folder_that_cannot_be_put_aside_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "audit").mkdir()

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ServiceUnavailable, match="permission is denied"):
        set_audit_aside(tmp_path / "audit", None)


def test_everything_put_back_shows_by_what_is_kept_on_other_storage(tmp_path: Path) -> None:
    outside, home = tmp_path / "elsewhere", tmp_path / "home"
    outside.mkdir()
    home.mkdir()

    def record(actor: str) -> None:
        FileAuditSink(home / "audit", KEYS, "serving", outside=outside).record(_event(actor))

    record("one")
    shutil.copytree(home, tmp_path / "earlier")
    record("two")
    before = clock.now()
    report = verify_chain(home / "audit", KEYS, outside=outside)
    assert report.whole
    assert report.anchored_at is not None
    assert report.anchored_at <= before
    shutil.rmtree(home)
    shutil.copytree(tmp_path / "earlier", home)
    assert verify_chain(home / "audit", KEYS).whole  # on this disk nothing shows it
    report = verify_chain(home / "audit", KEYS, outside=outside)
    assert {chain.writer: chain.problem != "" for chain in report.chains} == {"serving": True, "writers": True}
    with pytest.raises(AuditBroken, match="put back"):
        record("three")
    assert (
        "2 records"
        in {c.writer: c.problem for c in verify_chain(home / "audit", KEYS, outside=outside).chains}["serving"]
    )
    shutil.rmtree(home / "audit")
    shutil.rmtree(home / "audit.heads")
    with pytest.raises(AuditBroken, match="gone"):
        record("four")


def test_other_storage_that_is_not_there_keeps_nobody_from_recording_and_does_not_hold(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outside = tmp_path / "not mounted"
    FileAuditSink(tmp_path / "audit", KEYS, "serving", outside=outside).record(_event())
    assert "audit is not anchored outside" in caplog.text
    assert not outside.exists()
    report = verify_chain(tmp_path / "audit", KEYS, outside=outside)
    assert report.problems == ["nothing of the audit is kept outside (settings.anchors)"]
    outside.mkdir()
    (outside / "audit.heads").mkdir()
    (outside / "audit.heads" / "serving").mkdir()  # what cannot be read
    assert verify_chain(tmp_path / "audit", KEYS, outside=outside).problems == [
        "what is kept outside cannot be read (Is a directory)"
    ]


def test_heads_that_we_have_not_signed_say_nothing_of_their_chain_and_are_named(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    FileAuditSink(tmp_path / "audit", KEYS, "serving", outside=outside).record(_event())
    for folder in (tmp_path, outside):
        (folder / "audit.heads/serving").write_bytes(b"{}")
    report = verify_chain(tmp_path / "audit", KEYS, outside=outside)
    assert [chain.problem for chain in report.chains] == ["", ""]
    assert [problem.partition(" is not")[0] for problem in report.problems] == [
        "audit.heads/serving", "outside, audit.heads/serving",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["serving.head", "serving.jsonl", "writers.head", "writers.jsonl"])
def test_a_folder_in_the_place_of_a_chains_file_is_named(tmp_path: Path, name: str) -> None:
    _sink(tmp_path).record(_event())
    (tmp_path / "audit" / name).unlink()
    (tmp_path / "audit" / name).mkdir()
    problems = {chain: report.problem for chain, report in _reports(tmp_path).items()}
    assert "cannot be read (Is a directory)" in problems[name.partition(".")[0]]


@pytest.mark.parametrize("damage", ["flipped", "folder", "another's"])
def test_a_damaged_head_beside_the_audit_is_named_until_the_next_record_has_written_it_again(
    tmp_path: Path, damage: str
) -> None:
    sink, other = _sink(tmp_path), _sink(tmp_path, "cli")
    sink.record(_event("one"))
    other.record(_event("two"))
    chosen = tmp_path / "audit.heads" / "serving"
    content = chosen.read_bytes()
    if damage == "flipped":
        chosen.write_bytes(content.replace(b'"records":', b'"records": '))
    elif damage == "folder":
        chosen.unlink()
        chosen.mkdir()
    else:
        chosen.write_bytes((tmp_path / "audit.heads" / "cli").read_bytes())
    report = verify_chain(tmp_path / "audit", KEYS)
    assert [problem for problem in report.problems if "audit.heads/serving" in problem] == report.problems != []
    chosen.rmdir() if damage == "folder" else chosen.unlink()
    sink.record(_event("three"))
    assert verify_chain(tmp_path / "audit", KEYS).whole
    assert chosen.is_file()


def test_a_folder_beside_that_cannot_be_written_keeps_nobody_from_recording(tmp_path: Path) -> None:
    (tmp_path / "audit.heads").write_text("a file")
    _sink(tmp_path).record(_event())
    assert verify_chain(tmp_path / "audit", KEYS).whole


def test_what_is_recorded_while_it_is_verified_is_not_taken_for_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli = _sink(tmp_path, "cli")
    cli.record(_event())
    done: list[bool] = []
    real = Chain.follow

    def follow(self: Chain, *given: Any) -> Any:
        yield from real(self, *given)
        if self.writer == "cli" and not done:  # the chain was read to its end, and goes on
            done.append(True)
            cli.record(_event())
            _sink(tmp_path).record(_event())

    monkeypatch.setattr(Chain, "follow", follow)
    assert verify_chain(tmp_path / "audit", KEYS).whole
    assert done


def test_what_is_stopped_by_an_error_is_recorded_by_its_kind() -> None:
    recorded: list[str] = []
    with recording_stop(recorded.append):
        pass
    assert recorded == []
    for error in (ServiceUnavailable("The disk of Zzname is full"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, recording_stop(recorded.append):
            raise error
        assert caught.value is error
    assert recorded == ["ServiceUnavailable", "KeyboardInterrupt"]


def test_an_audit_that_cannot_record_that_it_was_stopped_hides_no_error(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: str) -> None:
        raise LakeError("Audit cannot be written")

    with pytest.raises(ServiceUnavailable), recording_stop(fail):
        raise ServiceUnavailable("Store does not answer")
    assert [record.getMessage() for record in caplog.records] == ["audit does not have how it ended"]
