"""The contract of a format: derive a class from ``FormatContract`` for each, and let pytest collect it.

A package that brings a format has a checkout of vitalake on its path for its tests (``PYTHONPATH=vitalake``)::

    from tests.contract.formats import FormatContract

    class TestPairs(FormatContract):
        kind = pairs.FORMAT
        name = "pairs"
        messages = {"observation": (b"pid=4711 t=2025-06-01T10:00:00Z hr=72",)}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.formats.base import FormatKind
from pipelines.formats.lenient.naming import Naming
from pipelines.formats.shared.about import About
from pipelines.formats.shared.named import Named
from pipelines.formats.shared.reasons import UNDECODABLE, Reason
from pipelines.formats.shared.records import MERGED
from pipelines.formats.shared.result import DECODED_SCHEMA, Decoded, Decoder
from vitalake.lake.datasets.declared import load_dataset, published_datasets
from vitalake.settings import Settings, StreamSettings

_SHARED = settings(
    deadline=None, suppress_health_check=[*settings().suppress_health_check, HealthCheck.differing_executors]
)
"""Classes derive from the contract: their tests are the same functions."""

MARKER = b"Zz0000000001zZ"
BROKEN = (b"", b"\0", b"\xff\xfe", b"{", b"[]", b"null", b"MSH|", b"=", MARKER, b'{"resourceType":"Observation"}')


@st.composite
def _damage(draw: st.DrawFn, good: Sequence[bytes]) -> bytes | None:
    """Return any bytes, a tombstone, or a good message of which a piece was replaced: a marker, or any bytes."""
    kind = draw(st.sampled_from(["good", "piece", "piece", "piece", "bytes", "tombstone"]))
    if kind == "tombstone":
        return None
    if kind == "bytes":
        return draw(st.one_of(st.binary(max_size=60), st.sampled_from(BROKEN)))
    message = draw(st.sampled_from(good))
    if kind == "good":
        return message
    at = draw(st.integers(0, len(message)))
    end = min(len(message), at + draw(st.integers(0, 20)))
    return message[:at] + draw(st.one_of(st.just(MARKER), st.binary(max_size=4))) + message[end:]


class FormatContract:
    """What every format must hold to.

    Attributes:
        kind: the format.
        name: as settings write it, with a profile where it needs one.
        messages: dataset → good messages, each of which gives rows, and some patients.
        settings: where its profiles are.
    """

    kind: ClassVar[FormatKind]
    name: ClassVar[str]
    messages: ClassVar[dict[str, tuple[bytes, ...]]]
    settings: ClassVar[Settings] = Settings()

    def _decoder(self, dataset: str, **stream: Any) -> Decoder:
        made = self.kind.decoder(
            self.name.partition(":")[2], load_dataset(dataset), StreamSettings(**stream), self.settings
        )
        assert made is not None, f"it has no rows for {dataset}"
        return made

    def _each(self) -> Iterator[tuple[str, tuple[bytes, ...], Decoder]]:
        assert self.messages, "give messages of at least one dataset"
        for dataset, good in self.messages.items():
            yield dataset, good, self._decoder(dataset)

    def _polls(self, data: st.DataObject) -> Iterator[tuple[Decoder, list[bytes | None]]]:
        for _, good, decoder in self._each():
            yield decoder, data.draw(st.lists(_damage(good), max_size=6))

    def test_it_says_what_it_is(self) -> None:
        assert self.kind.name == self.name.partition(":")[0] and self.kind.description
        assert (":" in self.name) or self.kind.profile != "required"
        for _, _, decoder in self._each():
            said = decoder.name.partition(":")[0]
            assert said == self.kind.name or said.startswith(f"{self.kind.name}-")
            assert decoder.version and "/" not in decoder.name + decoder.version

    def test_for_a_dataset_it_has_a_decoder_or_says_that_there_is_none(self) -> None:
        profile = self.name.partition(":")[2]
        made = {
            name: self.kind.decoder(profile, load_dataset(name), StreamSettings(), self.settings)
            for name in published_datasets()
        }
        assert set(self.messages) <= {name for name, decoder in made.items() if decoder is not None}

    def test_good_messages_give_rows(self) -> None:
        for dataset, good, decoder in self._each():
            decoded = decoder.decode(list(good))
            assert not decoded.rejects
            assert set(decoded.message.tolist()) == set(range(len(good)))
            assert _patients(decoded), f"no message of {dataset} names a patient"

    @_SHARED
    @given(data=st.data())
    def test_of_any_bytes_it_never_fails_and_each_message_has_one_fate(self, data: st.DataObject) -> None:
        for decoder, poll in self._polls(data):
            decoded = decoder.decode(poll)
            _check(decoded, poll)

    @_SHARED
    @given(data=st.data())
    def test_a_poll_gives_what_its_messages_give_alone(self, data: st.DataObject) -> None:
        for decoder, poll in self._polls(data):
            together = _said(decoder.decode(poll), len(poll))
            assert together == [_said(decoder.decode([payload]), 1)[0] for payload in poll]

    def test_a_bad_message_harms_only_itself(self) -> None:
        for _, good, decoder in self._each():
            for bad in (*BROKEN, None):
                poll = [good[0], bad, good[-1]]
                said = _said(decoder.decode(poll), 3)
                assert [said[0], said[2]] == [_said(decoder.decode([one]), 1)[0] for one in (good[0], good[-1])]

    def test_tombstones_are_counted(self) -> None:
        for _, good, decoder in self._each():
            assert decoder.decode([None, good[0], None]).tombstones == [0, 2]
            assert decoder.decode([]).tombstones == []

    def test_what_is_too_large_is_refused_unread(self) -> None:
        for dataset, good, _ in self._each():
            most = max(1_000, max(map(len, good)))
            decoder = self._decoder(dataset, max_message_bytes=most)
            large = good[0] + MARKER * most
            decoded = decoder.decode([good[0], large, b"\xff" * (most + 1), good[-1]])
            assert [(r.message, r.reason, r.path) for r in decoded.rejects] == [
                (1, Reason.TOO_LARGE, ""),
                (2, Reason.TOO_LARGE, ""),
            ]

    @_SHARED
    @given(data=st.data())
    def test_reasons_and_paths_hold_nothing_of_the_message(self, data: st.DataObject) -> None:
        for decoder, poll in self._polls(data):
            for reject in decoder.decode(poll).rejects:
                assert reject.reason in UNDECODABLE and reject.rows == 0
                assert MARKER.decode()[1:-1] not in reject.path and reject.path.isprintable()

    def test_no_value_of_a_message_stands_in_a_path(self) -> None:
        for _, good, decoder in self._each():
            for message in good:
                for at in range(len(message) + 1):
                    for damaged in (message[:at] + MARKER + message[at:], message[:at] + MARKER + message[at + 1 :]):
                        paths = [reject.path for reject in decoder.decode([damaged]).rejects]
                        assert not [path for path in paths if MARKER.decode()[1:-1] in path]

    @_SHARED
    @given(data=st.data())
    def test_an_erasure_finds_every_patient_whom_a_row_names(self, data: st.DataObject) -> None:
        naming = Naming(self.settings)
        for decoder, poll in self._polls(data):
            for payload in poll:
                patients = _patients(decoder.decode([payload]))
                if payload is not None:
                    for name in (self.name, f"{decoder.name}/{decoder.version}"):
                        assert patients <= (naming.named_in(payload, name) or set())

    def test_the_stays_and_devices_of_good_messages_are_found(self) -> None:
        naming = Naming(self.settings)
        for _, good, decoder in self._each():
            for payload in good:
                rows = decoder.decode([payload]).rows.to_pylist()
                devices = {row["device_id"] for row in rows if row.get("device_id")}
                devices -= {device for device in devices if device.startswith(MERGED)}
                stays = {row["encounter_id"] for row in rows if row.get("encounter_id")}
                assert devices <= naming.devices_in(payload, self.name)
                assert stays <= naming.stays_in(payload, self.name)

    @_SHARED
    @given(data=st.data())
    def test_the_lenient_side_never_fails_and_says_what_it_should(self, data: st.DataObject) -> None:
        lenient = self.kind.lenient(self.name.partition(":")[2], self.settings)
        for _, poll in self._polls(data):
            for payload in filter(None, poll):
                assert isinstance(lenient.whose(payload), Named | None)
                assert isinstance(lenient.about(payload), About | None)
                assert all(isinstance(name, str) for name in lenient.stays(payload) | lenient.devices(payload))


def _patients(decoded: Decoded) -> set[str]:
    """Return the patients of rows, those of merges too."""
    rows = decoded.rows.to_pylist()
    devices = [str(row.get("device_id") or "") for row in rows]
    given_up = {device.removeprefix(MERGED) for device in devices if device.startswith(MERGED)}
    return given_up | {row["patient_id"] for row in rows if row.get("patient_id")}


def _check(decoded: Decoded, poll: Sequence[bytes | None]) -> None:
    """Hold that each message is rows, a reject, empty or a tombstone, and that the parts fit together."""
    of = decoded.message.tolist()
    assert of == sorted(of) and len(of) == decoded.rows.num_rows == len(decoded.identities)
    fates = [*set(of), *(r.message for r in decoded.rejects), *decoded.empty, *decoded.tombstones]
    assert sorted(fates) == list(range(len(poll)))
    assert decoded.tombstones == [i for i, payload in enumerate(poll) if payload is None]
    assert decoded.unfinished or decoded.rows.schema.names == DECODED_SCHEMA.names
    decoded.rows.validate(full=True)


def _said(decoded: Decoded, count: int) -> list[Any]:
    """Return what was made of each message of a poll."""
    said: list[Any] = [[] for _ in range(count)]
    rows = decoded.rows.to_pylist()
    names = sorted({name for row in rows for name in row})
    for i, row, identity in zip(decoded.message.tolist(), rows, decoded.identities, strict=True):
        said[i].append((str([(name, row[name]) for name in names if row[name] is not None]), identity))
    for reject in decoded.rejects:
        said[reject.message].append((reject.reason, reject.path))
    for i in decoded.empty:
        said[i].append("empty")
    for i in decoded.tombstones:
        said[i].append("tombstone")
    return said
