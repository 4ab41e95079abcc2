"""Revoked means revoked: what is identified stops within a second, says so, and goes on by itself; it is on record."""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from governance.audit import latest, verify_chain
from governance.home import init_home
from governance.keyservice import KeyRevoked
from governance.samples import copy_samples
from models.serving.scores import FILE, ScoreBook
from pipelines.online_store.opening import open_online_store, store_sealer
from pipelines.online_store.store import OnlineStore
from tests.services.serving import STABLE, WardUnderTest, as_json, serving
from tests.services.waiting import until
from vitalake.cli.app import main
from vitalake.errors import PrivacyError
from vitalake.sealing import Sealer

HTML = {"accept": "text/html"}


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[WardUnderTest]:
    """A ward with a patient of whom the name is known."""
    init_home(tmp_path / "home", copy_samples)
    ward = WardUnderTest(tmp_path / "home")
    patient = ward.admit("p-1", name="Zzname, Zzgiven", mrn="ZZ-1")
    ward.measure(patient, STABLE)
    yield ward
    ward.store.close()


def test_everything_identified_stops_within_a_second_and_comes_back_by_itself(ward: WardUnderTest) -> None:
    patient, home = ward.token("p-1"), ["--home", str(ward.home)]
    clinician, page = ward.bearer(), ward.bearer() | HTML
    with serving(ward.settings) as served, httpx.Client(base_url=served.address, timeout=30) as client:

        def risk() -> int:
            return client.get(f"/v1/patients/{patient}/risk", headers=clinician).status_code

        until(lambda: "Zzname" in client.get(f"/patients/{patient}", headers=page).text)
        until(lambda: patient in client.get("/board", headers=page).text)
        assert main(["keys", "revoke", *home]) == 0
        until(lambda: risk() == 503)
        answer = client.get(f"/v1/patients/{patient}/risk", headers=clinician)
        assert "Wrapping key is revoked" in as_json(answer)["detail"]
        shown = client.get(f"/patients/{patient}", headers=page)
        assert shown.status_code == 200
        assert "Name, values and scores cannot be shown: Wrapping key is revoked." in html.unescape(shown.text)
        assert "Zzname" not in shown.text
        until(lambda: patient not in client.get("/board", headers=page).text)
        with client.stream("GET", "/board/events", headers=clinician) as events:
            assert "No patient data are shown" in next(line for line in events.iter_lines() if "locked" in line)
        with pytest.raises(KeyRevoked):
            ward.measure(patient, STABLE)
        with pytest.raises(KeyRevoked):
            ward.store.history(patient)
        with closing(open_online_store(ward.settings, ward.keys)) as care, pytest.raises(KeyRevoked):
            care.history(patient)
        assert main(["keys", "revoke", "--undo", *home]) == 0
        until(lambda: risk() == 200)
        until(lambda: "Zzname" in client.get(f"/patients/{patient}", headers=page).text)
        until(lambda: patient in client.get("/board", headers=page).text)
        ward.measure(patient, STABLE)


def test_an_open_page_of_a_patient_is_told_that_it_is_locked(ward: WardUnderTest) -> None:
    patient, home = ward.token("p-1"), ["--home", str(ward.home)]
    with serving(ward.settings) as served, httpx.Client(base_url=served.address, timeout=30) as client:
        until(lambda: patient in client.get("/board", headers=ward.bearer() | HTML).text)
        with client.stream("GET", f"/patients/{patient}/events", headers=ward.bearer()) as events:
            lines = (line for line in events.iter_lines() if line.startswith("data:") and '"patient"' in line)
            assert '"locked":false' in next(lines)
            assert main(["keys", "revoke", *home]) == 0
            locked = next(line for line in lines if '"locked":true' in line)
            assert '"html":""' in locked
            assert main(["keys", "revoke", "--undo", *home]) == 0
            assert "score" in next(line for line in lines if '"locked":false' in line)


def test_what_lies_beside_the_stores_does_not_open_them(ward: WardUnderTest) -> None:
    patient, path = ward.token("p-1"), ward.home / "care.db"
    with closing(OnlineStore(path, Sealer(ward.keys.current("care")), hours=54)) as stolen:
        with pytest.raises(PrivacyError):
            stolen.history(patient)
    assert len(ward.store.history(patient)) == len(STABLE)


def test_stores_of_an_earlier_release_stay_readable_and_are_locked_with_the_others(ward: WardUnderTest) -> None:
    patient = ward.token("p-1")
    ward.store.close()
    (ward.home / "care.db").unlink()
    ward.store = OnlineStore(ward.home / "care.db", Sealer(ward.keys.current("care")), hours=54)
    ward.measure(patient, STABLE)
    ward.store.close()
    ward.store = open_online_store(ward.settings, ward.keys)
    assert len(ward.store.history(patient)) == len(STABLE)
    ward.measure(patient, STABLE)  # into the block that the old key has sealed
    assert len(ward.store.history(patient)) > 0
    assert main(["keys", "rotate", "--home", str(ward.home)]) == 0  # wraps its key again
    assert len(ward.store.history(patient)) > 0
    assert main(["keys", "revoke", "--home", str(ward.home)]) == 0
    with pytest.raises(KeyRevoked):
        until(lambda: ward.store.history(patient) is None)


def test_key_use_is_on_record_once_for_each_process_purpose_and_key(ward: WardUnderTest) -> None:
    patient = ward.token("p-1")
    with serving(ward.settings) as served, httpx.Client(base_url=served.address, timeout=30) as client:
        for _ in range(3):
            until(lambda: "Zzname" in client.get(f"/patients/{patient}", headers=ward.bearer() | HTML).text)
    book = ScoreBook(ward.home / FILE, store_sealer(ward.settings, ward.keys, "scores", purpose="scores"))
    assert book.count() > 0
    book.close()
    folder = ward.settings.path(ward.settings.audit)
    used = [seen.detail for seen in latest(folder, ward.keys, limit=1000) if seen.action == "keys.use"]
    assert sorted(detail["purpose"] for detail in used) == ["care", "names", "scores"]
    assert all(detail["key"].startswith("local/") for detail in used)
    assert main(["keys", "rotate", "--home", str(ward.home)]) == 0
    ward.store.hold()
    used = [seen.detail for seen in latest(folder, ward.keys, limit=1000) if seen.action == "keys.use"]
    assert {detail["key"].rpartition("/")[2] for detail in used} == {"v1", "v2"}
    assert verify_chain(folder, ward.keys).whole
