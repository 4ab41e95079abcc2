"""The registry: written through MLflow, read without it; it contains no path, no patient and no pickle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from models.artefact import save
from models.registry import Champion, champion
from models.registry.champion import ARTIFACTS, DATABASE
from models.registry.tracking import Run
from models.tasks import load_task
from tests.unit.models.model_samples import fields, fit, make_matrix, tracking
from vitalake.errors import ModelError
from vitalake.settings import Settings, load_settings

pytestmark = pytest.mark.slow

TASK = load_task("mortality")


@pytest.fixture
def settings(home: Path) -> Settings:
    return load_settings(home)


def _register(settings: Settings, folder: Path, *, promote: bool = True, seed: int = 3, digest: str = "") -> str:
    name = f"model-{seed}"
    estimator = fit("logistic-regression", make_matrix(TASK, seed=seed), TASK)
    save(folder / name, estimator, **fields(TASK, **({"task_digest": digest} if digest else {})))
    registry = tracking(settings.path(settings.models))
    run = Run(
        name="logistic-regression",
        parameters={"C": 0.03},
        figures={"auroc": 0.8},
        tags={"vitalake.training": "x"},
        files={"card.md": b"# card\n"},
        model=folder / name,
    )
    run_id = registry.record("mortality", run)
    return registry.register("mortality", run_id, experiment="mortality", description="made-up", champion=promote)


def test_without_a_registry_there_is_no_champion(settings: Settings) -> None:
    assert champion(settings, TASK) is None
    assert Champion(settings, TASK).current() is None


def test_the_champion_is_the_version_the_alias_points_to(settings: Settings, tmp_path: Path) -> None:
    watch = Champion(settings, TASK)
    assert watch.current() is None
    assert _register(settings, tmp_path) == "1"
    first = watch.current()
    assert first is not None and first.label == "mortality/1"
    assert watch.current() is first, "nothing has changed, so nothing is loaded"
    _register(settings, tmp_path, promote=False, seed=4)
    assert watch.current() is first, "a version without the alias is not served"
    _register(settings, tmp_path, seed=5)
    second = watch.current()
    assert second is not None and second.label == "mortality/3"
    assert second.digest != first.digest
    found = champion(settings, TASK)
    assert found is not None and found.digest == second.digest


def test_mlflow_reads_what_was_written(settings: Settings, tmp_path: Path) -> None:
    _register(settings, tmp_path)
    from mlflow import MlflowClient

    address = f"sqlite:///{settings.path(settings.models) / DATABASE}"
    client = MlflowClient(tracking_uri=address, registry_uri=address)
    version = client.get_model_version_by_alias("mortality", "champion")
    run = client.get_run(str(version.run_id))
    assert run.data.metrics == {"auroc": 0.8}
    assert run.data.params == {"C": "0.03"}
    assert run.info.status == "FINISHED"


def test_nothing_names_a_path_of_this_machine(settings: Settings, tmp_path: Path) -> None:
    _register(settings, tmp_path)
    folder = settings.path(settings.models)
    for path in [p for p in folder.rglob("*") if p.is_file()]:
        content = path.read_bytes()
        for place in (str(tmp_path), str(folder), str(Path.cwd()), str(Path.home()) + "/"):
            assert place.encode() not in content, path.name


def test_the_folder_can_be_moved(settings: Settings, tmp_path: Path) -> None:
    _register(settings, tmp_path)
    folder = settings.path(settings.models)
    folder.rename(folder.with_name("elsewhere"))
    moved = settings.model_copy(update={"models": Path("elsewhere")})
    found = champion(moved, TASK)
    assert found is not None and found.label == "mortality/1"


def test_what_was_changed_is_refused_and_stays_refused(settings: Settings, tmp_path: Path) -> None:
    _register(settings, tmp_path)
    (parameters,) = (settings.path(settings.models) / ARTIFACTS).rglob("linear.json")
    parameters.write_bytes(parameters.read_bytes() + b" ")
    watch = Champion(settings, TASK)
    for _ in range(2):
        with pytest.raises(ModelError, match="has changed since it was registered"):
            watch.current()


def test_a_model_of_another_declaration_is_refused(settings: Settings, tmp_path: Path) -> None:
    _register(settings, tmp_path, digest="0" * 16)
    with pytest.raises(ModelError, match="another declaration"):
        champion(settings, TASK)


@pytest.mark.parametrize("source", ["/etc", "file:///etc", "mlflow-artifacts:/../../../etc", "s3://bucket/model"])
def test_a_model_from_elsewhere_is_refused(settings: Settings, tmp_path: Path, source: str) -> None:
    import sqlite3

    _register(settings, tmp_path)
    connection = sqlite3.connect(settings.path(settings.models) / DATABASE)
    with connection:
        connection.execute("UPDATE model_versions SET source = ?", (source,))
    connection.close()
    with pytest.raises(ModelError, match="not registered by vitalake"):
        champion(settings, TASK)


def test_a_file_that_is_no_database_says_so(settings: Settings) -> None:
    folder = settings.path(settings.models)
    folder.mkdir()
    (folder / DATABASE).write_text("not a database, and long enough not to be taken for an empty one" * 20)
    with pytest.raises(ModelError, match="cannot be read"):
        champion(settings, TASK)


def test_serving_does_not_load_mlflow() -> None:
    script = (
        "import sys, models.registry, models.scoring\n"
        "assert not {'mlflow', 'sklearn', 'xgboost', 'pandas', 'sqlalchemy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
