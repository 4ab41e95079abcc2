"""Artefacts: a loaded model equals the saved one, contains no code, and a changed byte is detected."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from models.artefact import digest_of, load, save
from models.artefact.model import MANIFEST
from models.tasks import load_task
from tests.unit.models.model_samples import fields, fit, make_matrix, make_model
from vitalake.errors import ModelError

KINDS = ("logistic-regression", "xgboost")
TASK = load_task("mortality")


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_model_gives_the_very_numbers_of_the_fitted_one(tmp_path: Path, kind: str) -> None:
    matrix = make_matrix(TASK)
    fitted = fit(kind, matrix, TASK)
    save(tmp_path / "model", fitted, **fields(TASK))
    loaded = load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.estimator.log_odds(matrix.features), fitted.log_odds(matrix.features))
    assert loaded.manifest.kind == kind
    assert loaded.features == TASK.features.names


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_alone_gives_the_very_number_it_gives_among_others(tmp_path: Path, kind: str) -> None:
    model, matrix = make_model(tmp_path / "model", kind), make_matrix(TASK)
    together = model.probabilities(matrix.features)
    assert [model.probability(row) for row in matrix.features] == together.tolist()
    assert 0.2 < together.max() - together.min() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_contributions_and_bias_add_up_to_the_log_odds(tmp_path: Path, kind: str) -> None:
    model, matrix = make_model(tmp_path / "model", kind), make_matrix(TASK)
    biases = [model.bias(row) for row in matrix.features[:20]]
    for row, bias in zip(matrix.features, biases, strict=False):
        assert model.contributions(row).shape == (len(TASK.features.names),)
        assert bias + model.contributions(row).sum() == pytest.approx(model.log_odds(row), abs=1e-9)
    assert np.ptp(biases) < 1e-4, "the average patient is the same, whoever is asked about"


@pytest.mark.parametrize("kind", KINDS)
def test_an_artefact_holds_no_pickle_and_no_code(tmp_path: Path, kind: str) -> None:
    make_model(tmp_path / "model", kind)
    files = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert files == sorted([MANIFEST, "booster.ubj" if kind == "xgboost" else "linear.json"])
    for path in (tmp_path / "model").iterdir():
        content = path.read_bytes()
        assert not content.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK", b"\x93NUMPY"))
        for word in (b"sklearn", b"joblib", b"cloudpickle", b"__reduce__", b"builtins"):
            assert word not in content


_LOAD = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from pathlib import Path
import numpy as np
from models.artefact import load
model = load(Path({folder!r}))
print(repr(model.probability(np.full(len(model.features), np.nan))))
assert not {{"mlflow", "sklearn", "pandas"}} & set(sys.modules)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_it_loads_without_what_trained_it(tmp_path: Path, kind: str) -> None:
    model = make_model(tmp_path / "model", kind)
    refused = {"sklearn", "mlflow", "pandas"} | ({"xgboost", "scipy"} if kind == "logistic-regression" else set())
    script = _LOAD.format(refused=refused, folder=str(tmp_path / "model"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == model.probability(np.full(len(model.features), np.nan))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["manifest", "parameters"])
def test_a_changed_byte_is_noticed(tmp_path: Path, kind: str, which: str) -> None:
    folder = tmp_path / "model"
    make_model(folder, kind)
    digest = digest_of(folder)
    path = folder / (MANIFEST if which == "manifest" else "booster.ubj" if kind == "xgboost" else "linear.json")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="has changed since it was registered"):
        load(folder, digest=digest)


def test_a_missing_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        load(tmp_path / "model")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    make_model(folder, "logistic-regression")
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes()) | {"format": 2}
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(ModelError, match="format"):
        load(folder)


def test_parameters_that_are_none_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    make_model(folder, "logistic-regression")
    (folder / "linear.json").write_text("{}")
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes())
    import hashlib

    manifest["parameters_sha256"] = hashlib.sha256(b"{}").hexdigest()
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(ModelError, match="cannot be read"):
        load(folder)
