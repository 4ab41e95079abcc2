"""A job file is checked before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipelines.history.job import load_job
from vitalake.errors import SettingsError, VitaLakeError


@pytest.mark.parametrize(("source", "good"), [("city", True), ("city\n", False), ("city\nx", False), ("-city", False)])
def test_a_source_has_a_name_that_may_stand_in_the_names_of_files(tmp_path: Path, source: str, good: bool) -> None:
    path = tmp_path / "job.yaml"
    (tmp_path / "a.sql").write_text("SELECT 1")
    job = {"source": source, "warehouse": "duckdb::memory:", "datasets": {"condition": "a.sql"}}
    path.write_text(yaml.safe_dump(job))
    if good:
        assert load_job(str(path)).source == source
        return
    with pytest.raises(VitaLakeError, match="source"):
        load_job(str(path))


def _job(folder: Path, **fields: object) -> str:
    """Make a job file with a query; return its path."""
    (folder / "a.sql").write_text("SELECT 1")
    job = {"source": "city", "warehouse": "duckdb::memory:", "datasets": {"condition": "a.sql"}} | fields
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return str(folder / "job.yaml")


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_a_share_of_rejected_rows_is_from_none_to_all(tmp_path: Path, share: float) -> None:
    assert load_job(_job(tmp_path, max_rejected=share)).max_rejected == share


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_rejected", 7),
        ("max_rejected", -0.1),
        ("max_rejected", float("nan")),
        ("max_rejected", "few"),
        ("silence_seconds", 0),
        ("silence_seconds", float("inf")),
        ("silence_seconds", 1e12),
    ],
)
def test_a_number_that_is_out_of_range_is_refused_with_its_file_and_field(
    tmp_path: Path, field: str, value: object
) -> None:
    """The load ended with a traceback, when it came to judge or to wait."""
    with pytest.raises(SettingsError, match=rf"is not valid: job\.yaml: {field}\. Write a number"):
        load_job(_job(tmp_path, **{field: value}))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("job.yaml", r"^Job file is not UTF-8: job\.yaml\."),
        ("a.sql", r"^Query is not UTF-8: a\.sql, query of condition\."),
    ],
)
def test_a_file_that_is_not_utf8_is_refused_by_its_name(tmp_path: Path, name: str, said: str) -> None:
    job = _job(tmp_path)
    with (tmp_path / name).open("ab") as file:
        file.write("\n# Zzmarker für\n".encode("latin-1"))
    with pytest.raises(SettingsError, match=said) as refused:
        load_job(job)
    assert "Zzmarker" not in str(refused.value) and refused.value.__suppress_context__


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("none.sql", r"\(No such file or directory\): none\.sql, query of condition\."),
        (".", r"\(Is a directory\): .*, query of condition\."),
        ("a\0.sql", r"\(its name is not valid\): a\0\.sql, query of condition\."),
    ],
)
def test_a_query_that_cannot_be_read_is_refused_with_its_dataset(tmp_path: Path, query: str, said: str) -> None:
    with pytest.raises(SettingsError, match=rf"^Query cannot be read {said} Put it beside the job file"):
        load_job(_job(tmp_path, datasets={"condition": query}))


@pytest.mark.parametrize("name", ["none.yaml", "x" * 5_000])
def test_a_job_that_does_not_exist_is_refused_with_those_that_do(name: str) -> None:
    with pytest.raises(SettingsError, match=r"Unknown source: .*mimic-demo"):
        load_job(name)
