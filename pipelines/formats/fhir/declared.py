"""Decodes FHIR R4 resources to rows of a dataset whose columns declare their values as FHIRPath expressions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import Any

import msgspec
import pyarrow as pa

from pipelines.formats.fhir.elements import checked, own_name, reference_of, version_of
from pipelines.formats.fhir.model import NoSuchElement, check_elements, check_resource
from pipelines.formats.fhir.paths import reason_of
from pipelines.formats.fhir.records import Row, instant_of, updated_of
from pipelines.formats.fhir.structs import RESOURCES, resources_of_datasets
from pipelines.formats.shared.encoded import Refused
from pipelines.formats.shared.parsing import PARSE_ERRORS, JsonMessages, collector_paused
from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.records import decoded_records
from pipelines.formats.shared.refusals import MOST_ROWS
from pipelines.formats.shared.result import Decoded, Reject
from vitalake.declarations import refused
from vitalake.errors import SettingsError
from vitalake.lake.datasets.dataset import Column, Dataset
from vitalake.lake.datasets.declared import where_declared

Evaluate = Callable[[Mapping[str, Any], Mapping[str, Any] | None], list[Any]]

REFERENCES = {"patient-identifier": "Patient", "encounter-identifier": "Encounter", "device-identifier": "Device"}
"""Data class of a column that holds a reference → the type of the referenced resource."""

FUNCTIONS = frozenset(
    "all allFalse allTrue anyFalse anyTrue as contains count distinct empty endsWith exists extension first iif "
    "indexOf intersect is last length lower not ofType replace single skip startsWith substring tail take toBoolean "
    "toDate toDateTime toDecimal toInteger toQuantity toString union upper where".split()
)
"""Functions that an expression may call.

Left out are those that print (trace), that depend on the time of reading (now), and whose running time is not bounded
by the length of the message (matches, repeat, descendants).
"""

MOST_ELEMENTS = 10_000
"""Elements that a resource may have, every item of a list counted.

The time of an expression grows with them, of some expressions with their square; ordinary ones have fewer than 500.
"""

_MODIFIERS = frozenset({"modifierExtension", "implicitRules"})
"""Elements that can change the meaning of those around them, and may be anywhere in a resource."""


class FhirDeclaredDecoder:
    """Decodes FHIR R4 JSON, single resources or Bundles, to rows of a dataset with ``fhir:``.

    The resource's id (in a Bundle, the ``urn:`` of its entry) identifies the record; ``meta`` gives the version and the
    time when it became available. A value that is not of the column's type rejects the message: nothing is guessed.
    """

    version = "1"

    def __init__(self, dataset: Dataset, *, max_message_bytes: int = 1_048_576) -> None:
        """Make a decoder; not to be shared between threads.

        Args:
            dataset: a dataset that declares ``fhir``.
            max_message_bytes: longer messages are rejected unread.

        Raises:
            SettingsError: an expression is not valid FHIRPath, or uses a function that is not allowed.
        """
        assert dataset.fhir is not None
        self.name = f"fhir-r4-{dataset.name.replace('_', '-')}"
        self._dataset, self._resource = dataset, dataset.fhir.resource
        self._skip = _compiled(dataset, dataset.fhir.skip, ("fhir", "skip")) if dataset.fhir.skip else None
        self._columns = [
            (column, _compiled(dataset, column.fhir, ("columns", place, "fhir")))
            for place, column in enumerate(dataset.columns)
            if column.fhir
        ]
        self._others = resources_of_datasets() - {self._resource}
        self._messages: JsonMessages[Any] = JsonMessages(
            msgspec.json.Decoder(dict[str, Any]).decode,
            max_message_bytes=max_message_bytes,
            refused=lambda error: (reason_of(error), ""),
        )

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Return rows and rejects; never raises for what a message holds."""
        with collector_paused():
            rejects: dict[int, Reject] = {}
            rows, message, empty = self._messages.rows(values, self._rows_of, rejects)
            identities = [row.pop("identity") for row in rows]
            decoded = decoded_records(self._dataset.name, rows, identities, message, rejects)
            decoded.tombstones.extend(i for i, value in enumerate(values) if value is None)
            decoded.empty.extend(empty)
            return decoded

    def _rows_of(self, message: dict[str, Any]) -> list[Row]:
        kind = message.get("resourceType")
        if kind == self._resource:
            return [*self._rows(message, None)]
        if kind in self._others:
            return []
        if kind != "Bundle":
            raise Refused(Reason.WRONG_RESOURCE)
        if message.get("implicitRules") is not None:
            raise Refused(Reason.MODIFIED, "Bundle.implicitRules")
        found = [row for entry in _entries(message, self._resource) for row in self._rows(*entry)]
        if len(found) > MOST_ROWS:
            raise Refused(Reason.TOO_MANY_ROWS)
        return found

    def _rows(self, resource: dict[str, Any], full_url: str | None) -> Iterator[Row]:
        if resource.get("resourceType") != self._resource:
            return
        _check_whole(resource, self._resource)
        if self._skip is not None and _is_true(_evaluated(self._skip, resource, self._resource), self._resource):
            return
        row: Row = {"identity": self._identity(resource, full_url)}
        for column, evaluate in self._columns:
            where = f"{self._dataset.name}.{column.name}"
            row[column.name] = _value(column, _evaluated(evaluate, resource, where), where)
        version, updated = _of_meta(resource, self._resource)
        row.setdefault("version", version)
        row.setdefault("available_at", updated)
        yield row

    def _identity(self, resource: dict[str, Any], full_url: str | None) -> bytes | None:
        given = resource.get("id")
        if not isinstance(given, str | None):
            raise Refused(Reason.WRONG_SHAPE, f"{self._resource}.id")
        name = own_name(given, full_url)
        return None if name is None else f"fhir|{self._dataset.name}|{name}".encode()


def _entries(bundle: dict[str, Any], wanted: str) -> Iterator[tuple[dict[str, Any], str | None]]:
    entries = bundle.get("entry")
    if not entries:
        raise Refused(Reason.NO_VALUE, "Bundle.entry")
    if not isinstance(entries, list):
        raise Refused(Reason.WRONG_SHAPE, "Bundle.entry")
    for place, entry in enumerate(entries):
        resource = entry.get("resource") if isinstance(entry, dict) else None
        if not isinstance(resource, dict) or resource.get("resourceType") not in RESOURCES:
            raise Refused(Reason.WRONG_RESOURCE, f"Bundle.entry[{place}].resource")
        if resource["resourceType"] == wanted and entry.get("modifierExtension"):
            raise Refused(Reason.MODIFIED, "Bundle.entry.modifierExtension")
        url = entry.get("fullUrl")
        yield resource, url if isinstance(url, str) else None


def check_declared(dataset: Dataset) -> None:
    """Check that the expressions of a dataset are valid, and name elements that FHIR R4 has.

    A stream does not check elements: a column that is always null harms nobody, a stream that does not begin does.

    Raises:
        SettingsError: they are not, or fhirpathpy is not installed; the error names file and line.
    """
    if dataset.fhir is None:
        return
    FhirDeclaredDecoder(dataset)
    at: tuple[str | int, ...] = ("fhir", "resource")
    try:
        check_resource(dataset.fhir.resource)
        if dataset.fhir.skip:
            at = ("fhir", "skip")
            check_elements(dataset.fhir.skip, dataset.fhir.resource)
        for place, column in enumerate(dataset.columns):
            if column.fhir:
                at = ("columns", place, "fhir")
                check_elements(column.fhir, dataset.fhir.resource)
    except NoSuchElement as error:
        what = "a resource" if at == ("fhir", "resource") else "an element"
        raise _refused(dataset, f"Declaration names {what} that FHIR R4 does not have", at, error.remedy) from None


def _refused(dataset: Dataset, what: str, at: tuple[str | int, ...], remedy: str) -> SettingsError:
    place = where_declared()[dataset.name]
    return refused(what, where=place.where, text=place.path.read_text(encoding="utf-8"), at=at, remedy=remedy)


def _check_whole(resource: dict[str, Any], kind: str) -> None:
    """Refuse a resource that has more elements than are read, or one that can change what others mean.

    A modifierExtension of a backbone element or a contained resource counts like one of the resource itself: an
    expression can read any part, and which parts it reads is not known.

    Raises:
        Refused: it has; counting ends where that is known.
    """
    count, nested = 0, [iter(resource.items())]
    while nested:
        for name, value in nested[-1]:
            count += 1
            if count > MOST_ELEMENTS:
                raise Refused(Reason.TOO_MANY_ELEMENTS, kind)
            if name in _MODIFIERS and value not in (None, []):
                raise Refused(Reason.MODIFIED, f"{kind}.modifierExtension")
            if isinstance(value, dict | list) and value:
                inner = value.items() if isinstance(value, dict) else (("", item) for item in value)
                nested.append(iter(inner))
                break
        else:
            nested.pop()


def _is_true(found: list[Any], where: str) -> bool:
    """Return a result as a boolean, by FHIRPath's singleton evaluation of collections.

    An empty result counts as false, and a single item that is no boolean as true.

    Raises:
        Refused: the result has several items.
    """
    if len(found) > 1:
        raise Refused(Reason.WRONG_SHAPE, where)
    return bool(found) and found[0] is not False


def _of_meta(resource: dict[str, Any], kind: str) -> tuple[int, datetime | None]:
    """Return a resource's version, and the time of its last update."""
    if resource.get("meta") is None:
        return 0, None
    raw = msgspec.json.encode(resource["meta"])
    try:
        return version_of(raw), updated_of(raw)
    except Refused as refused_meta:
        raise Refused(refused_meta.reason, f"{kind}.meta.lastUpdated") from None
    except PARSE_ERRORS as error:
        raise Refused(reason_of(error), f"{kind}.meta") from None


def _compiled(dataset: Dataset, path: str, at: tuple[str | int, ...]) -> Evaluate:
    """Compile an expression, and try it on an empty resource to find functions that do not exist.

    Raises:
        SettingsError: it is not valid FHIRPath, or fhirpathpy is not installed.
    """
    try:
        import fhirpathpy
        from fhirpathpy.models import models
    except ImportError:
        raise SettingsError(
            "fhirpathpy is not installed",
            where=f"dataset {dataset.name}",
            remedy="In the checkout run: pip install '.[fhirpath]'.",
        ) from None
    assert dataset.fhir is not None
    try:
        _check_syntax(path)
        evaluate = fhirpathpy.compile(path, models["r4"])
        evaluate({"resourceType": dataset.fhir.resource}, None)
    except Exception:  # fhirpathpy raises plain Exception, and whatever its parser and evaluator raise
        raise _refused(
            dataset,
            "Declaration has an expression that is not valid FHIRPath, or uses a function that is not allowed",
            at,
            "Correct the expression; see docs/how-to/declare-a-dataset.md.",
        ) from None
    return evaluate


def _check_syntax(path: str) -> None:
    """Raise unless the whole text is an expression of allowed functions.

    fhirpathpy itself accepts a text if only its beginning is valid.
    """
    from antlr4 import CommonTokenStream, InputStream, Token
    from antlr4.error.ErrorListener import ErrorListener
    from fhirpathpy.parser.generated.FHIRPathLexer import FHIRPathLexer
    from fhirpathpy.parser.generated.FHIRPathParser import FHIRPathParser

    class Strict(ErrorListener):
        def syntaxError(self, *_: Any) -> None:
            raise ValueError

    lexer = FHIRPathLexer(InputStream(path))
    parser = FHIRPathParser(CommonTokenStream(lexer))
    for reader in (lexer, parser):
        reader.removeErrorListeners()
        reader.addErrorListener(Strict())
    tree = parser.expression()
    if parser.getCurrentToken().type != Token.EOF or not _functions(tree) <= FUNCTIONS:
        raise ValueError


def _functions(tree: Any) -> set[str]:
    """Return the names of the functions that an expression calls."""
    own = {tree.getChild(0).getText()} if type(tree).__name__ == "FunctnContext" else set()
    return own.union(*(_functions(child) for child in getattr(tree, "children", None) or ()))


def _evaluated(evaluate: Evaluate, resource: dict[str, Any], where: str) -> list[Any]:
    try:
        return evaluate(resource, None)
    except Exception:  # the library can raise anything for an unexpected message
        raise Refused(Reason.WRONG_SHAPE, where) from None


def _value(column: Column, found: list[Any], where: str) -> Any:
    """Return a column's value from the result of its expression; None if the result is empty.

    Raises:
        Refused: the result has several values, or one of another type.
    """
    if not found:
        return None
    if len(found) > 1:
        raise Refused(Reason.WRONG_SHAPE, where)
    value = found[0]
    if (kind := REFERENCES.get(str(column.data_class))) is not None:
        if not isinstance(value, dict):  # a reference's text would be a second id for the same patient
            raise Refused(Reason.WRONG_SHAPE, where)
        return _reference(kind, value, where)
    if column.data_class == "record-version" and column.values and str(value) not in column.values:
        # An unknown status could mean "entered in error". The quality gate of the history lane refuses it, too.
        raise Refused(Reason.BAD_STATUS, where)
    try:
        return _typed(column.type, value, where)
    except (TypeError, ValueError, OverflowError):
        raise Refused(Reason.WRONG_SHAPE, where) from None


def _reference(kind: str, value: dict[str, Any], where: str) -> str | None:
    try:
        found = reference_of(kind, msgspec.json.encode(value))
    except Refused as refused_reference:
        raise Refused(refused_reference.reason, where) from None
    except PARSE_ERRORS as error:
        raise Refused(reason_of(error), where) from None
    if found is None and kind == "Patient":
        raise Refused(Reason.NO_SUBJECT, where)
    return found


def _typed(kind: pa.DataType, value: Any, where: str) -> Any:
    if pa.types.is_boolean(kind):
        if not isinstance(value, bool):
            raise TypeError
        return value
    if isinstance(value, bool | dict | list):
        raise TypeError
    if pa.types.is_timestamp(kind):
        return instant_of(str(value), where)
    if pa.types.is_date(kind):
        return _day(str(value), where)
    if pa.types.is_floating(kind):
        return _number(value)
    if pa.types.is_integer(kind):
        return _whole(kind, value)
    if not isinstance(value, str):
        raise TypeError
    return checked(value)


def _whole(kind: pa.DataType, value: Any) -> int:
    most = 1 << (kind.bit_width - 1)
    number = int(value) if isinstance(value, int) else _number(value)
    if number != int(number) or not -most <= number < most:
        raise ValueError
    return int(number)


def _number(value: Any) -> float:
    if isinstance(value, str):
        raise TypeError
    number = float(value)
    if not math.isfinite(number):  # an expression can compute a number that no float holds
        raise ValueError
    return number


def _day(text: str, where: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise Refused(Reason.BAD_TIME, where) from None
