"""Converts columns of a warehouse's driver to plain types; one that could be misread is refused.

Errors name a column only if its dataset has it, and tell others by their place in the query: a query can take the names
of its columns from a patient's text (PIVOT).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.formats.shared.categories import category_of, load_categories
from pipelines.formats.shared.records import MERGED
from vitalake.errors import InputError
from vitalake.lake.datasets.dataset import IDENTIFYING, Dataset

_EPOCH = date(1970, 1, 1)
_FIRST, _LAST = (date.min - _EPOCH).days, (date.max - _EPOCH).days

IDENTITY = ("identity_system", "identity_value")

_KIND = b"vitalake.kind"
"""Key in a field's metadata: the type that a text has in the warehouse, ``numeric`` or ``json``."""

NUMBERS = frozenset({"patient-identifier", "encounter-identifier", "device-identifier"})
"""Data classes of numbers that a source gives. A medical record number is what people read, and keys nothing."""

_WHOLE = r"^-?[0-9]+(\.0*)?$"


MOST_PLACES = 10
"""How many columns an error lists."""


def names_of(dataset: Dataset) -> frozenset[str]:
    """Return the names of the columns that a query for a dataset may return."""
    own = (*IDENTITY, "panel_code", "issued_at") if dataset.measures else ()
    return frozenset((*dataset.schema.names, *own))


def places(found: Sequence[int], count: int) -> str:
    """Return the words for columns of a query by their places, counted from 1 for the reader.

    Args:
        found: indices of the columns.
        count: how many columns the query has.
    """
    listed = [str(place + 1) for place in found[:MOST_PLACES]] + ["…"] * (len(found) > MOST_PLACES)
    return f"column{'s' * (len(found) > 1)} {', '.join(listed)} of {count}"


def plain(batch: pa.RecordBatch, known: Collection[str] = ()) -> pa.RecordBatch:
    """Return a batch without the driver's own types.

    PostgreSQL's ``numeric`` arrives as text (exact, and cast later to what the dataset needs), ``uuid`` becomes text,
    ``char(n)`` loses its padding. Nothing is guessed: infinite times, money and the like are refused.

    Args:
        batch: of the driver.
        known: names that errors may show.

    Raises:
        InputError: a column could be misread, or two have one name; the error shows no values.
    """
    names = batch.schema.names
    called = [name if name in known else places([place], len(names)) for place, name in enumerate(names)]
    if twice := dict.fromkeys(shown for name, shown in zip(names, called, strict=True) if names.count(name) > 1):
        raise InputError(
            "Query returns two columns of one name", where=", ".join(twice), remedy="Give each column its own name."
        )
    columns = [_plain(*each) for each in zip(batch.columns, batch.schema, called, strict=True)]
    fields = [
        pa.field(field.name, column.type, metadata=_kind_of(field))
        for column, field in zip(columns, batch.schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def _kind_of(field: pa.Field) -> dict[bytes, bytes] | None:
    if isinstance(field.type, pa.JsonType):
        return {_KIND: b"json"}
    numeric = (field.metadata or {}).get(b"POSTGRESQL:type") == b"numeric"
    return {_KIND: b"numeric"} if numeric else None


def _plain(column: pa.Array, field: pa.Field, called: str) -> pa.Array:
    kind = (field.metadata or {}).get(b"POSTGRESQL:type", b"").decode()
    if isinstance(column, pa.ExtensionArray):
        if isinstance(column.type, pa.UuidType):
            return pa.array((v and str(v) for v in column.to_pylist()), pa.string())
        if kind != "numeric" and not isinstance(column.type, pa.JsonType):
            raise _refused(called, kind or column.type.extension_name)
        return column.storage
    if kind == "money":  # arrives as a number of cents
        raise _refused(called, kind)
    if kind == "bpchar":
        return pc.utf8_rtrim(column, " ")
    if pa.types.is_timestamp(column.type):
        per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[column.type.unit]
        _check_finite(column.view(pa.int64()), called, units_a_day=86_400 * per_second)
    elif pa.types.is_date32(column.type):
        _check_finite(column.view(pa.int32()), called, units_a_day=1)
    return column


def in_namespace(batch: pa.RecordBatch, dataset: Dataset, namespace: str) -> pa.RecordBatch:
    """Return a batch of with_texts in which all numbers are those of a namespace: ``<namespace>|<number>``.

    HL7 v2 and FHIR numbers with a system are written in the same way, so that both lanes can mean the same patient.
    These are the numbers of patients, stays, devices, and of the records themselves. An observation's number has a
    system of its own, ``identity_system``; the namespace is the system of those without one. In a device's column, the
    number of a merged patient stands behind its prefix.
    """
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    for column in dataset.columns:
        numbers = column.data_class in NUMBERS and column.type == pa.string()
        if column.name in columns and (numbers or column.name == dataset.hashed):
            before = f"^({MERGED}|)" if column.data_class == "device-identifier" else "^()"
            columns[column.name] = pc.replace_substring_regex(
                _absent_if_blank(columns[column.name]), before, rf"\1{namespace}|", max_replacements=1
            )
    system, value = IDENTITY
    if dataset.measures and value in columns:
        given = _absent_if_blank(columns.get(system, pa.nulls(batch.num_rows, pa.string())))
        columns[system] = pc.if_else(columns[value].is_valid(), pc.coalesce(given, namespace), given)
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _absent_if_blank(texts: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(texts), ""), None, texts)


def with_texts(batch: pa.RecordBatch, dataset: Dataset) -> pa.RecordBatch:
    """Return a plain batch in which every text column of the dataset is text, in one spelling.

    How an identifier is spelled does not depend on the driver: 4711 and 4711.00 are one patient. Texts, enumerations,
    whole numbers and, for identifiers, whole decimals become text; booleans, bits, times, documents, fractions and
    floating-point numbers are refused. Words for a category (see categories.yaml) become the category.

    Raises:
        InputError: a column has another type; the error names it without its values.
    """
    classes = {column.name: column.data_class for column in dataset.columns if column.type == pa.string()}
    identifying = {name for name, data_class in classes.items() if data_class in IDENTIFYING}
    identifying.update(IDENTITY if dataset.measures else (), [dataset.hashed] if dataset.hashed else [])
    texts = {*classes, *identifying, *(("panel_code",) if dataset.measures else ())}
    columns, fields = [], []
    for column, field in zip(batch.columns, batch.schema, strict=True):
        text = _text(column, field, identifies=field.name in identifying) if field.name in texts else column
        if (name := f"{dataset.name}.{field.name}") in load_categories():
            text = _categorised(text, name)
        columns.append(text)
        fields.append(pa.field(field.name, text.type))
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def _text(column: pa.Array, field: pa.Field, *, identifies: bool) -> pa.Array:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    was = (field.metadata or {}).get(_KIND)
    try:
        if was == b"numeric":
            return _whole(column, identifies=identifies)
        if pa.types.is_decimal(kind) and (identifies or kind.scale == 0):
            return column.cast(pa.decimal256(76, 0)).cast(pa.string())
        textual = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        if (textual and was is None) or pa.types.is_integer(kind) or pa.types.is_null(kind):
            return column.cast(pa.string())
    except pa.ArrowInvalid:
        pass  # a fraction
    raise _no_text(field.name)


def _whole(column: pa.Array, *, identifies: bool) -> pa.Array:
    fits = pc.match_substring_regex(column, _WHOLE) if identifies else pc.match_substring_regex(column, "^-?[0-9]+$")
    if pc.any(pc.invert(fits)).as_py():
        raise pa.ArrowInvalid
    return pc.replace_substring_regex(column, "\\.0*$", "")


def _categorised(column: pa.Array, name: str) -> pa.Array:
    encoded = column.dictionary_encode()
    categories = [category_of(name, text) for text in encoded.dictionary.to_pylist()]
    return pa.array(categories, pa.string()).take(encoded.indices)


def _no_text(name: str) -> InputError:
    return InputError("Query returns a column that is not of type string", where=name, remedy="Cast it in the query.")


def _check_finite(numbers: pa.Array, called: str, *, units_a_day: int) -> None:
    """Raise if a time lies outside the calendar; PostgreSQL's infinity arrives as an ordinary number."""
    ends = pc.min_max(numbers).as_py()
    if ends["min"] is not None and not (_FIRST <= ends["min"] // units_a_day and ends["max"] // units_a_day <= _LAST):
        raise InputError(
            "Query returns times outside the years 1 to 9999 (infinity?)",
            where=called,
            remedy="Leave these rows out, or make the time null in the query.",
        )


def _refused(called: str, kind: str) -> InputError:
    return InputError(
        f"Query returns a column of a type that is not supported ({kind})", where=called, remedy="Cast it in the query."
    )
