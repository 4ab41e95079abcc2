"""An erasure destroys the key in every byte of the file, and again in every back-up that is restored."""

from __future__ import annotations

import shutil
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from governance.vault import Hold, Identity, Vault
from governance.vault.seals import seal
from tests.unit.governance.vault.vault_samples import KEY, WHO, Place, people, run
from vitalake import clock
from vitalake.errors import InputError, LakeError, PrivacyError, ServiceUnavailable
from vitalake.keys import Key

TOKEN = people(2)[1][1]


def _known(place: Place, number: int = 3) -> tuple[Vault, bytes]:
    """Return a vault with patients, and the subject of the second, whose identity is known."""
    vault = place.open()
    vault.enrol(people(number))
    vault.put([(TOKEN, 1, WHO)])
    return vault, vault.subject_of("Zzp-1")


def _stored(vault: Vault, subject: bytes) -> list[bytes]:
    """Return the stored bytes of a patient that must not be found after the erasure."""
    row = vault._store.read(
        "SELECT token, wrapped, source_id, mrn_digest, identity FROM patient WHERE subject = ?", (subject,)
    )[0]
    return [value.encode() if isinstance(value, str) else bytes(value) for value in row]


def test_an_erased_patient_is_a_tombstone_and_nothing_else(place: Place) -> None:
    vault, subject = _known(place)
    stored = _stored(vault, subject)
    assert all(value in place.content() for value in stored)
    stone = vault.erase(subject, "c-1")
    assert (stone.subject, stone.certificate) == (subject, "c-1")
    assert abs(clock.now() - stone.erased_at) < timedelta(minutes=1)
    assert not any(value in place.content() for value in stored)
    for again in (vault, place.open()):
        assert again.tombstone(subject) == stone
        assert again.enrol(people(3))[1] is None
        assert not again.secrets([subject])
        assert not again.patient_ids([subject])
        assert again.look_up(TOKEN) is None
        assert again.token_of_mrn("ZZMRN-1") is None
        assert again.subject_of_token(TOKEN) is None
        assert subject not in again.tokens()
        again.put([(TOKEN, 2, WHO)])
        assert again.look_up(TOKEN) is None
        assert again.retoken(lambda patient: people(3)[int(patient[-1])][1]) == 0
        assert again.erase(subject, "c-2") == stone
    assert vault.tombstone(vault.subject_of("Zzp-0")) is None
    assert len(place.log.read_bytes().splitlines()) == 1
    assert vault.status().erased == vault.generation == 1


def test_former_pseudonyms_of_who_is_erased_go_too(place: Place) -> None:
    vault, subject = _known(place)
    vault.retoken(lambda patient: f"v2.{patient}")
    kept = [bytes(value) for row in vault._store.read("SELECT digest, sealed FROM former WHERE subject = ?", (subject,))
            for value in row]  # fmt: skip
    assert len(kept) == 2 and all(value in place.content() for value in kept)
    vault.erase(subject, "c-1")
    assert not any(value in place.content() for value in kept)
    assert vault.subject_of_token(TOKEN) is None
    assert vault.tokens_of(subject) == set()
    assert vault.keep_former("v1", dict(people(3)).__getitem__) == 0


def test_no_byte_stays_of_one_of_many_whose_pages_were_split(place: Place) -> None:
    vault = place.open()
    vault.enrol(people(3000))
    vault.put(
        [(token, 1, Identity(patient, f"Zzname {patient}", address="1 Zzroad" * 40)) for patient, token in people(3000)]
    )
    stored = {patient: _stored_most(vault, vault.subject_of(patient)) for patient, _ in people(3000)[::500]}
    for patient, values in stored.items():
        vault.erase(vault.subject_of(patient), f"c-{patient[-1]}")
        assert not any(value in place.content() for value in values)
    assert vault.status().patients == 2994


def _stored_most(vault: Vault, subject: bytes) -> list[bytes]:
    row = vault._store.read("SELECT token, wrapped, source_id, identity FROM patient WHERE subject = ?", (subject,))[0]
    whole = [value.encode() if isinstance(value, str) else bytes(value) for value in row]
    return [*whole[:3], whole[3][:48], whole[3][-48:]]


def test_a_stranger_can_be_erased_and_is_never_enrolled(place: Place) -> None:
    vault = place.open()
    subject = vault.subject_of("Zzp-1")
    vault.erase(subject, "c-1")
    assert vault.enrol(people(2))[1] is None
    with pytest.raises(InputError, match="not in the vault"):
        vault.hold(subject, "a reason")


def test_erasing_needs_no_key(place: Place) -> None:
    vault, subject = _known(place)
    place.service.revoke()
    assert place.open().erase(subject, "c-1").subject == subject
    assert vault.erase(subject, "c-1").subject == subject


_ERASE_SOME = """
vault = place.open()
for i in range({first}, {last}):
    vault.erase(vault.subject_of(f"Zzp-{{i}}"), f"c-{{i}}")
"""

_ENROL_MEANWHILE = """
vault = place.open()
for i in range(50):
    place.seconds.now += 1
    vault.enrol(people(100 + i))
"""


@pytest.mark.slow
def test_erasures_of_two_processes_and_who_enrols_meanwhile_do_not_get_in_each_others_way(place: Place) -> None:
    place.open().enrol(people(20))
    some = [_ERASE_SOME.format(first=first, last=first + 8) for first in (0, 8)]
    assert run(place, *some, _ENROL_MEANWHILE) == [0, 0, 0]
    vault = place.open()
    assert vault.generation == 16
    assert [key is None for key in vault.enrol(people(149))] == [i < 16 for i in range(149)]
    assert {vault.tombstone(vault.subject_of(f"Zzp-{i}")).certificate for i in range(16)} == {  # type: ignore[union-attr]
        f"c-{i}" for i in range(16)
    }
    assert vault.status().patients == 133


# -- restored back-ups and the log -----------------------------------------------------------------------------------


def test_a_restored_vault_erases_again_before_anything_else(place: Place) -> None:
    vault, subject = _known(place)
    stored = _stored(vault, subject)
    later = vault.subject_of("Zzp-9")
    vault.close()
    place.back_up()
    vault = place.open()
    vault.enrol(people(10))
    vault.erase(subject, "c-1")
    vault.erase(later, "c-2")
    vault.close()
    place.restore()
    assert all(value in place.content() for value in stored)
    place.service.revoke()  # applying the log needs no key either
    vault = place.open()
    assert not any(value in place.content() for value in stored)
    place.service.restore()
    assert [vault.tombstone(s).certificate for s in (subject, later)] == ["c-1", "c-2"]  # type: ignore[union-attr]
    assert [key is None for key in vault.enrol(people(10))] == [i in (1, 9) for i in range(10)]
    assert vault.generation == 2
    vault.erase(vault.subject_of("Zzp-2"), "c-3")
    assert place.open().generation == 3


@pytest.mark.parametrize("lose", ["all", "last"])
def test_a_log_that_lacks_what_the_vault_has_seen_is_refused(place: Place, lose: str) -> None:
    vault, subject = _known(place)
    vault.erase(subject, "c-1")
    vault.erase(vault.subject_of("Zzp-2"), "c-2")
    if lose == "all":
        place.log.unlink()
    else:
        place.log.write_bytes(b"".join(place.log.read_bytes().splitlines(keepends=True)[:1]))
    with pytest.raises(PrivacyError, match=r"vault has applied \([01] in the log, 2 in the vault\): erasures.jsonl"):
        place.open()
    with pytest.raises(PrivacyError, match="lacks"):
        vault.erase(vault.subject_of("Zzp-0"), "c-3")
    assert vault.tombstone(vault.subject_of("Zzp-0")) is None


def test_another_vaults_log_is_refused(place: Place, tmp_path: Path) -> None:
    vault, subject = _known(place)
    vault.erase(subject, "c-1")
    other = tmp_path / "other"
    other.mkdir()
    elsewhere, stranger = _known(Place(other))
    elsewhere.erase(stranger, "c-2")
    shutil.copy(other / "erasures.jsonl", place.log)
    with pytest.raises(PrivacyError, match="has other entries than the 1 that"):
        place.open()


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [lines[1]],
        lambda lines: [lines[0].replace(b"c-1", b"c-9"), lines[1]],
        lambda lines: [lines[1], lines[0]],
        lambda lines: [b"{}", lines[1]],
        lambda lines: [b"\xff", lines[1]],
        lambda lines: [lines[0].replace(b'"subject":"', b'"subject":"zz'), lines[1]],
    ],
)
def test_a_log_that_was_changed_is_refused(place: Place, change: Any) -> None:
    vault, subject = _known(place)
    vault.erase(subject, "c-1")
    vault.erase(vault.subject_of("Zzp-2"), "c-2")
    place.log.write_bytes(b"".join(line + b"\n" for line in change(place.log.read_bytes().splitlines())))
    with pytest.raises(PrivacyError, match="Erasure log is damaged"):
        place.open()


def test_a_log_made_with_another_key_is_refused(place: Place) -> None:
    vault, subject = _known(place)
    vault.erase(subject, "c-1")
    with pytest.raises(PrivacyError, match="Erasure log is damaged"):
        place.open(Key("vault", "v1", bytes(32)))


def test_a_line_that_was_cut_off_is_replaced_by_the_next(place: Place) -> None:
    vault, subject = _known(place)
    vault.erase(subject, "c-1")
    with place.log.open("ab") as log:
        log.write(b'{"number":2,"at_us"')
    assert place.open().generation == 1
    vault.erase(vault.subject_of("Zzp-2"), "c-2")
    assert place.open().generation == 2
    assert len(place.log.read_bytes().splitlines()) == 2


def test_a_log_that_cannot_be_written_stops_the_erasure(place: Place) -> None:
    vault, subject = _known(place)
    place.log.mkdir()
    with pytest.raises(LakeError, match="Erasure log cannot be used"):
        vault.erase(subject, "c-1")
    with pytest.raises(LakeError, match="Erasure log cannot be used"):
        place.open()
    assert vault.tombstone(subject) is None
    assert vault.secrets([subject])


def test_a_full_disk_stops_the_erasure(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    vault, subject = _known(place)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ServiceUnavailable, match="Disk is full"):
        vault.erase(subject, "c-1")
    monkeypatch.undo()
    assert vault.tombstone(subject) is None


# -- holds -----------------------------------------------------------------------------------------------------------


def test_a_legal_hold_stops_an_erasure_with_its_reason(place: Place) -> None:
    vault, subject = _known(place)
    vault.hold(subject, "case 17 at court")
    with pytest.raises(PrivacyError, match=r"under a legal hold until it is released \(case 17 at court\)"):
        vault.erase(subject, "c-1")
    with pytest.raises(PrivacyError, match="case 17 at court"):
        vault.begin_erasure(subject, "c-1", ["Zzp-1"])
    assert vault.secrets([subject])
    assert vault.pending_erasures() == []
    assert not place.log.read_bytes()
    assert vault.status().held == 1
    vault.release(subject)
    assert vault.holds(subject) == []
    vault.erase(subject, "c-1")


def test_a_second_hold_leaves_the_first_one_standing_and_each_is_released_by_itself(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one replaced the first: from its end on, the patient could be erased."""
    vault, subject = _known(place)
    ends = datetime(2199, 5, 4, 3, tzinfo=UTC)
    assert vault.hold(subject, "case 100") is None
    assert vault.hold(subject, "case 200", ends) is None
    both = r"under 2 legal holds: until it is released \(case 100\), until 2199-05-04 \(case 200\)"
    with pytest.raises(PrivacyError, match=both):
        place.open().erase(subject, "c-1")
    for reason in (None, "case 300"):
        with pytest.raises(InputError, match=r"\(case 100\), until 2199-05-04 \(case 200\)"):
            vault.release(subject, reason)
    assert len(vault.holds(subject)) == 2
    monkeypatch.setattr(clock, "now_us", lambda: round(ends.timestamp() * 1e6))
    assert vault.on_hold() == [subject]
    assert vault.holds(subject) == [Hold(subject, "case 100", None)]
    with pytest.raises(PrivacyError, match=r"under a legal hold until it is released \(case 100\)"):
        vault.erase(subject, "c-1")
    monkeypatch.undo()
    assert vault.release(subject, "case 100") == [Hold(subject, "case 200", ends)]
    with pytest.raises(PrivacyError, match="case 200"):
        vault.erase(subject, "c-1")
    assert vault.status().held == 1
    assert vault.release(subject) == []
    assert (vault.on_hold(), vault.status().held) == ([], 0)
    with pytest.raises(InputError, match="under no legal hold"):
        vault.release(subject)
    vault.erase(subject, "c-1")


def test_whom_retention_spares_is_whose_last_hold_has_not_ended(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    vault, subject = _known(place)
    first, last = datetime(2199, 5, 4, 3, tzinfo=UTC), datetime(2199, 5, 6, 3, tzinfo=UTC)
    vault.hold(subject, "case 200", last)
    vault.hold(subject, "case 100", first)
    for now, held in ((first, [subject]), (last, [])):
        monkeypatch.setattr(clock, "now_us", lambda now=now: round(now.timestamp() * 1e6))
        assert vault.on_hold() == held


def test_a_hold_that_an_earlier_release_has_set_stands_beside_a_new_one(place: Place) -> None:
    """It kept one hold, with its reason sealed alone."""
    vault, subject = _known(place)
    (secret,) = vault.secrets([subject]).values()
    day_us = round(datetime(2199, 5, 4, tzinfo=UTC).timestamp() * 1e6)
    with vault._store.transaction() as transaction:
        transaction.run(
            "INSERT INTO hold (subject, reason, until_us) VALUES (?, ?, ?)",
            (subject, seal(AESGCM(secret), b"case 100", b"hold", subject), day_us),
        )
    with pytest.raises(PrivacyError, match=r"a legal hold until 2199-05-04 \(case 100\)"):
        vault.erase(subject, "c-1")
    vault.hold(subject, "case 200", datetime(2199, 5, 1, tzinfo=UTC))
    with pytest.raises(PrivacyError, match=r"until 2199-05-04 \(case 100\), until 2199-05-01 \(case 200\)"):
        vault.erase(subject, "c-1")
    assert [hold.reason for hold in vault.release(subject, "case 200")] == ["case 100"]
    assert vault.release(subject) == []


def test_a_hold_ends_at_its_end_and_can_be_changed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    vault, subject = _known(place)
    vault.hold(subject, "case 17")
    until = datetime(2199, 5, 4, 3, 2, 1, 500, tzinfo=UTC)
    assert vault.hold(subject, "case 17", until) == Hold(subject, "case 17", None), "what it was before"
    assert vault.holds(subject) == [Hold(subject, "case 17", until)]
    with pytest.raises(PrivacyError, match=r"under a legal hold until 2199-05-04 \(case 17\)"):
        vault.erase(subject, "c-1")
    assert vault.on_hold() == [subject]
    ends = clock.now() + timedelta(hours=1)
    vault.hold(subject, "case 17", ends)
    monkeypatch.setattr(clock, "now_us", lambda: round(ends.timestamp() * 1e6))
    assert vault.holds(subject) == []
    assert vault.on_hold() == []
    vault.erase(subject, "c-1")
    assert vault.status().held == 0


def test_a_hold_that_would_be_over_already_is_refused(place: Place) -> None:
    """A mistyped year was confirmed, and the patient erased."""
    vault, subject = _known(place)
    vault.hold(subject, "case 17")
    with pytest.raises(InputError, match="over already"):
        vault.hold(subject, "case 18", clock.now() - timedelta(seconds=1))
    assert [hold.reason for hold in vault.holds(subject)] == ["case 17"]


def test_the_last_day_of_a_hold_that_an_earlier_release_has_set_counts(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stored the midnight at which that day begins."""
    vault, subject = _known(place)
    day = (clock.now() + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    vault.hold(subject, "case 17", day)
    last_us = round((day + timedelta(days=1)).timestamp() * 1e6) - 1
    monkeypatch.setattr(clock, "now_us", lambda: last_us)
    assert vault.on_hold() == [subject]
    with pytest.raises(PrivacyError, match=f"until {day:%Y-%m-%d}"):
        vault.erase(subject, "c-1")
    monkeypatch.setattr(clock, "now_us", lambda: last_us + 1)
    assert vault.on_hold() == []


def test_the_log_comes_before_the_hold_of_a_restored_vault(place: Place) -> None:
    vault, subject = _known(place)
    vault.hold(subject, "case 17")
    vault.close()
    place.back_up()
    vault = place.open()
    vault.release(subject)
    vault.erase(subject, "c-1")
    vault.close()
    place.restore()
    vault = place.open()
    assert vault.tombstone(subject) is not None
    assert vault.status().held == 0


# -- pending erasures ----------------------------------------------------------------------------------------


def test_an_erasure_is_pending_until_it_is_finished(place: Place) -> None:
    vault, subject = _known(place)
    vault.begin_erasure(subject, "c-1", ["Zzp-1", TOKEN])
    vault.begin_erasure(subject, "c-1", ["Zzp-1", TOKEN])
    for again in (vault, place.open()):
        (pending,) = again.pending_erasures()
        assert (pending.certificate, pending.subject, pending.destroyed) == ("c-1", subject, True)
        assert pending.identifiers == ("Zzp-1", TOKEN)
        assert "Zz" not in repr(pending)
    sealed = bytes(vault._store.read("SELECT identifiers FROM pending")[0][0])
    assert sealed in place.content()
    assert b"Zzp-" not in place.content()
    assert vault.status().pending == 1
    vault.finish_erasure("c-1")
    vault.finish_erasure("c-1")
    assert vault.pending_erasures() == []
    assert sealed[:32] not in place.content()


def test_a_certificate_is_of_one_patient(place: Place) -> None:
    vault, subject = _known(place)
    vault.begin_erasure(subject, "c-1", ["Zzp-1"])
    other = vault.subject_of("Zzp-2")
    with pytest.raises(PrivacyError, match="another erasure"):
        vault.begin_erasure(other, "c-1", ["Zzp-2"])
    assert vault.tombstone(other) is None


_ERASE = """
vault = place.open()
vault.begin_erasure(vault.subject_of("Zzp-1"), "c-1", ["Zzp-1"])
"""


@pytest.mark.parametrize("point", ["erasure-logged", "erasure-destroyed"])
def test_a_killed_erasure_goes_on(place: Place, point: str) -> None:
    vault, subject = _known(place)
    stored = _stored(vault, subject)
    vault.close()
    ended = run(place, _ERASE, VITALAKE_CRASH_AT=point)
    assert ended == [-signal.SIGKILL]
    vault = place.open()
    assert vault.tombstone(subject) is not None
    assert not any(value in place.content() for value in stored)
    (pending,) = vault.pending_erasures()
    assert pending.destroyed
    vault.begin_erasure(subject, "c-1", pending.identifiers)
    vault.finish_erasure("c-1")
    assert vault._store.read("SELECT scrub FROM vault") == [(0,)]
    assert len(place.log.read_bytes().splitlines()) == 1


def test_an_erasure_killed_before_the_key_is_destroyed_is_pending(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault, subject = _known(place)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(vault._erasures, "erase", die)
    with pytest.raises(KeyboardInterrupt):
        vault.begin_erasure(subject, "c-1", ["Zzp-1"])
    vault = place.open()
    (pending,) = vault.pending_erasures()
    assert not pending.destroyed
    assert vault.secrets([subject])
    vault.begin_erasure(subject, "c-1", pending.identifiers)
    assert vault.pending_erasures()[0].destroyed


def test_who_reads_on_and_on_keeps_the_file_from_being_cleaned_and_that_is_said(
    sqlite_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault, subject = _known(sqlite_place)
    stored = _stored(vault, subject)
    reader = sqlite_place.open()._store._database.connection  # type: ignore[attr-defined]
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM patient").fetchone()
    vault._store._database.connection.execute("PRAGMA busy_timeout=10")  # type: ignore[attr-defined]
    with pytest.raises(ServiceUnavailable, match="Vault refuses"):
        vault.erase(subject, "c-1")
    assert vault.tombstone(subject) is not None
    reader.execute("ROLLBACK")
    vault.erase(subject, "c-1")
    assert not any(value in sqlite_place.content() for value in stored)


def test_keys_of_the_log_and_of_subjects_are_one(place: Place) -> None:
    assert place.open().subject_of("Zzp-1") == place.open(KEY).subject_of("Zzp-1")
