"""A job file is checked before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipelines.history.job import load_job
from vitalake.errors import VitaLakeError


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
