"""A package brings a format, as the page shows it: streamed, masked, counted, and its patients can be erased."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from confluent_kafka import Producer

from governance.home import init_home
from governance.samples import copy_samples
from pipelines.core.dead_letters import open_message
from pipelines.simulator.broker import EmbeddedBroker, ensure_topic
from tests.documented import blocks, install, passed_own_tests, run_console
from vitalake.keys import load_keys
from vitalake.lake.commits.lake import Lake
from vitalake.lake.commits.ledger import summarise
from vitalake.settings import load_settings

PAGE = "write-a-format.md"
ROOT = Path(__file__).parents[2]
NOBODY = b"dev=PX-8 t=yesterday hr=70"
OTHERS = b"pid=0815 dev=PX-4 t=2025-06-01T10:00:00Z hr=none"
MESSAGES = (
    b"pid=4711 dev=PX-3 t=2025-06-01T10:00:00+02:00 hr=72 spo2=97",
    b"pid=0815 dev=PX-4 t=2025-06-01T10:00:00Z hr=80",
    b"pid=4711 dev=PX-3 t=2025-06-01T10:01:00+02:00 hr=a lot",
    OTHERS,
    NOBODY,
    None,
    b"pid=4711 dev=PX-3 t=2025-06-01T10:02:00Z",
)


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with ``packages`` and the home ``ward``, into which all messages were streamed by the command."""
    folder = tmp_path_factory.mktemp("format")
    install(PAGE, folder / "packages")
    init_home(folder / "ward", copy_samples)
    with EmbeddedBroker() as broker:
        (jobs,) = map(yaml.safe_load, blocks(PAGE, "yaml"))
        more = {"kafka": {"bootstrap_servers": broker.bootstrap_servers}, "observability": {"port": 0}}
        (folder / "ward" / "vitalake.yaml").write_text(yaml.safe_dump(jobs | more))
        ensure_topic(broker.bootstrap_servers, "pumps", 1)
        producer = Producer({"bootstrap.servers": broker.bootstrap_servers})
        for payload in MESSAGES:
            producer.produce("pumps", payload)
        assert producer.flush(30) == 0
        said = _run(folder, "vitalake stream --home ward --until-idle 2s --json")
        assert said.endswith("\n0\n"), said
        yield folder


def _run(folder: Path, command: str, packages: str = "packages") -> str:
    (run,) = run_console(f"$ {command}; echo $?\n", folder, PYTHONPATH=str(folder / packages))
    return run.said


@pytest.fixture
def ward(streamed: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(streamed, tmp_path / "copy")
    return tmp_path / "copy"


def _letters(folder: Path) -> list[bytes]:
    """Return the messages in every file of the dead letters, those of older versions too."""
    settings = load_settings(folder / "ward")
    keys = load_keys(settings.path(settings.keys))
    files = sorted((folder / "ward/lake/quarantine/dead_letter").glob("day=*/*.parquet*"))
    return sorted(open_message(row, keys).payload for path in files for row in pq.ParquetFile(path).read().to_pylist())


def _published(folder: Path) -> list[dict[str, object]]:
    lake = Lake(load_settings(folder / "ward").lake_uri, {})
    return list(lake.published.delta.to_pyarrow_table().to_pylist())


def test_a_topic_of_the_format_is_streamed_masked_and_counted(streamed: Path) -> None:
    counts = summarise(Lake(load_settings(streamed / "ward").lake_uri, {}).spans).total.counts
    assert (counts.messages, counts.decoded, counts.undecodable, counts.tombstones) == (7, 3, 3, 1)
    assert (counts.rows, counts.published) == (3, 3)
    rows = _published(streamed)
    assert sorted((row["code"], row["value"]) for row in rows) == [
        ("59408-5", 97.0),
        ("8867-4", 72.0),
        ("8867-4", 80.0),
    ]
    assert not [value for row in rows for value in row.values() if "4711" in str(value) or "PX-3" in str(value)]
    assert len(_letters(streamed)) == 3


@pytest.mark.parametrize("packages", ["packages", "none"], ids=["installed", "uninstalled"])
def test_its_patient_is_erased_with_the_dead_letters_also_when_the_package_is_gone(ward: Path, packages: str) -> None:
    said = _run(ward, "vitalake patient erase 'PX|4711' --reason request --yes --home ward", packages)
    assert said.endswith("\n0\n"), said
    assert [row["value"] for row in _published(ward)] == [80.0]
    assert _letters(ward) == sorted([OTHERS, NOBODY])


def test_its_patient_is_erased_when_the_package_cannot_be_imported_any_more(ward: Path) -> None:
    (ward / "packages/hospital_formats/pairs.py").write_text("raise ValueError('Zzmarker')\n")
    said = _run(ward, "vitalake patient erase 'PX|4711' --reason request --yes --home ward")
    assert said.endswith("\n0\n") and "Zzmarker" not in said
    assert _letters(ward) == sorted([OTHERS, NOBODY])


def test_without_the_package_a_stream_ends_before_it_reads_and_names_the_formats(ward: Path) -> None:
    said = _run(ward, "vitalake stream --home ward --until-idle 1s", "none")
    assert "Error: Format is not registered: pairs. The formats are: fhir, flat, hl7-v2." in said
    assert said.endswith("\n10\n")
    (ward / "packages/hospital_formats/pairs.py").write_text("raise ValueError('Zzmarker')\n")
    said = _run(ward, "vitalake stream --home ward --until-idle 1s")
    assert "Plug-in cannot be loaded (ValueError): entry point vitalake.formats: pairs = hospital_formats" in said
    assert said.endswith("\n10\n") and "Zzmarker" not in said


def test_the_console_of_the_page_says_what_it_shows(ward: Path) -> None:
    (console,) = blocks(PAGE, "console")
    for run in run_console(console, ward, PYTHONPATH=str(ward / "packages")):
        assert run.said == run.shown, run.command


def test_the_package_s_own_tests_run_through_the_contract(streamed: Path) -> None:
    packages = streamed / "packages"
    assert passed_own_tests(packages, "test_hospital_formats.py") == 13
