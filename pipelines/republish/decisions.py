"""Restores clinicians' decisions, from the audit, in a online store that was filled again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import cast

import pyarrow as pa

from governance.audit import anchor_folder, verify_chain
from governance.audit.listing import read_all
from governance.audit.records import Record, Seals
from governance.policy.masks import Pseudonyms
from pipelines.online_store.facts import REASONS, Decision, DecisionKind
from pipelines.online_store.store import OnlineStore
from vitalake.errors import VitaLakeError
from vitalake.keys import KeyRing
from vitalake.settings import Settings

_FIRST = "v1"


class Ends:
    """When stays ended or can have ended, by the last versions of all rows; the online store has no old stays."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, object], tuple[int, int | None, bool]] = {}

    def note(self, dataset: str, rows: pa.Table) -> None:
        """Note identified rows of stays and of beds; a patient who left a bed can have left the stay too."""
        names = {"encounter": ("encounter_id", "discharged_at"), "device_association": ("association_id", "valid_from")}
        if dataset not in names:
            return
        key, at = names[dataset]
        begun = rows["admitted_at" if dataset == "encounter" else at].cast(pa.int64())
        columns = [rows[name].to_pylist() for name in ("patient_id", key, "version")]
        ended = rows["status"].to_pylist() if "status" in rows.schema.names else ["ended"] * rows.num_rows
        times = zip(begun.to_pylist(), rows[at].cast(pa.int64()).to_pylist(), ended, strict=True)
        for patient, name, version, (begin, end, status) in zip(*columns, times, strict=True):
            if version >= self._last.get((patient, name), (version, None, False))[0]:
                is_end = status == "ended" and end is not None and end >= (begin or 0)
                self._last[patient, name] = version, end if is_end else None, dataset == "encounter"

    def by_patient(self) -> dict[str, list[tuple[int, bool]]]:
        """Return for each patient the times of the ends, and whether each is the end of a stay for certain."""
        ends: dict[str, list[tuple[int, bool]]] = {}
        for (patient, _), (_, end, is_sure) in self._last.items():
            if end is not None:
                ends.setdefault(patient, []).append((end, is_sure))
        return ends


def restore_decisions(
    settings: Settings,
    keys: KeyRing,
    care: OnlineStore,
    patients: Iterable[str],
    had: Iterable[tuple[str, Decision]],
    ends: Ends,
) -> bool:
    """Store the decisions about patients again; return whether it is certain that none is missing.

    Decisions that the store had before, also under an older pseudonym, are taken over with their stay. The audit names
    a patient by a digest of the pseudonym of that time, so each patient's digests are made under every version of the
    key that still exists. A decision of the audit belongs to the stay that was open at that time. If none is known, it
    belongs to the stay that began since, within the hours that the store keeps, unless another stay has ended between.
    A later decision that the store already has stays.

    The result is False if the audit is broken or cannot be read, and then nothing of it is stored. It is also False if
    the audit names a patient under a retired version of the key, or a patient of whom it is unknown whether the stay is
    still the same.

    Args:
        settings: of the home.
        keys: with all versions of the keys ``pseudonym`` and ``audit``.
        care: the store, with its stays.
        patients: by their source ids.
        had: the decisions, by pseudonym, that the store had before it was emptied and filled.
        ends: of the stays in the lake, including those that the store lacks.

    Raises:
        ServiceUnavailable: the store cannot be written.
    """
    known = {then: care.survivor(now) for then, now in _pseudonyms(keys, patients)}
    now, ended = Pseudonyms(keys, "patient-identifier"), dict[str, list[tuple[int, bool]]]()
    for person, several in ends.by_patient().items():
        ended.setdefault(care.survivor(now.token(person)), []).extend(several)
    for then, one in had:
        if then == known.get(then) or (then in known and not one.encounter):
            care.put_facts([(known[then], one.kind, one.at_us, one)])
        elif then in known:
            _put(care, known[then], one, ended.get(known[then], ()))
    stored_at = {(patient, one.kind): one.at_us for patient, one in care.facts.decided()}
    folder, seals = settings.path(settings.audit), Seals(keys)
    try:
        if not verify_chain(folder, keys, outside=anchor_folder(settings)).whole:
            return False
        records = [record for _, record in read_all(folder, keys) if record.action == "decision.write"]
    except (VitaLakeError, OSError):
        return False
    by_digest = {digest: now for then, now in known.items() for digest in seals.patients(then)} if records else {}
    whole, retired = True, keys.versions("pseudonym")[0].version != _FIRST
    for record in sorted(records, key=lambda record: record.at):
        patient = by_digest.get(record.patients[0]) if len(record.patients) == 1 else None
        whole &= patient is not None or not retired
        decision = _decision(record)
        if patient is not None and decision and decision.at_us > stored_at.get((patient, decision.kind), -1):
            whole &= _put(care, patient, decision, ended.get(patient, ()))
    return whole


def _pseudonyms(keys: KeyRing, patients: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each patient's pseudonym under every version of the key, with the current one."""
    now = Pseudonyms(keys, "patient-identifier")
    versions = [key.version for key in keys.versions("pseudonym")]
    rings = [replace(keys, current_versions={**keys.current_versions, "pseudonym": version}) for version in versions]
    then = [Pseudonyms(ring, "patient-identifier") for ring in rings]
    for patient in patients:
        token = now.token(patient)
        yield from ((pseudonyms.token(patient), token) for pseudonyms in then)


def _put(care: OnlineStore, patient: str, one: Decision, ends: Iterable[tuple[int, bool]]) -> bool:
    """Store a decision for the stay of its time; return whether it is certain that it applies, or has lapsed."""
    replay = care.time.replay()
    at_us = replay.at(one.at_us) if replay else one.at_us
    stay = care.facts.stay(patient, as_of_us=at_us)
    if stay is not None and at_us < care.time.horizon_us() and care.facts.is_visit(patient, stay.encounter):
        return False  # the store no longer knows in which stay of the visit it was made, and whether that has ended
    if at_us < care.time.horizon_us() and (stay is None or stay.discharged_us is not None):
        since = care.facts.stay(patient, as_of_us=care.time.now_us())
        if since is None:
            return not care.patients.has(patient)
        between = [is_sure for end_us, is_sure in ends if at_us <= end_us <= since.admitted_us]
        if stay is not None or any(between):
            return True
        if between or since.admitted_us - at_us > care.time.now_us() - care.time.horizon_us():
            return False
    one = Decision(one.kind, one.holds, stay.encounter if stay else "", one.by, one.at_us, one.reason)
    care.put_facts([(patient, one.kind, one.at_us, one)])
    return True


def _decision(record: Record) -> Decision | None:
    """Return the decision of a record; None: of a kind or reason that this release does not know."""
    kind, reason = record.detail.get("kind", ""), record.detail.get("reason", "")
    if reason not in REASONS.get(cast(DecisionKind, kind), {}):
        return None
    return Decision(cast(DecisionKind, kind), record.detail.get("holds") == "yes", "", record.actor, record.at, reason)
