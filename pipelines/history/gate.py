"""The quality gate: a Great Expectations suite, made from a dataset's declaration, which rows pass before the lake.

Rows are judged one stretch at a time, so that memory does not grow with their number. What concerns all rows (unique
keys, the number of rows) is counted along the way and judged at the end. Reports contain counts, and the units and
codes that are not known, if they have a declared form.
"""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from governance.policy.closed_text import make_unfit
from pipelines.formats.shared.conform import unit_path
from pipelines.formats.shared.keyed import finite, needed
from pipelines.history.columns import IDENTITY
from pipelines.history.rows import VALUES, typed
from vitalake import clock
from vitalake.errors import InputError
from vitalake.grouping import groups, row_count
from vitalake.lake.datasets.dataset import Column, Dataset
from vitalake.vocabulary import Vocabulary, load_vocabulary
from vitalake.vocabulary.forms import fits_of

STRETCH_ROWS = 200_000
"""Rows that are judged at a time."""

EARLIEST_YEAR = 1900
"""Times before this year are unexpected."""

NEEDED = {"observation": ("patient_id", "code", "status", "effective_at")}
"""Columns besides the key without which a row is rejected."""

MOST_UNITS = 5
"""How many units an error names; the report names all of them."""

MOST_CODES = 10
"""How many unknown codes error and report name."""

_FORM = " has its form"
"""Suffix of the helper column that says whether a column's text has the declared form; no declared name can have it."""

_HAS_FORM = "text_to_have_the_declared_form"
"""Name of the check of such a helper column in error and report: it is about the declared column."""

_FINITE = " is finite"
"""Suffix of the helper column that says whether a column's number is finite."""

_IS_FINITE = "number_to_be_finite"
"""Name of the check of such a helper column in error and report."""

_HELPERS = {_FORM: _HAS_FORM, _FINITE: _IS_FINITE}
"""Suffix of a helper column → name of its check."""

MADE_BY_LANE = ("observation_id",)
"""Key columns that the lane computes; no query returns them."""


class QualityError(InputError):
    """A dataset does not pass the gate; nothing of it was published."""


class QualityGate(Protocol):
    """Judges a dataset's rows before they are published."""

    def judge(self, dataset: Dataset, tables: Iterable[pa.Table]) -> None:
        """Return if the rows may be published.

        Args:
            dataset: the dataset that they are for.
            tables: the query's rows; consumed once.

        Raises:
            QualityError: they may not be published.
            InputError: the dataset does not have a column, or a column has another type.
        """
        ...


@dataclass(slots=True)
class Check:
    """One expectation, over all stretches.

    Attributes:
        expectation: its name in Great Expectations, or of _HELPERS.
        column: the column of the rows, or what was counted.
        rows: how many rows were judged.
        unexpected: how many of them do not meet it.
        allowed: the greatest share of unexpected rows with which the check passes.
    """

    expectation: str
    column: str
    rows: int = 0
    unexpected: int = 0
    allowed: float = 0.0

    @property
    def passed(self) -> bool:
        """Return whether few enough rows are unexpected."""
        return self.unexpected <= self.allowed * max(self.rows, 1)


class SuiteGate:
    """Judges with Great Expectations in this process, without its context on disk and without its telemetry."""

    def __init__(self, folder: Path, *, source: str, max_rejected: float) -> None:
        """Prepare; the library is loaded with the first rows.

        Args:
            folder: where reports are written.
            source: the source's name, for the names of the reports.
            max_rejected: the greatest share of rows that the lane would reject with which a dataset still passes.
        """
        self._folder, self._source, self._max_rejected = folder, source, max_rejected

    def judge(self, dataset: Dataset, tables: Iterable[pa.Table]) -> None:
        """Judge the rows, write the report, and return if they may be published: see QualityGate."""
        checks: dict[tuple[str, str], Check] = {}
        keys = _Keys()
        count = 0
        units: Counter[str] = Counter()
        codes: Counter[str] = Counter()
        for rows in groups(tables, (row_count, STRETCH_ROWS)):
            stretch = typed(pa.concat_tables(rows), dataset)
            count += stretch.num_rows
            keys.add(stretch, dataset)
            findings = _findings(stretch, dataset)
            units.update(_unknown_units(stretch, findings))
            codes.update(_unknown_codes(stretch, findings, dataset))
            suite = suite_of(dataset, stretch, max_rejected=self._max_rejected)
            _run(suite, _frame(stretch, findings, dataset), checks)
        all_checks = [
            Check("expect_table_row_count_to_be_between", "rows", rows=count, unexpected=int(not count)),
            Check("expect_compound_columns_to_be_unique", "key", count, keys.repeated(), self._repeats(dataset)),
            *checks.values(),
        ]
        failed = [_words(check, dataset) for check in all_checks if not check.passed]
        if any(c.column == "code_known" and not c.passed for c in all_checks):
            failed += [f"{code}: {rows:,} rows" for code, rows in _named(codes).items()]
        if any(c.column == "unit_known" and not c.passed for c in all_checks):
            failed += [f"{path}: {rows:,} rows" for path, rows in units.most_common(MOST_UNITS)]
        report = self._write(dataset, count, all_checks, units, codes, passed=not failed)
        if failed:
            raise QualityError(
                "Rows do not pass the quality gate",
                where=f"{self._source}.{dataset.name}: {'; '.join(failed)}",
                remedy=f"Nothing of it was published. See {self._folder.name}/{report.name}; correct source or query.",
            )

    def _repeats(self, dataset: Dataset) -> float:
        """Return the greatest share of repeated keys: only for observations the lake recognises duplicates."""
        return self._max_rejected if dataset.measures else 0.0

    def _write(
        self,
        dataset: Dataset,
        rows: int,
        checks: list[Check],
        units: Counter[str],
        codes: Counter[str],
        *,
        passed: bool,
    ) -> Path:
        self._folder.mkdir(exist_ok=True)
        document = {
            "source": self._source,
            "dataset": dataset.name,
            "judged_at": clock.now().isoformat(timespec="seconds"),
            "passed": passed,
            "rows": rows,
            "checks": [asdict(check) | {"passed": check.passed} for check in checks],
            "unknown_units": dict(units.most_common()),
            "unknown_codes": _named(codes),
        }
        path = self._folder / f"{self._source}.{dataset.name}.json"
        staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        staged.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=2))
        os.replace(staged, path)
        return path


def _words(check: Check, dataset: Dataset) -> str:
    """Return what a check has found, with the form that a column's texts lack."""
    form = dataset.column(check.column).form if check.expectation == _HAS_FORM else None
    what = check.expectation
    if form is not None:
        named = f"'{form}'" if isinstance(form, str) else f"that {form.column} names"
        what = f"text that does not have the declared form {named}"
    return f"{check.column}: {what} ({check.unexpected:,} of {check.rows:,})"


def _named(codes: Counter[str]) -> dict[str, int]:
    """Return the most frequent unknown codes, and how many rows have another one; codes that are not shown last."""
    hidden = codes[_NOT_SHOWN]
    shown = Counter({code: rows for code, rows in codes.items() if code != _NOT_SHOWN})
    named = dict(sorted(shown.items(), key=lambda entry: (-entry[1], entry[0]))[:MOST_CODES])
    others = shown.total() - sum(named.values())
    return named | ({"other codes": others} if others else {}) | ({_NOT_SHOWN: hidden} if hidden else {})


def suite_of(dataset: Dataset, rows: pa.Table, *, max_rejected: float) -> list[dict[str, Any]]:
    """Return the expectations of a dataset's rows, as Great Expectations' types and arguments.

    Columns that the dataset allows to be null are not expected: a query may leave them out.
    """
    mostly = 1.0 - max_rejected
    given = set(rows.schema.names)
    required = dict.fromkeys((*needed(dataset), *NEEDED.get(dataset.name, ())))
    from_query = [name for name in required if name not in MADE_BY_LANE and (name != "version" or name in given)]
    suite: list[dict[str, Any]] = [_expect("column_to_exist", column=name) for name in from_query]
    suite += [
        _expect("column_values_to_not_be_null", column=name, mostly=mostly) for name in from_query if name in given
    ]
    times = [column.name for column in dataset.columns if pa.types.is_timestamp(column.type)]
    times += ["issued_at"] if dataset.measures else []
    suite += [
        _expect(
            "column_values_to_be_between",
            column=name,
            min_value=_moment(EARLIEST_YEAR),
            max_value=clock.now(),
            mostly=mostly,
        )
        for name in times
        if name in given
    ]
    for column in dataset.columns:
        if column.name in given and column.values:
            # A status says whether the row counts at all. In other columns a few bad texts are published as null.
            share = 1.0 if _says_what_counts(column, dataset) else mostly
            suite.append(
                _expect("column_values_to_be_in_set", column=column.name, value_set=list(column.values), mostly=share)
            )
        if column.name in given and _judged_by_form(column, dataset):
            suite.append(
                _expect("column_values_to_be_in_set", column=f"{column.name}{_FORM}", value_set=[True], mostly=mostly)
            )
        if column.name in given and _judged_as_number(column, dataset):
            suite.append(
                _expect("column_values_to_be_in_set", column=f"{column.name}{_FINITE}", value_set=[True], mostly=mostly)
            )
        if column.name in given and column.data_class == "age":
            suite.append(_expect("column_values_to_be_between", column=column.name, min_value=0, max_value=130))
    if dataset.measures:
        suite += [
            _expect("column_values_to_be_in_set", column=name, value_set=[True], mostly=mostly)
            for name in ("code_known", "unit_known", "valued", "plausible")
        ]
    return suite


def _expect(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": f"expect_{name}", "kwargs": arguments}


def _moment(year: int) -> Any:
    return clock.now().replace(year=year, month=1, day=1)


# -- rows as the library sees them ------------------------------------------------------------------------------------


def _says_what_counts(column: Column, dataset: Dataset) -> bool:
    """Return whether a column is a status by which a row can be withdrawn; observations have one of another class."""
    return column.data_class == "record-version" or (dataset.measures and column.name == "status")


def _judged_by_form(column: Column, dataset: Dataset) -> bool:
    """Return whether a text without the declared form makes a row bad; observations are judged by _understood."""
    return column.form is not None and not dataset.measures


def _judged_as_number(column: Column, dataset: Dataset) -> bool:
    """Return whether an infinite number makes a row bad; the value of an observation is judged by _understood."""
    return pa.types.is_floating(column.type) and not dataset.measures


def _findings(rows: pa.Table, dataset: Dataset) -> dict[str, npt.NDArray[np.bool_]]:
    """Return helper columns for the library to judge: name → whether each row is as it should be."""
    if dataset.measures:
        return _understood(rows, load_vocabulary())
    findings: dict[str, npt.NDArray[np.bool_]] = {}
    batch = pa.RecordBatch.from_arrays([c.combine_chunks() for c in rows.columns], names=rows.schema.names)
    for column in dataset.columns:
        if column.name in rows.schema.names and _judged_by_form(column, dataset):
            unfit = make_unfit(column, {})(batch)
            findings[f"{column.name}{_FORM}"] = np.ones(rows.num_rows, np.bool_) if unfit is None else ~unfit
        if column.name in rows.schema.names and _judged_as_number(column, dataset):
            findings[f"{column.name}{_FINITE}"] = finite(rows[column.name])
    return findings


def _unknown_units(rows: pa.Table, findings: dict[str, npt.NDArray[np.bool_]]) -> Counter[str]:
    """Return how often each unit does not fit its code; a text that does not look like a unit is not shown."""
    bad = np.flatnonzero(~findings["unit_known"]) if "unit_known" in findings else np.zeros(0, np.int64)
    chosen = rows.select([name for name in ("code", "unit") if name in rows.schema.names]).take(pa.array(bad))
    return Counter(unit_path(row["code"], row.get("unit")) for row in chosen.to_pylist())


_NOT_SHOWN = "codes that are not shown, because they do not have a declared form"
"""The name under which such codes are counted: they can be words."""


def _unknown_codes(rows: pa.Table, findings: dict[str, npt.NDArray[np.bool_]], dataset: Dataset) -> Counter[str]:
    """Return how often each unknown code occurs; one that has no declared form is not shown.

    The form is that of the column, or that which the home declares for the codes of a local system.
    """
    if "code_known" not in findings or "code" not in rows.schema.names:
        return Counter()
    codes = rows["code"].combine_chunks().filter(pa.array(~findings["code_known"])).drop_null().cast(pa.string())
    vocabulary, form, found = load_vocabulary(), dataset.column("code").form, Counter[str]()
    fits = fits_of(form) if isinstance(form, str) else vocabulary.is_local_code
    for entry in codes.value_counts().to_pylist():
        shown = vocabulary.is_local_code(entry["values"]) or fits(entry["values"])
        found[entry["values"] if shown else _NOT_SHOWN] += entry["counts"]
    return found


def _frame(rows: pa.Table, findings: dict[str, npt.NDArray[np.bool_]], dataset: Dataset) -> Any:
    """Return the columns that are judged as a data frame, with the helper columns."""
    frame = rows.select([name for name in rows.schema.names if not (dataset.measures and name in IDENTITY)])
    for name, good in findings.items():
        frame = frame.append_column(name, pa.array(good))
    return frame.to_pandas()


def _understood(rows: pa.Table, vocabulary: Vocabulary) -> dict[str, npt.NDArray[np.bool_]]:
    """Return for each row whether its code and unit are known, it has a value, and a number is plausible.

    A number counts as plausible where code or unit is unknown, so that each bad row is reported for one reason.
    """
    given = {name: rows[name] if name in rows.schema.names else None for name in ("code", "unit", *VALUES)}
    codes = vocabulary.codes
    code = _index(given["code"], lambda text: codes.get(vocabulary.loinc_of(text), -1), rows, absent=-1)
    unit = _index(given["unit"], vocabulary.unit_index, rows, absent=vocabulary.no_unit)
    if vocabulary.mapped:
        default = _index(given["code"], lambda text: _unit_of(text, vocabulary), rows, absent=vocabulary.no_unit)
        unit = np.where(unit == vocabulary.no_unit, default, unit)
    valued = np.zeros(rows.num_rows, np.bool_)
    for name in VALUES:
        if (column := given[name]) is not None:
            valued |= column.is_valid().to_numpy()
    if given["value"] is None:
        fine = np.ones(rows.num_rows, np.bool_)
        return {"code_known": code >= 0, "unit_known": fine, "valued": valued, "plausible": fine}
    value = pc.fill_null(rows["value"], np.nan).to_numpy()
    value = value * vocabulary.factor[code, unit] + vocabulary.offset[code, unit]
    not_judged = rows["value"].is_null().to_numpy() | (code < 0)
    unit_known = not_judged | ~np.isnan(vocabulary.factor[code, unit])
    plausible = not_judged | ~unit_known | vocabulary.plausible(np.maximum(code, 0), value)
    return {"code_known": code >= 0, "unit_known": unit_known, "valued": valued, "plausible": plausible}


def _unit_of(code: str | None, vocabulary: Vocabulary) -> int:
    """Return the index of the unit that a local code implies where a row gives none."""
    entry = vocabulary.mapped.get(code or "")
    return vocabulary.no_unit if entry is None or entry.unit is None else vocabulary.unit_index(entry.unit)


def _index(
    column: pa.ChunkedArray | None, known: Callable[[str], int], rows: pa.Table, *, absent: int
) -> npt.NDArray[np.int64]:
    if column is None:
        return np.full(rows.num_rows, absent, np.int64)
    encoded = column.combine_chunks().dictionary_encode()
    places = np.array([*map(known, encoded.dictionary.to_pylist()), absent], np.int64)
    found: npt.NDArray[np.int64] = places[pc.fill_null(encoded.indices, len(places) - 1).to_numpy()]
    return found


class _Keys:
    """Counts repeated keys among all rows, by 64-bit hashes; rows without a key do not count."""

    def __init__(self) -> None:
        self._parts: list[npt.NDArray[np.uint64]] = []

    def add(self, rows: pa.Table, dataset: Dataset) -> None:
        if not dataset.measures:
            whole = np.ones(rows.num_rows, np.bool_)
            for name in set(dataset.key) & set(rows.schema.names):
                whole &= rows[name].is_valid().to_numpy()
            self._parts.append(_hashes(rows, *dataset.key)[whole])
            return
        unnamed = _hashes(rows, "patient_id", "code", "effective_at", "panel_code", "version")
        if IDENTITY[1] not in rows.schema.names:
            self._parts.append(unnamed)
            return
        named = rows[IDENTITY[1]].is_valid().to_numpy()
        self._parts.append(np.where(named, _hashes(rows, *IDENTITY, "code", "version"), unnamed))

    def repeated(self) -> int:
        """Return how many rows have the key of an earlier row."""
        if not self._parts:
            return 0
        keys = np.concatenate(self._parts)
        return len(keys) - len(np.unique(keys))


def _hashes(rows: pa.Table, *names: str) -> npt.NDArray[np.uint64]:
    import pandas as pd

    frame = rows.select([name for name in names if name in rows.schema.names]).to_pandas()
    hashes: npt.NDArray[np.uint64] = pd.util.hash_pandas_object(frame, index=False).to_numpy()
    return hashes


# -- the library -------------------------------------------------------------------------------------------------------


@cache
def _library() -> tuple[Any, Any, Any]:
    """Return Great Expectations, its class of configurations, and what makes a batch of a data frame.

    Its telemetry is switched off twice: by a variable before the library is loaded, and in its context.
    """
    import warnings

    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import great_expectations as gx
        from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

        context = gx.get_context(mode="ephemeral")
        context.enable_analytics(enable=False)
        context.variables.progress_bars = {"globally": False}
        asset = context.data_sources.add_pandas("rows").add_dataframe_asset("rows")
    return gx, ExpectationConfiguration, asset.add_batch_definition_whole_dataframe("all")


def _run(suite: list[dict[str, Any]], frame: Any, checks: dict[tuple[str, str], Check]) -> None:
    """Validate a frame and add what was found to the checks."""
    import warnings

    gx, ExpectationConfiguration, rows = _library()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's own
        batch = rows.get_batch({"dataframe": frame})
        expectations = gx.ExpectationSuite("gate")
        for entry in suite:
            configuration = ExpectationConfiguration(type=entry["type"], kwargs=entry["kwargs"])
            expectations.add_expectation(configuration.to_domain_obj())
        # No examples of unexpected values: they would be values of patients.
        result = batch.validate(expectations, result_format={"result_format": "BASIC", "partial_unexpected_count": 0})
    for found in result.results:
        kind, column = found.expectation_config.type, found.expectation_config.kwargs["column"]
        for suffix, name in _HELPERS.items():
            if column.endswith(suffix):
                kind, column = name, column.removesuffix(suffix)
        check = checks.setdefault((kind, column), Check(kind, column))
        check.allowed = 1.0 - float(found.expectation_config.kwargs.get("mostly", 1.0))
        check.rows += len(frame)
        # A result without a count (no such column, or it could not be judged) counts for all rows or for none.
        check.unexpected += int(found.result.get("unexpected_count", 0 if found.success else len(frame)))
