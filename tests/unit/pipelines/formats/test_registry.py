"""Packages register formats: an unusable one is refused by name, and the contract finds a decoder's faults."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar

import pytest

from pipelines.erasure.quarantine_store import Search
from pipelines.formats import registry
from pipelines.formats.base import FormatKind, Lenient
from pipelines.formats.lenient.naming import Naming
from pipelines.formats.lenient.unread import about
from pipelines.formats.shared.about import About
from pipelines.formats.shared.encoded import Refused
from pipelines.formats.shared.named import Named
from pipelines.formats.shared.one_by_one import Measured, OneByOne
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.result import Decoded, Decoder, Reject
from tests.contract.formats import FormatContract
from tests.decoding import decoder_of
from vitalake import plugins
from vitalake.errors import SettingsError
from vitalake.lake.datasets.dataset import Dataset
from vitalake.settings import Settings, StreamSettings

AT = datetime(2025, 6, 1, 10, tzinfo=UTC)
GOOD = b"4711 72"


def _read(payload: bytes) -> list[Measured]:
    patient, value = payload.decode().split(" ")
    return [Measured(patient_id=f"W|{patient}", effective_at=AT, code="8867-4", value=float(value), unit="/min")]


class Words(Lenient):
    """Reads the first word of a message as its patient."""

    def whose(self, payload: bytes) -> Named | None:
        return Named({f"W|{payload.decode(errors='replace').split(' ')[0]}"})


def _kind(
    decoder: Callable[[StreamSettings], Decoder] | None = None, lenient: type[Lenient] = Words, **changes: Any
) -> FormatKind:
    def plain(stream: StreamSettings) -> Decoder:
        return OneByOne("words", "1", _read, max_message_bytes=stream.max_message_bytes)

    def make(_profile: str, dataset: Dataset, stream: StreamSettings, _settings: Settings) -> Decoder | None:
        return (decoder or plain)(stream) if dataset.measures else None

    told: dict[str, Any] = {
        "name": "words",
        "description": "x",
        "decoder": make,
        "lenient": lambda _profile, _settings: lenient(),
    }
    return FormatKind(**told | changes)


BAD: Any = _kind()
"""The objects that the entry points of these tests load."""


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    ours = list(entry_points(group=registry.GROUP))

    def put(kind: Any, *names: str) -> None:
        more = [EntryPoint(name, f"{__name__}:BAD", registry.GROUP) for name in names or ("words",)]
        monkeypatch.setattr(plugins, "entry_points", lambda *, group: [*ours, *more])
        monkeypatch.setattr(f"{__name__}.BAD", kind)
        registry.format_kind.cache_clear()

    yield put
    registry.format_kind.cache_clear()


@pytest.mark.parametrize(
    ("kind", "names", "said"),
    [
        ("no format", ("words",), "is not a FormatKind"),
        (_kind(name="other"), ("words",), "another name than its entry point"),
        (_kind(), ("words", "words"), "under one name"),
        (_kind(), ("fhir",), "under one name"),
        (_kind(), ("sql",), "a name that is reserved for built-in formats"),
        (_kind(), ("hl7-v2-adt",), "a name that is reserved for built-in formats"),
    ],
)
def test_a_format_that_is_none_is_refused_and_named(
    register: Callable[..., None], kind: Any, names: tuple[str, ...], said: str
) -> None:
    register(kind, *names)
    with pytest.raises(SettingsError, match=rf"{said}.*entry point vitalake\.formats: {names[0]} = "):
        decoder_of(names[0])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("fhir", "fhir"), ("fhir-r4-observation", "fhir"), ("hl7-v2-adt:hl7", "hl7-v2"), ("flat:x", "flat")],
)
def test_a_decoder_s_name_says_its_format(name: str, kind: str) -> None:
    assert registry.kind_of(name).name == kind


def test_a_stream_imports_no_format_that_it_does_not_use() -> None:
    code = """
import sys
import pipelines.live.lane
from pipelines.formats.registry import make_decoder
from vitalake.settings import Settings, StreamSettings
make_decoder("fhir", dataset="observation", stream=StreamSettings(), settings=Settings())
print(*sorted({"hl7", "pipelines.formats.flat.decoder", "pipelines.formats.hl7.observations"} & sys.modules.keys()))
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


# -- the lenient side --------------------------------------------------------------------------------------------


def test_whom_a_format_finds_is_found_in_what_only_it_can_take_apart(register: Callable[..., None]) -> None:
    register(_kind())
    naming = Naming(Settings())
    assert naming.named_in(GOOD, "words") == naming.named_in(GOOD, "words/1") == {"W|4711"}
    assert naming.named_in(GOOD, "fhir") is None
    assert naming.named_in(b'{"subject": {"reference": "Patient/7"}}', "words") == {'W|{"subject":', "7"}


def test_a_format_that_finds_nobody_or_fails_leaves_a_message_to_be_searched_as_text(
    register: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    class Blind(Lenient):
        def whose(self, payload: bytes) -> Named | None:
            return Named()

    class Failing(Lenient):
        def whose(self, payload: bytes) -> Named | None:
            raise ValueError("Zzmarker")

        stays = devices = about = whose  # type: ignore[assignment]

    for lenient in (Blind, Failing):
        register(_kind(lenient=lenient))
        naming = Naming(Settings())
        assert naming.whose(b"pid=47 x", "words") is None
        assert Search(["47"], None, settings=Settings()).names(b"pid=47 x", ["words"])  # type: ignore[arg-type]
    assert naming.stays_in(GOOD, "words") == naming.devices_in(GOOD, "words") == set()
    assert about(GOOD, "words", naming) == About({}, unnamed=True)
    assert "Zzmarker" not in caplog.text
    assert [record.getMessage() for record in caplog.records] == ["lenient reader failed"] * 2, "once for each reader"


# -- one message at a time ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason", "path"),
    [
        ({"patient_id": None}, Reason.NO_SUBJECT, "patient_id"),
        ({"code": ""}, Reason.NO_CODE, "code"),
        ({"code": None}, Reason.NO_CODE, "code"),
        ({"value": None}, Reason.NO_VALUE, "value"),
        ({"value": float("nan")}, Reason.WRONG_SHAPE, "value"),
        ({"value": 10**400}, Reason.WRONG_SHAPE, ""),
        ({"value": "72"}, Reason.WRONG_SHAPE, ""),
        ({"status": "odd"}, Reason.BAD_STATUS, "status"),
        ({"comparator": "~"}, Reason.WRONG_SHAPE, "comparator"),
        ({"version": 1 << 63}, Reason.WRONG_SHAPE, "version"),
        ({"identity": "7"}, Reason.WRONG_SHAPE, "identity"),
        ({"effective_at": AT.replace(tzinfo=None)}, Reason.BAD_TIME, "effective_at"),
        ({"effective_at": None}, Reason.WRONG_SHAPE, ""),
        ({"patient_id": "a\0"}, Reason.CONTROL_CHARACTER, "patient_id"),
        ({"patient_id": "\ud800"}, Reason.WRONG_SHAPE, ""),
        ({"patient_id": 4711}, Reason.WRONG_SHAPE, ""),
        ({"value": 1 << 60}, None, ""),
    ],
)
def test_what_is_no_row_is_refused_with_its_column(changes: dict[str, Any], reason: Reason | None, path: str) -> None:
    row: dict[str, Any] = {"patient_id": "p", "effective_at": AT, "code": "8867-4", "value": 72.0} | changes
    decoder = OneByOne("words", "1", lambda _: [Measured(**row)], max_message_bytes=1_000)
    decoded = decoder.decode([b"x"])
    assert [(r.reason, r.path) for r in decoded.rejects] == ([] if reason is None else [(reason, path)])


# -- a decoder of another package is fenced -----------------------------------------------------------------------


class _Faulty(OneByOne):
    """A decoder that fails, in one way, at messages that begin with a word."""

    def __init__(self, fault: str) -> None:
        super().__init__("words", "1", _read, max_message_bytes=1_000)
        self._fault = fault

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        decoded = super().decode(values)
        if not any(value and value.startswith(b"Zz") for value in values):
            return decoded
        if self._fault == "raises":
            raise ValueError(f"cannot read {values!r}")
        if self._fault == "loses rejects":
            decoded.rejects.clear()
        if self._fault == "columns":
            return replace(decoded, rows=decoded.rows.select(["patient_id", "code"]))
        if self._fault == "rows":
            return replace(decoded, identities=[*decoded.identities, None])
        if self._fault == "reason":
            decoded.rejects[:] = [Reject(r.message, Reason.UNKNOWN_CODE, "x", 1) for r in decoded.rejects]
        if self._fault == "tombstones" and decoded.tombstones:
            decoded.empty.append(decoded.tombstones.pop())
        return decoded


@pytest.mark.parametrize("fault", ["raises", "loses rejects", "columns", "rows", "reason"])
def test_a_message_at_which_a_package_s_decoder_fails_is_a_dead_letter_and_the_others_are_read(
    register: Callable[..., None], caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    register(_kind(lambda _: _Faulty(fault)))
    decoder = decoder_of("words")
    assert (decoder.name, decoder.version) == ("words", "1")
    poll = [GOOD, None, b"0815 x", b"Zzname 555 x", b"0816 80", None, b"0817 81"]
    decoded = decoder.decode(poll)
    assert [(r.message, r.reason, r.path) for r in decoded.rejects] == [
        (2, Reason.WRONG_SHAPE, ""),
        (3, Reason.DECODER_FAILED, "words"),
    ]
    assert decoded.tombstones == [1, 5]
    assert decoded.message.tolist() == [0, 4, 6]
    assert decoded.rows["value"].to_pylist() == [72.0, 80.0, 81.0]
    assert [record.getMessage() for record in caplog.records] == ["decoder failed"], "once for each fault"
    assert not [word for word in ("Zz", "555", "0815") if word in str([vars(r) for r in caplog.records])]


def test_a_poll_that_fails_only_as_a_whole_is_refused_as_a_whole(register: Callable[..., None]) -> None:
    register(_kind(lambda _: _Faulty("tombstones")))
    decoded = decoder_of("words").decode([GOOD, b"Zzname 5", None])
    assert [(r.message, r.reason) for r in decoded.rejects] == [(0, Reason.DECODER_FAILED), (1, Reason.DECODER_FAILED)]
    assert (decoded.tombstones, decoded.rows.num_rows) == ([2], 0)


# -- the contract finds what breaks it ---------------------------------------------------------------------------


class _Wrong(OneByOne):
    """A decoder with one fault."""

    def __init__(self, stream: StreamSettings, read: Callable[[bytes], list[Measured]] = _read) -> None:
        super().__init__("words", "1", read, max_message_bytes=stream.max_message_bytes)


class _Raises(_Wrong):
    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        [value.decode() for value in values if value]
        return super().decode(values)


class _Loses(_Wrong):
    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        decoded = super().decode(values)
        decoded.tombstones.clear()
        return decoded


class _Neighbours(_Wrong):
    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        return super().decode(values if None not in values else [None] * len(values))


def _tells(payload: bytes) -> list[Measured]:
    try:
        return _read(payload)
    except ValueError:
        raise Refused(Reason.WRONG_SHAPE, payload.decode(errors="replace")) from None


@pytest.mark.parametrize(
    ("kind", "test"),
    [
        (_kind(_Raises), "test_of_any_bytes_it_never_fails_and_each_message_has_one_fate"),
        (_kind(_Loses), "test_tombstones_are_counted"),
        (_kind(_Loses), "test_of_any_bytes_it_never_fails_and_each_message_has_one_fate"),
        (_kind(_Neighbours), "test_a_bad_message_harms_only_itself"),
        (_kind(_Neighbours), "test_a_poll_gives_what_its_messages_give_alone"),
        (_kind(lambda _: _Wrong(StreamSettings())), "test_what_is_too_large_is_refused_unread"),
        (_kind(lambda stream: _Wrong(stream, _tells)), "test_no_value_of_a_message_stands_in_a_path"),
        (_kind(lambda stream: _Wrong(stream, _tells)), "test_reasons_and_paths_hold_nothing_of_the_message"),
        (_kind(lenient=Lenient), "test_an_erasure_finds_every_patient_whom_a_row_names"),
        (_kind(lenient=int), "test_the_lenient_side_never_fails_and_says_what_it_should"),  # type: ignore[arg-type]
        (_kind(name="other"), "test_it_says_what_it_is"),
    ],
)
def test_the_contract_finds_a_format_that_breaks_it(register: Callable[..., None], kind: FormatKind, test: str) -> None:
    class One(FormatContract):
        name = "words"
        messages: ClassVar = {"observation": (GOOD, b"0815 80.5")}

    One.kind = _kind()
    register(One.kind)
    getattr(One(), test)()
    One.kind = kind
    register(kind)
    with pytest.raises((AssertionError, AttributeError, UnicodeDecodeError, BaseExceptionGroup)):
        getattr(One(), test)()
