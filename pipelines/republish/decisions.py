"""What clinicians have decided, told to a care store that was filled again: the audit has it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import cast

import pyarrow as pa

from governance.audit import anchor_folder, verify_chain
from governance.audit.reading import read_all
from governance.audit.records import Record, Seals
from governance.policy.masks import Pseudonyms
from pipelines.online_store.facts import REASONS, Decision, DecisionKind
from pipelines.online_store.store import OnlineStore
from vitalake.errors import VitaLakeError
from vitalake.keys import KeyRing
from vitalake.settings import Settings

_FIRST = "v1"


class Ends:
    """When stays ended, or may have ended, by the last versions of all rows: a filling leaves out what is long over."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, object], tuple[int, int | None, bool]] = {}

    def note(self, dataset: str, rows: pa.Table) -> None:
        """Take identified rows of stays and of beds; whoever left a bed may have left the stay, too."""
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
        """Return of each patient the ends, and of each whether it is one for sure."""
        found: dict[str, list[tuple[int, bool]]] = {}
        for (patient, _), (_, end, is_sure) in self._last.items():
            if end is not None:
                found.setdefault(patient, []).append((end, is_sure))
        return found


def restore_decisions(
    settings: Settings,
    keys: KeyRing,
    care: OnlineStore,
    patients: Iterable[str],
    had: Iterable[tuple[str, Decision]],
    ends: Ends,
) -> bool:
    """Store again what was decided of patients; return whether none of it can be missing.

    The audit names a patient by a digest of the pseudonym of that time, so that each patient's is made under every
    version of the key that is still there; what the store itself had, also under an older one, is taken over with its
    stay. For the audit's the stay is the one that was open then; what was said when none is known to have been is of
    the one that began since, within the hours that the store keeps, if no other has ended between. A later decision
    that the store has stays. False: the audit does not hold or cannot be read, and nothing of it is stored; or it tells
    of a patient under a version of the key that was retired, or of one for whom nobody can say whether the stay is
    still the same.

    Args:
        settings: of the home.
        keys: with all versions of the keys ``pseudonym`` and ``audit``.
        care: the store, its stays filled.
        patients: by their source ids.
        had: what the store had before it was filled, by pseudonym: a filling empties it first.
        ends: of the stays that the lake knows, those among them that the filling has left out.

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
    kept = {(patient, one.kind): one.at_us for patient, one in care.decided()}
    folder, seals = settings.path(settings.audit), Seals(keys)
    try:
        if not verify_chain(folder, keys, outside=anchor_folder(settings)).whole:
            return False
        made = [record for _, record in read_all(folder, keys) if record.action == "decision.write"]
    except (VitaLakeError, OSError):
        return False
    by_digest = {digest: now for then, now in known.items() for digest in seals.patients(then)} if made else {}
    whole, retired = True, keys.versions("pseudonym")[0].version != _FIRST
    for record in sorted(made, key=lambda record: record.at):
        patient = by_digest.get(record.patients[0]) if len(record.patients) == 1 else None
        whole &= patient is not None or not retired
        told = _decision(record)
        if patient is not None and told and told.at_us > kept.get((patient, told.kind), -1):
            whole &= _put(care, patient, told, ended.get(patient, ()))
    return whole


def _pseudonyms(keys: KeyRing, patients: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each patient's pseudonym under every version of the key, with the one of now."""
    now = Pseudonyms(keys, "patient-identifier")
    versions = [key.version for key in keys.versions("pseudonym")]
    rings = [replace(keys, current_versions={**keys.current_versions, "pseudonym": version}) for version in versions]
    then = [Pseudonyms(ring, "patient-identifier") for ring in rings]
    for patient in patients:
        token = now.token(patient)
        yield from ((pseudonyms.token(patient), token) for pseudonyms in then)


def _put(care: OnlineStore, patient: str, one: Decision, ends: Iterable[tuple[int, bool]]) -> bool:
    """Store a decision for the stay of its time; return whether it is known that it holds, or that it has lapsed."""
    replay = care.replay()
    at_us = replay.at(one.at_us) if replay else one.at_us
    stay = care.stay(patient, as_of_us=at_us)
    if stay is not None and at_us < care.horizon_us() and care.is_visit(patient, stay.encounter):
        return False  # in which stay within the visit it was made, and whether that has ended, is forgotten
    if at_us < care.horizon_us() and (stay is None or stay.discharged_us is not None):
        since = care.stay(patient, as_of_us=care.now_us())
        if since is None:
            return not care.has(patient)
        between = [is_sure for end_us, is_sure in ends if at_us <= end_us <= since.admitted_us]
        if stay is not None or any(between):
            return True
        if between or since.admitted_us - at_us > care.now_us() - care.horizon_us():
            return False
    one = Decision(one.kind, one.holds, stay.encounter if stay else "", one.by, one.at_us, one.reason)
    care.put_facts([(patient, one.kind, one.at_us, one)])
    return True


def _decision(record: Record) -> Decision | None:
    """Return what a record says was decided; None: nothing that this release knows."""
    kind, reason = record.detail.get("kind", ""), record.detail.get("reason", "")
    if reason not in REASONS.get(cast(DecisionKind, kind), {}):
        return None
    return Decision(cast(DecisionKind, kind), record.detail.get("holds") == "yes", "", record.actor, record.at, reason)
