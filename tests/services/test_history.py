"""The history lane: the demo's warehouse comes in once, whatever kills it, and is the same as what devices send."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipelines.formats.shared.keyed import with_key
from pipelines.formats.shared.reasons import Reason
from pipelines.history.job import load_job
from pipelines.history.load import load_history
from pipelines.history.rows import RowTexts, decoded_rows, message_starts, record_rows, whole_messages
from pipelines.history.warehouse import Warehouse, open_warehouse
from pipelines.simulator import mimic
from pipelines.simulator.observation import VITALS as VITAL_SIGNS
from pipelines.simulator.warehouse_mimic import make_demo_warehouse
from tests import forking
from tests.decoding import BROKER_MS, conformer, take
from vitalake.errors import InputError, ServiceUnavailable, SettingsError
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.ledger import summarise
from vitalake.lake.datasets.declared import load_dataset
from vitalake.lake.maintenance.verify import verify
from vitalake.settings import load_settings
from vitalake.strict_yaml import read_yaml

VITALS = 94_261
"""Of the demo's vital signs: each is published or rejected."""

DATASETS = {
    "observation": "observation_id",
    "encounter": "encounter_id",
    "patient": "patient_id",
    "condition": "code",
    "ward_movement": "in_at",
    "medication_administration": "administration_id",
    "procedure": "procedure_id",
}
"""What the demo fills, and a column that tells rows of one position apart."""


def _load(home: Path, source: str = "mimic-demo", **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        forking.command("vitalake", "history", "load", source, "--home", str(home), "--json", kind="history"),
        capture_output=True, text=True, timeout=90, check=False, env=os.environ | env,
    )  # fmt: skip


def test_what_devices_send_and_what_the_warehouse_holds_is_the_same(home: Path) -> None:
    messages = [message.value for message in mimic.messages(home)]
    _, live, live_rejects = take(messages)
    with _warehouse(home) as warehouse:
        table = pa.Table.from_batches(warehouse.read(load_job("mimic-demo").queries["observation"])).combine_chunks()
    table = table.filter(pc.is_in(table["code"], pa.array([vital.loinc for vital in VITAL_SIGNS.values()])))
    starts = message_starts(table)
    past = conformer().conform(decoded_rows(table, starts), broker_ms=np.full(len(starts), BROKER_MS))
    assert len(starts) == len(messages)
    assert table.num_rows == VITALS
    assert len(past.rejects) == len(live_rejects)
    assert {tuple(f) for f in past.fingerprint.tolist()} == {tuple(f) for f in live.fingerprint.tolist()}
    names = ["observation_id", "panel_id", "device_id", "available_at", "code"]
    assert set(_tuples(past.rows, names)) == set(_tuples(live.rows, names))


def _tuples(rows: pa.RecordBatch, names: list[str]) -> Iterator[tuple[object, ...]]:
    return zip(*(rows[name].to_pylist() for name in names), strict=True)


@pytest.fixture(scope="module")
def loaded(demo_home: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A home into which the demo was loaded once, for tests that only look; and what the command printed."""
    home = shutil.copytree(demo_home, tmp_path_factory.mktemp("loaded") / "home")
    return home, demo_home.with_name("demo.json").read_text()


def test_loaded_twice_it_adds_nothing(loaded: tuple[Path, str]) -> None:
    home, done = loaded
    first = msgspec.json.decode(done)
    again = msgspec.json.decode(_load(home).stdout)
    observations = first["by_partition"]["mimic-demo.observation[0]"]
    assert observations["rows"] == observations["published"] + observations["rejected"] > VITALS
    assert observations["published"] > 150_000
    assert first["balanced"] is True
    assert again["read"] == 0
    assert {name: again[name] for name in ("rows", "published", "spans")} == {
        name: first[name] for name in ("rows", "published", "spans")
    }
    assert verify(_lake(home)) == []


@pytest.mark.parametrize("point", ["staged", "decided", "added-one"])
def test_killed_and_run_again_it_is_complete(home: Path, point: str) -> None:
    small = Path(__file__).parents[2] / "pipelines" / "history" / "jobs" / "mimic-demo.yaml"
    document = read_yaml(small.read_text())
    document["datasets"] = {
        name: str(small.parent / query) for name, query in document["datasets"].items() if name != "observation"
    }
    job = home / "job.yaml"
    job.write_text(yaml.safe_dump(document))
    assert _load(home, str(job), VITALAKE_CRASH_AT=point).returncode == -signal.SIGKILL
    done = _load(home, str(job))
    assert done.returncode == 0, done.stderr
    summary = summarise(_lake(home).spans).to_json()
    assert summary["balanced"] is True
    for dataset in document["datasets"]:
        key = DATASETS[dataset]
        published = _lake(home, dataset).published.delta.to_pyarrow_table()
        assert published.num_rows == summary["by_partition"][f"mimic-demo.{dataset}[0]"]["published"] > 0
        places = zip(*(published[name].to_pylist() for name in ("source_position", key)), strict=True)
        assert len(set(places)) == published.num_rows, "no row twice"


@contextmanager
def _warehouse(home: Path) -> Iterator[Warehouse]:
    with open_warehouse(f"duckdb:{make_demo_warehouse(home)}", home=home) as warehouse:
        yield warehouse


def _lake(home: Path, dataset: str = "observation") -> Lake:
    settings = load_settings(home)
    return Lake(settings.lake_uri, settings.storage_options, dataset=dataset)


def test_stays_and_patients_are_masked_and_meet_their_observations(
    loaded: tuple[Path, str],
) -> None:
    home, _ = loaded
    tables = {
        name: _lake(home, name).published.delta.to_pyarrow_table() for name in ("observation", "encounter", "patient")
    }
    stays, patients = tables["encounter"], tables["patient"]
    assert patients.num_rows == 100
    assert set(patients["sex"].to_pylist()) == {"female", "male"}
    ages = stays["age_at_admission"].to_pylist()
    assert max(ages) == 90, "the demo has patients of up to 93"
    assert ages.count(90) > 1
    assert set(stays["patient_id"].to_pylist()) <= set(patients["patient_id"].to_pylist())
    assert set(tables["observation"]["encounter_id"].to_pylist()) <= set(stays["encounter_id"].to_pylist())
    dispositions = stays["discharge_disposition"].to_pylist()
    assert 0 < dispositions.count("Expired") <= 17
    ends = stays["discharged_at"].to_pylist()
    assert [d is None for d in dispositions] == [end is None for end in ends], "nobody knows how a stay will end"


def test_a_stay_without_its_key_is_rejected_and_the_others_go_through() -> None:
    table = pa.table({"encounter_id": ["a", None, "c"], "version": [1, 1, 1], "patient_id": ["p", "p", None],
                      "admitted_at": pa.array([0, 0, None], pa.timestamp("us"))})  # fmt: skip
    decoded = record_rows(table, load_dataset("encounter"))
    rows, message, rejects = with_key(decoded.rows, decoded.message, load_dataset("encounter"))
    assert message.tolist() == [0]
    assert rows["encounter_id"].to_pylist() == ["a"]
    assert [(r.message, r.reason, r.path, r.rows) for r in rejects] == [
        (1, Reason.NO_KEY, "encounter.encounter_id", 1), (2, Reason.NO_KEY, "encounter.admitted_at", 1),
    ]  # fmt: skip
    decoded = record_rows(table.drop_columns(["version"]), load_dataset("encounter"))
    _, message, rejects = with_key(decoded.rows, decoded.message, load_dataset("encounter"))
    assert len(message) == 0
    assert len(rejects) == 3


def test_no_patient_of_the_warehouse_is_found_in_any_byte_of_what_is_published(
    loaded: tuple[Path, str], demo_home: Path
) -> None:
    home, done = loaded
    with _warehouse(home) as warehouse:
        ids = pa.Table.from_batches(
            warehouse.read(
                "SELECT p.patient_id, hospitalization_id, name, mrn, address, CAST(birth_date AS varchar) AS born "
                "FROM hospitalization JOIN patient AS p USING (patient_id)"
            )
        )
    planted = {str(value).encode() for column in ids.columns for value in column.to_pylist() if value}
    cells = set()
    for dataset in DATASETS:
        published = _lake(home, dataset).published.delta.to_pyarrow_table()
        cells |= {str(v).encode() for name in published.schema.names for v in published[name].unique().to_pylist()}
    assert len(cells) > 10_000
    assert not planted & cells
    texts = [done.encode(), demo_home.with_name("demo.errors").read_bytes()]
    texts += [path.read_bytes() for path in (home / "lake").rglob("*.json")]
    assert not [i for i in planted for text in texts if b'"' + i + b'"' in text]


def test_what_cannot_be_loaded_says_why(home: Path) -> None:
    with pytest.raises(SettingsError, match="Unknown source"):
        load_history(load_settings(home), "nowhere")
    with pytest.raises(SettingsError, match="needs its files"):
        load_history(load_settings(home), "cinc-2012")
    with pytest.raises(SettingsError, match="missing") as lacking:
        load_history(load_settings(home), "cinc-2012", data=home)
    assert "PhysioNet" in lacking.value.remedy
    with pytest.raises(SettingsError, match="address is unknown") as unknown:
        load_history(load_settings(home), "mimic-demo", warehouse="oracle://Zzmarker@host")
    assert "Zzmarker" not in str(unknown.value)
    for address in ("postgresql://me:Zzmarker@127.0.0.1/x", "postgresql://127.0.0.1/x?user=me&password=Zzmarker"):
        with pytest.raises(SettingsError, match="Password stands") as shown:
            load_history(load_settings(home), "mimic-demo", warehouse=address)
        assert "Zzmarker" not in str(shown.value)
    with _warehouse(home) as warehouse, pytest.raises(ServiceUnavailable) as caught:
        list(warehouse.read("SELECT 'Zzmarker'::INTEGER"))
    assert "Zzmarker" not in str(caught.value)
    (home / "none.duckdb").write_bytes(b"Zzmarker" * 1000)
    with pytest.raises(ServiceUnavailable), open_warehouse("duckdb:none.duckdb", home=home):
        pass


# -- rows of a query -------------------------------------------------------------------------------------------------


def _table(identities: list[str | None], **columns: list[object]) -> pa.Table:
    count = len(identities)
    return pa.table(
        {
            "identity_system": pa.array(["s"] * count, pa.string()),
            "identity_value": pa.array(identities, pa.string()),
            "patient_id": ["p"] * count,
            "code": ["8867-4"] * count,
            "unit": ["/min"] * count,
            "status": ["final"] * count,
            "value": [72.0] * count,
            "effective_at": pa.array([1_700_000_000_000_000] * count, pa.timestamp("us")),
        }
        | columns
    )


@given(
    sizes=st.lists(st.integers(1, 4), max_size=12),
    cuts=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    rows=st.integers(1, 9),
)
def test_rows_of_one_identity_are_never_parted(sizes: list[int], cuts: list[int], rows: int) -> None:
    table = _table([f"i-{n}" for n, size in enumerate(sizes) for _ in range(size)])
    batches, begin = [], 0
    for cut in itertools.cycle(cuts):
        if begin >= table.num_rows:
            break
        batches += table.slice(begin, cut).to_batches()
        begin += cut
    parts = list(whole_messages(iter(batches), rows=rows))
    assert sum(part.num_rows for part in parts) == table.num_rows
    found = [value for part in parts for value in dict.fromkeys(part["identity_value"].to_pylist())]
    assert found == [f"i-{n}" for n in range(len(sizes))]
    assert sum(len(message_starts(part)) for part in parts) == len(sizes)


def test_a_row_without_what_it_needs_rejects_its_message_only() -> None:
    table = _table(
        ["a", "a", "b", "c", None, None, "d"],
        patient_id=["p", None, "p", "p", "p", "p", "p"],
        value=[1.0, 2.0, 3.0, None, 72.0, 72.0, 72.0],
        code=["8867-4"] * 6 + [None],
    )
    starts = message_starts(table)
    decoded = decoded_rows(table, starts)
    assert starts.tolist() == [0, 2, 3, 4, 5, 6]
    assert [(r.message, r.reason) for r in decoded.rejects] == [
        (0, Reason.NO_SUBJECT), (2, Reason.NO_VALUE), (5, Reason.NO_CODE),
    ]  # fmt: skip
    assert decoded.identities == [b"1|s|b", None, None]
    assert decoded.message.tolist() == [1, 3, 4]
    texts = RowTexts(table, starts)
    assert len(texts) == 6
    assert len(msgspec.json.decode(texts[0])) == 2
    assert msgspec.json.decode(texts[5])[0]["identity_value"] == "d"


def test_a_column_of_a_wrong_type_is_named_without_its_value() -> None:
    with pytest.raises(InputError, match="not of type double") as caught:
        table = _table(["a"], value=["Zzmarker"])
        decoded_rows(table, message_starts(table))
    assert caught.value.where == "value"
    assert "Zzmarker" not in str(caught.value)
