"""Decodes FHIR R4 Observations, alone or in a Bundle, with msgspec types; strict, and each message by itself.

Units stay as they came: ``pipelines/formats/shared/conform.py`` converts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import compress

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.formats.fhir.elements import (
    code_of,
    device_of,
    encounter_of,
    is_of_another,
    quantity_of,
    subject_of,
    version_of,
)
from pipelines.formats.fhir.gathering import Gathered, flags
from pipelines.formats.fhir.paths import PreciseReasons, fhir_path, reason_of
from pipelines.formats.fhir.raw import RawElement
from pipelines.formats.fhir.structs import STATUSES, Bundle, Observation, SkippedResource, with_skipped
from pipelines.formats.fhir.values import value_columns
from pipelines.formats.shared.encoded import Encoded, dictionary
from pipelines.formats.shared.parsing import JsonMessages, collector_paused
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.refusals import Refusals, whole_messages
from pipelines.formats.shared.result import Decoded, Reject
from pipelines.formats.shared.times import Times, parse_times
from vitalake.vocabulary import load_vocabulary

_STATUS_INDEX = {status: i for i, status in enumerate(STATUSES)}


class FhirDecoder:
    """Decodes FHIR R4 JSON to rows of ``observation``."""

    name = "fhir-r4"
    version = "1"

    def __init__(self, *, max_message_bytes: int = 1_048_576, precise: bool = True) -> None:
        """Make a decoder; not to be shared between threads.

        Args:
            max_message_bytes: longer messages are rejected unread.
            precise: ask fhir.resources, if it is installed, for the exact path of a reject.
        """
        self._messages: JsonMessages[Observation | Bundle | SkippedResource] = JsonMessages(
            msgspec.json.Decoder(with_skipped(Observation) | Bundle).decode,
            max_message_bytes=max_message_bytes,
            refused=lambda error: (reason_of(error), fhir_path(str(error))),
        )
        self._precise = PreciseReasons() if precise else None
        self._code = RawElement(partial(code_of, vocabulary=load_vocabulary()), "Observation.code")
        self._panel_code = RawElement(code_of, "Observation.code")  # a panel's code is part of its identity only
        self._subject = RawElement(subject_of, "Observation.subject")
        self._encounter = RawElement(encounter_of, "Observation.encounter")
        self._device = RawElement(device_of, "Observation.device")
        self._quantity = RawElement(quantity_of, "Observation.valueQuantity")
        self._meta = RawElement(version_of, "Observation.meta")

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Return rows and rejects; never raises for what a message holds."""
        with collector_paused():
            rejects: dict[int, Reject] = {}
            tombstones = [i for i, value in enumerate(values) if value is None] if None in values else []
            empty: list[int] = []
            others: list[int] = []
            gathered = Gathered()
            for resources, message in self._messages.parse(values, rejects):
                gathered.take(*_of_subjects(*_unbundle(resources, message, rejects, empty), rejects, others))
            decoded = self._columns(gathered, rejects)
            decoded.tombstones.extend(tombstones)
            decoded.empty.extend(empty)
            decoded.of_others.extend(i for i in others if i not in rejects)
            decoded.rejects.extend(self._explained(rejects, values))
            return decoded

    def _explained(self, rejects: dict[int, Reject], values: Sequence[bytes | None]) -> list[Reject]:
        ordered = [rejects[i] for i in sorted(rejects)]
        return self._precise.explain(ordered, values) if self._precise else ordered

    # -- columns -------------------------------------------------------------------------------------------------

    def _columns(self, gathered: Gathered, rejects: dict[int, Reject]) -> Decoded:
        """Make columns of the gathered elements, without messages of which any part was refused."""
        message = np.array(gathered.message, np.int32)
        item_of = np.array(gathered.observation, np.int32)
        whole = Refusals(message, rejects)
        items = Refusals(message[item_of], rejects)
        subject = self._subject.encode(gathered.subjects)
        encounter, device = self._encounter.encode(gathered.encounters), self._device.encode(gathered.devices)
        meta = self._meta.encode(gathered.metas)
        # A message that names only a device is given a patient later, by the rows of device_association.
        whole.mark((subject.index < 0) & (device.index < 0), Reason.NO_SUBJECT, "Observation.subject")
        for column in (subject, encounter, device, meta):
            whole.of(column)
        effective, issued = _times(gathered, whole)
        _check_identities(gathered.identities, whole)
        whole.mark(flags(len(message), gathered.modified), Reason.MODIFIED, "Observation.modifierExtension")
        codes, quantities = self._code.encode(gathered.codes), self._quantity.encode(gathered.quantities)
        items.mark(codes.index < 0, Reason.NO_CODE, "Observation.code")
        items.of(codes)
        items.of(quantities)
        modified = flags(len(item_of), gathered.modified_items)
        items.mark(modified, Reason.MODIFIED, "Observation.component.modifierExtension")
        statuses = np.array(list(map(_STATUS_INDEX.__getitem__, gathered.statuses)), np.int32)
        columns = {
            "version": pa.array(_versions(meta)[item_of]),
            "patient_id": dictionary(subject.index[item_of], subject.values),
            "encounter_id": dictionary(encounter.index[item_of], encounter.values),
            "device_id": dictionary(device.index[item_of], device.values),
            "code": codes.strings(),
            "panel_code": self._panels(gathered, items),
            "status": dictionary(statuses[item_of], STATUSES),
            **_time_columns(effective, issued, item_of),
            **value_columns(quantities, gathered.others, statuses[item_of], items.refuse),
        }
        identities = gathered.identities
        if gathered.has_panels:
            identities = [identities[i] for i in gathered.observation]
        return whole_messages(columns, identities, message[item_of], rejects)

    def _panels(self, gathered: Gathered, items: Refusals) -> pa.DictionaryArray:
        if not gathered.has_panels:
            return dictionary(np.full(len(gathered.codes), -1, np.int32), [])
        column = self._panel_code.encode(gathered.panel_codes)
        nameless = np.array([text == b"null" for text in gathered.panel_codes], np.bool_)
        items.mark(nameless, Reason.NO_CODE, "Observation.code")
        items.of(column)
        return column.strings()


def _unbundle(
    resources: list[Observation | Bundle | SkippedResource],
    message: list[int],
    rejects: dict[int, Reject],
    empty: list[int],
) -> tuple[list[Observation], list[int]]:
    """Return all Observations and the message of each; add messages of only other resources to ``empty``."""
    if set(map(type, resources)) <= {Observation}:
        return resources, message  # type: ignore[return-value]
    observations: list[Observation] = []
    owner: list[int] = []
    for i, resource in zip(message, resources, strict=True):
        if isinstance(resource, Observation):
            observations.append(resource)
            owner.append(i)
        elif isinstance(resource, SkippedResource):
            empty.append(i)
        elif resource.implicitRules is not None:
            rejects[i] = Reject(i, Reason.MODIFIED, "Bundle.implicitRules")
        elif not resource.entry:
            rejects[i] = Reject(i, Reason.NO_VALUE, "Bundle.entry")
        else:
            wanted = [entry for entry in resource.entry if isinstance(entry.resource, Observation)]
            if b"".join([entry.modifierExtension for entry in wanted]):
                rejects[i] = Reject(i, Reason.MODIFIED, "Bundle.entry.modifierExtension")
                continue
            found = [entry.resource for entry in wanted]
            observations += found
            owner += [i] * len(found)
            if not found:
                empty.append(i)
    return observations, owner


def _of_subjects(
    observations: list[Observation], message: list[int], rejects: dict[int, Reject], others: list[int]
) -> tuple[list[Observation], list[int]]:
    """Return the Observations that are about their subject; one of a fetus, for example, is not about the mother.

    Args:
        observations: the Observations of all messages.
        message: per Observation, the index of its message.
        rejects: by message; messages without any such Observation are added.
        others: the message of each Observation that is left out is added.
    """
    if not b"".join([o.focus for o in observations]):
        return observations, message
    own = [not is_of_another(bytes(o.focus), bytes(o.subject)) for o in observations]
    kept = [*compress(message, own)]
    others += compress(message, [not one for one in own])
    for i in set(message).difference(kept):
        rejects[i] = Reject(i, Reason.NO_SUBJECT, "Observation.focus")
    return [*compress(observations, own)], kept


def _times(gathered: Gathered, refusals: Refusals) -> tuple[Times, Times]:
    effective = parse_times(gathered.moments)
    # Fast path: monitors write the same time into effective and issued.
    issued = effective if gathered.issues == gathered.moments else parse_times(gathered.issues)
    refusals.mark(effective.absent, Reason.NO_TIME, "Observation.effective[x]")
    refusals.mark(effective.bad, Reason.BAD_TIME, "Observation.effective[x]")
    refusals.mark(issued.bad, Reason.BAD_TIME, "Observation.issued")
    return effective, issued


def _check_identities(identities: list[bytes | None], refusals: Refusals) -> None:
    if b"\0" in b"".join(filter(None, identities)):
        bad = np.array([b"\0" in (identity or b"") for identity in identities], np.bool_)
        refusals.mark(bad, Reason.CONTROL_CHARACTER, "Observation.identifier")


def _versions(meta: Encoded[int]) -> npt.NDArray[np.int64]:
    versions = np.array([*(v or 0 for v in meta.values), 0], np.int64)  # the last one is for the index -1
    return versions[meta.index]


def _time_columns(effective: Times, issued: Times, item_of: npt.NDArray[np.int32]) -> dict[str, pa.Array]:
    kind = pa.timestamp("us", "UTC")
    absent = issued.absent[item_of]
    return {
        "effective_at": pa.array(effective.us[item_of]).cast(kind),
        "effective_offset_minutes": pa.array(effective.offset_minutes[item_of]),
        "issued_at": pa.array(issued.us[item_of], mask=absent if absent.any() else None).cast(kind),
    }
