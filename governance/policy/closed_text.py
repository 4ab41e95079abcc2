"""Finds text that must not be published as it came: text outside a column's closed set, list of the home, or form.

Somebody may have typed anything into a column for codes, such as a name or a telephone number. A rule that keeps the
column publishes only text that fits. Other text is *unfit*: it stays in the restricted zone, and is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from governance.errors import RuleError
from vitalake.lake.datasets.dataset import Column, FormBy
from vitalake.lake.datasets.declared import place_of
from vitalake.vocabulary.forms import Fits, fits_of, refusal_of

Rows = npt.NDArray[np.bool_]

Unfit = Callable[[pa.RecordBatch], Rows | None]
"""Returns the rows of a batch that hold text which their column must not hold; None: no row does."""


def make_unfit(column: Column, lists: Mapping[str, frozenset[str]]) -> Unfit:
    """Return the function that finds text which a closed column must not hold.

    Args:
        column: the column.
        lists: the home's lists. Of a column that ships, a list that is missing counts as empty.

    Raises:
        SettingsError: the column names a form that does not exist.
        RuleError: a column of the home names a list that does not exist: none of its texts would be published.
    """
    if column.listed is not None and column.listed not in lists and (place := place_of(column, "list")) is not None:
        raise RuleError(
            "Column names a list that the rules do not have",
            where=place,
            remedy=f"Add it under 'lists' in a file of the rules. The lists are: {', '.join(sorted(lists)) or 'none'}.",
        )
    if isinstance(column.form, FormBy):
        return _by_other(column.name, column.form)
    if column.form is not None:
        fits = fits_of(column.form)
    else:
        fits = (lists.get(column.listed, frozenset()) if column.listed else frozenset(column.values)).__contains__
    return lambda batch: _unfit(batch.column(column.name), fits)


def _by_other(name: str, form: FormBy) -> Unfit:
    fits = {value: fits_of(of) for value, of in form.forms}

    def unfit(batch: pa.RecordBatch) -> Rows | None:
        column = batch.column(name)
        bad = column.is_valid().to_numpy(zero_copy_only=False)
        if form.column in batch.schema.names:
            other = batch.column(form.column).cast(pa.string())
            for value, holds in fits.items():
                mine = pc.fill_null(pc.equal(other, value), False).to_numpy(zero_copy_only=False)
                if mine.any():
                    wrong = _unfit(column, holds)
                    bad &= ~mine if wrong is None else ~mine | wrong
        return bad if bad.any() else None

    return unfit


def _unfit(column: pa.Array, fits: Fits) -> Rows | None:
    encoded = column.dictionary_encode()  # itself, if it is encoded
    texts = encoded.dictionary.to_pylist()
    bad = np.array([*(text is not None and not fits(text) for text in texts), False])
    if not bad.any():
        return None
    rows: Rows = bad[pc.fill_null(encoded.indices, len(texts)).to_numpy(zero_copy_only=False)]
    return rows if rows.any() else None


def without(column: pa.Array, rows: Rows) -> pa.Array:
    """Return the column with nulls in these rows, and without a dictionary, which would still hold the text."""
    plain = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    return pc.if_else(pa.array(rows), pa.scalar(None, plain.type), plain)


def describe_allowed(column: Column, lists: Mapping[str, frozenset[str]]) -> str | None:
    """Return in words which text a column may hold; None: the dataset does not say."""
    if column.values:
        return f"one of {len(column.values)} values"
    if column.listed:
        return f"what the list '{column.listed}' has ({len(lists.get(column.listed, ()))} texts)"
    if isinstance(column.form, FormBy):
        refused = [value for value, name in column.form.forms if refusal_of(name)]
        without = f", but none where it is {' or '.join(refused)}: that form is refused" if refused else ""
        return f"codes of the form that belongs to {column.form.column}{without}"
    if column.form and refusal_of(column.form):
        return f"no text: the form '{column.form}' is refused"
    return f"texts of the form '{column.form}'" if column.form else None
