"""The served endpoint as programs meet it: one record everywhere, closed by default, and nothing echoed."""

from __future__ import annotations

import html
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.riskassessment import RiskAssessment

from governance.audit import AuditEvent, who_saw
from governance.belonging import open_vault
from governance.home import init_home
from governance.policy.masks import Pseudonyms
from governance.samples import copy_samples
from models.approvals import Approvals, withdrawal
from models.serving.fhir import MEDIA
from models.serving.problems import PROBLEM
from models.serving.scores import FILE, ScoreBook
from models.serving.security import MOST_BYTES, POLICY
from pipelines.online_store.facts import Movement
from pipelines.online_store.opening import store_sealer
from pipelines.online_store.playback import Replay
from tests.services.serving import HOUR, ILL, MINUTE, STABLE, Served, WardUnderTest, as_json, copied, serving
from tests.services.waiting import until
from vitalake import clock
from vitalake.errors import ServiceUnavailable
from vitalake.logs import configure

HTML = {"accept": "text/html"}
MARKER = "Zz-Marker-Planted"
UNKNOWN = "v1." + "a" * 32
PAGES = ("/", "/board", "/board/events", f"/patients/{UNKNOWN}", f"/patients/{UNKNOWN}/events", "/ledger", "/audit")


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> WardUnderTest:
    folder = tmp_path_factory.mktemp("ward")
    init_home(folder / "home", copy_samples)
    found = WardUnderTest(folder / "home")
    found.register_model(folder / "model")
    found.approve()
    for number, values in enumerate((STABLE, ILL)):
        patient = found.admit(f"p-{number}", bed=f"Bed {number + 1}", name=f"{MARKER}, Name", mrn=f"M-{number}")
        found.chart(patient, values)
    return found


@pytest.fixture(scope="module")
def served(ward: WardUnderTest) -> Iterator[Served]:
    with serving(ward.settings) as found:
        yield found


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.address, timeout=20) as found:
        yield found


def _events(client: httpx.Client, address: str, headers: dict[str, str], count: int) -> list[dict[str, Any]]:
    """Return the first events of a stream."""
    found: list[dict[str, Any]] = []
    with client.stream("GET", address, headers=headers) as response:
        assert response.status_code == 200, response.read()
        event: dict[str, Any] = {}
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            if name in ("id", "event"):
                event[name] = value
            elif name == "data":
                event["data"] = msgspec.json.decode(value)
                found.append(event)
                event = {}
            if len(found) == count:
                break
    return found


def _until(client: httpx.Client, address: str, headers: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the data of a stream's events."""
    with client.stream("GET", address, headers=headers) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                yield msgspec.json.decode(line[6:])


# -- one record ------------------------------------------------------------------------------------------------------


def test_board_risk_and_score_give_the_same_record(ward: WardUnderTest, client: httpx.Client) -> None:
    patient = ward.token("p-1")
    risk = as_json(client.get(f"/v1/patients/{patient}/risk", headers=ward.bearer()))
    score = as_json(client.post("/v1/score", json={"patient": patient}, headers=ward.bearer()))
    fhir = as_json(client.get(f"/v1/patients/{patient}/risk", headers=ward.bearer() | {"accept": MEDIA}))
    board = client.get("/board", headers=ward.bearer() | HTML).text
    page = client.get(f"/patients/{patient}", headers=ward.bearer() | HTML).text
    for document in (risk, score):
        for aged in (document, *document["reasons"]):  # what depends on the moment of asking
            aged.pop("newest_age_seconds", None)
            aged.pop("age_seconds", None)
    assert risk == score
    assert fhir["id"] == risk["id"]
    row = next(row for row in board.split("<tr ") if patient in row)
    assert f'data-score="{risk["id"]}"' in row
    assert f'data-total="{risk["news2"]["total"]}"' in row
    assert f'data-score="{risk["id"]}"' in page
    assert 0 < risk["probability"] < 1
    assert risk["reasons"]
    assert {reason["direction"] for reason in risk["reasons"]} <= {"raises", "lowers", "not-known"}
    assert (risk["status"], risk["approved"], risk["stale"], risk["abstained"]) == ("approved", True, False, "")


def test_the_record_stays_until_evidence_comes_also_for_another_server(
    ward: WardUnderTest, client: httpx.Client
) -> None:
    patient = ward.admit("p-again")
    ward.chart(patient, STABLE)
    address = f"/v1/patients/{patient}/risk"
    before = as_json(client.get(address, headers=ward.bearer()))
    with serving(ward.settings) as other:
        again = as_json(httpx.get(other.address + address, headers=ward.bearer()))
    assert {name: again[name] for name in ("id", "computed_us", "as_of_us")} == {
        name: before[name] for name in ("id", "computed_us", "as_of_us")
    }
    moment = ward.measure(patient, {"8867-4": 121})
    after = as_json(client.get(address, headers=ward.bearer()))
    assert after["newest_us"] == moment
    assert after["id"] != before["id"]


def test_a_record_is_sealed_and_its_features_are_kept(
    ward: WardUnderTest, client: httpx.Client, tmp_path: Path
) -> None:
    risk = as_json(client.get(f"/v1/patients/{ward.token('p-1')}/risk", headers=ward.bearer()))
    path = ward.settings.path(FILE)
    home = copied(ward.home, tmp_path / "copy")
    content = b"".join(found.read_bytes() for found in home.rglob(f"{path.name}*"))
    assert content and ward.token("p-1").encode() not in content
    assert path.stat().st_mode & 0o77 == 0
    book = ScoreBook(path, store_sealer(ward.settings, ward.keys, "scores", purpose="test"))
    features = book.features(risk["id"])
    book.close()
    assert features is not None
    assert len(features) > 100


def test_fhir_answers_are_valid(ward: WardUnderTest, client: httpx.Client) -> None:
    patient = ward.token("p-1")
    one = client.get(f"/v1/patients/{patient}/risk", headers=ward.bearer() | {"accept": MEDIA})
    assert one.headers["content-type"] == MEDIA
    resource = RiskAssessment.model_validate_json(one.content)
    assert resource.status == "preliminary"
    assert 0 < resource.prediction[1].probabilityDecimal < 100
    for asked in (patient, f"Patient/{patient}"):
        found = client.get("/fhir/RiskAssessment", params={"patient": asked}, headers=ward.bearer())
        assert Bundle.model_validate_json(found.content).total == 1
    nobody = client.get("/fhir/RiskAssessment", params={"patient": UNKNOWN}, headers=ward.bearer())
    assert Bundle.model_validate_json(nobody.content).total == 0


def test_no_model_and_too_few_values_abstain_and_news2_is_partial(home: Path) -> None:
    ward = WardUnderTest(home)
    patient = ward.admit("p-few")
    ward.measure(patient, {"8867-4": 135}, at_us=clock.now_us() - 3 * HOUR)
    with serving(ward.settings) as served:
        address = f"{served.address}/v1/patients/{patient}/risk"
        risk = as_json(httpx.get(address, headers=ward.bearer()))
        assert risk["probability"] is None
        assert risk["abstained"] == "outside-cohort"
        assert risk["abstained_because"]
        assert risk["stale"] is True
        assert risk["news2"]["total"] == 3
        assert "consciousness" in risk["news2"]["missing"]
        ward.chart(patient, STABLE)
        assert as_json(httpx.get(address, headers=ward.bearer()))["abstained"] == "no-model"
        fhir = httpx.get(address, headers=ward.bearer() | {"accept": MEDIA})
        assert len(RiskAssessment.model_validate_json(fhir.content).prediction) == 1, "NEWS2 alone"


def test_changed_rules_silence_the_model_until_it_is_trained_again(ward: WardUnderTest, tmp_path: Path) -> None:
    home = tmp_path / "home"
    copied(ward.home, home)
    copy = WardUnderTest(home)
    patient = copy.token("p-0")
    with serving(copy.settings) as served:
        address = f"{served.address}/v1/patients/{patient}/risk"
        assert as_json(httpx.get(address, headers=copy.bearer()))["abstained"] == ""
        rules = home / "governance" / "limited-data-set.yaml"
        before = rules.read_text()
        rules.write_text(before.replace("reason: ", "reason: Changed. ", 1))
        changed = as_json(httpx.get(address, headers=copy.bearer()))
        assert changed["abstained"] == "policy-changed"
        assert changed["probability"] is None
        assert changed["news2"]["total"] is not None
        rules.write_text(before.replace("mask: cap", "mask: nonsense"))
        broken = httpx.get(address, headers=copy.bearer())
        assert broken.status_code == 503, "under rules that do not hold nothing is scored"
        rules.write_text(before)
        assert as_json(httpx.get(address, headers=copy.bearer()))["abstained"] == ""


def test_an_age_above_the_cap_is_the_cap(ward: WardUnderTest, client: httpx.Client) -> None:
    ids = []
    for source in ("p-old", "p-older"):
        patient = ward.admit(source, age=90 if source == "p-old" else 97)
        ward.chart(patient, {"8867-4": 80.0})
        risk = as_json(client.get(f"/v1/patients/{patient}/risk", headers=ward.bearer()))
        book = ScoreBook(ward.settings.path(FILE), store_sealer(ward.settings, ward.keys, "scores", purpose="test"))
        features = book.features(risk["id"])
        book.close()
        assert features is not None
        ids.append(90.0 in features.tolist())
        assert 97.0 not in features.tolist()
    assert ids == [True, True]


# -- what who acts is shown ------------------------------------------------------------------------------------------


def test_an_unapproved_score_is_nowhere_where_people_act_and_one_approval_does_not_change_that(
    ward: WardUnderTest, tmp_path: Path
) -> None:
    """Board, page, endpoint and FHIR showed it beside the words "not approved"."""
    home = tmp_path / "home"
    copied(ward.home, home)
    (home / "approvals.db").unlink()
    copy = WardUnderTest(home, writes=ward.writes)
    patient = copy.token("p-1")
    with serving(copy.settings) as served, httpx.Client(base_url=served.address, timeout=20) as client:

        def risk() -> Any:
            return as_json(client.get(f"/v1/patients/{patient}/risk", headers=copy.bearer()))

        for accounts in ((), (1001,), (1001,)):
            copy.approve(accounts=accounts)
            found = risk()
            assert (found["probability"], found["reasons"], found["abstained"]) == (None, [], "not-approved")
            assert (found["status"], found["approved"], found["trial"]) == ("shadow", False, None)
            asked = client.get(f"/v1/patients/{patient}/risk", headers=copy.bearer() | {"accept": MEDIA})
            assert len(as_json(asked)["prediction"]) == 1
            board = client.get("/board", headers=copy.bearer() | HTML).text
            page = client.get(f"/patients/{patient}", headers=copy.bearer() | HTML).text
            assert "percent" not in board
            assert "with-learnt" not in board
            assert "Learnt risk" not in page
        copy.approve(accounts=(1002,))
        assert risk()["status"] == "approved"
        assert 0 < risk()["probability"] < 1
        other = copy.admit("p-elsewhere")
        copy.store.put_facts(
            [(other, "move-p-elsewhere", 2, Movement("stay-p-elsewhere", clock.now_us() - HOUR, None, "surgical", ""))]
        )
        copy.chart(other, STABLE)
        elsewhere = as_json(client.get(f"/v1/patients/{other}/risk", headers=copy.bearer()))
        assert elsewhere["abstained"] == "not-approved", "of another unit"
        book = Approvals(home, copy.keys)
        book.add(withdrawal(task="mortality", unit="medical_icu", account=7, by="local:x", reason="drift"))
        book.close()
        assert risk()["probability"] is None
        assert risk()["id"] == found["id"], "the record is the same, with or without"


def test_a_clinicians_decision_changes_how_saturation_is_read_and_is_on_record(
    ward: WardUnderTest, client: httpx.Client
) -> None:
    patient = ward.admit("p-copd", name="Scale, Two")
    ward.measure(patient, STABLE | {"59408-5": 90, "3151-8": 2})
    address, headers = f"/patients/{patient}", ward.bearer() | HTML

    def parts() -> Any:
        news2 = as_json(client.get(f"/v1/patients/{patient}/risk", headers=ward.bearer()))["news2"]
        return news2["parts"]["oxygen_saturation"], news2["scale"]

    assert parts() == (3, 1)
    for form in ({"kind": "spo2-scale-2", "reason": "free words"}, {"kind": "other", "reason": "blood-gas-now"}):
        assert client.post(f"{address}/decisions", data=form, headers=headers).status_code == 422
    decided = {"kind": "spo2-scale-2", "reason": "blood-gas-now"}
    for role in ("officer", "engineer"):
        assert client.post(f"{address}/decisions", data=decided, headers=ward.bearer(role)).status_code == 403
    assert client.post(f"{address}/decisions", data=decided, headers=headers).status_code == 303
    assert parts() == (0, 2)
    page = client.get(address, headers=headers).text
    assert "hypercapnic respiratory failure on blood gas, this stay; decided by clinician" in page

    def row() -> str:
        rows = client.get("/board", headers=headers).text.split("<tr ")
        return next((row for row in rows if patient in row), "")  # one who was admitted just now may not be there yet

    until(lambda: "SpO₂ scale 2" in row())  # a busy patient's row is calmed
    seen = who_saw(ward.settings.path(ward.settings.audit), ward.keys, patient)
    made = [one for one in seen if one.action == "decision.write"]
    assert [(one.actor, one.detail) for one in made] == [
        ("clinician", {"kind": "spo2-scale-2", "holds": "yes", "reason": "blood-gas-now"})
    ]
    ended = {"kind": "spo2-scale-2", "reason": "entered-in-error"}
    client.post(f"{address}/decisions", data=ended, headers=headers)
    assert parts() == (3, 1)
    client.post(f"{address}/decisions", data={"kind": "pregnancy", "reason": "test-or-scan"}, headers=headers)
    risk = as_json(client.get(f"/v1/patients/{patient}/risk", headers=ward.bearer()))
    assert (risk["news2"]["total"], risk["news2"]["withheld"]) == (None, "pregnancy")
    assert risk["withheld_because"]


def test_the_board_says_who_and_where_also_before_the_first_value(ward: WardUnderTest, client: httpx.Client) -> None:
    patient = ward.admit("p-empty", bed="Bed 9", name="O'Neil & <b>Sons</b>")

    def row() -> str:
        found = client.get("/board", headers=ward.bearer() | HTML).text.split("<tr ")
        return next((one for one in found if patient in one), "")

    until(row)
    assert "Bed 9" in row()
    assert "O&#39;Neil &amp; &lt;b&gt;Sons&lt;/b&gt;" in row()
    assert "no value yet" in row()
    assert "Medical ICU" in row()
    seen = who_saw(ward.settings.path(ward.settings.audit), ward.keys, patient)
    assert ("identity.read", "board") in {(one.action, one.detail.get("stage")) for one in seen}
    risk = as_json(client.get(f"/v1/patients/{patient}/risk", headers=ward.bearer()))
    assert (risk["band"], risk["news2"]["total"], risk["stale"]) == ("none", None, True)


def test_a_potassium_does_not_make_old_vital_signs_new(ward: WardUnderTest, client: httpx.Client) -> None:
    """Vital signs of 40 h ago gave 19, high, not partial; a potassium later nothing was known, at the bottom."""
    now, patient = clock.now_us(), ward.admit("p-40h")
    ward.measure(patient, ILL | {"3151-8": 6}, at_us=now - 30 * HOUR)
    address = f"/v1/patients/{patient}/risk"
    for potassium in (False, True):
        if potassium:
            ward.measure(patient, {"2823-3": 4.1})
        risk = as_json(client.get(address, headers=ward.bearer()))
        assert (risk["news2"]["total"], risk["stale"], risk["band"]) == (None, True, "none")
        assert risk["newest_us"] == now - 30 * HOUR
        assert as_json(client.get(address, headers=ward.bearer() | {"accept": MEDIA}))["prediction"][0].keys() == {
            "outcome", "rationale"
        }, "no likelihood of who is not known"  # fmt: skip

    def rows() -> list[str]:
        page = client.get("/board", headers=ward.bearer() | HTML).text
        return [row for row in page.split("<tr ") if "data-order" in row]

    until(lambda: any(patient in row and re.search(r"was \d+, <time[^>]*>1 d</time> ago", row) for row in rows()))
    shown = rows()
    mine = next(i for i, row in enumerate(shown) if patient in row)
    lows = [i for i, row in enumerate(shown) if 'class="low' in row]
    assert all(mine < low for low in lows), "set apart, above who is known to be well"


# -- closed ----------------------------------------------------------------------------------------------------------


def test_without_a_token_there_is_nothing(ward: WardUnderTest, client: httpx.Client) -> None:
    patient = ward.token("p-0")
    answers = [
        client.get(f"/v1/patients/{patient}/risk"),
        client.post("/v1/score", json={"patient": patient}),
        client.get("/fhir/RiskAssessment", params={"patient": patient}),
        client.post("/audit", data={"by": "mrn", "key": "M-0"}),
        *(client.get(path) for path in PAGES),
        client.get(f"/v1/patients/{patient}/risk", headers={"authorization": "Bearer nonsense"}),
        client.get(f"/v1/patients/{patient}/risk", headers={"authorization": "Basic bm9uc2Vuc2U="}),
    ]
    for answer in answers:
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["content-type"] == PROBLEM
        assert "risk" not in answer.text
    for path in PAGES:
        answer = client.get(path, headers=HTML)
        assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("user", "method", "path", "permission"),
    [
        ("engineer", "GET", f"/v1/patients/{UNKNOWN}/risk", "risk:read"),
        ("officer", "GET", f"/fhir/RiskAssessment?patient={UNKNOWN}", "risk:read"),
        ("engineer", "POST", "/v1/score", "score:write"),
        ("engineer", "GET", "/board", "risk:read"),
        ("officer", "GET", "/board/events", "risk:read"),
        ("engineer", "GET", f"/patients/{UNKNOWN}", "risk:read"),
        ("officer", "GET", f"/patients/{UNKNOWN}/events", "risk:read"),
        ("clinician", "GET", "/ledger", "ledger:read"),
        ("clinician", "GET", "/audit", "audit:read"),
        ("engineer", "POST", "/audit", "audit:read"),
    ],
)
def test_the_wrong_role_is_told_the_permission_and_that_is_recorded(
    ward: WardUnderTest, client: httpx.Client, user: Any, method: str, path: str, permission: str
) -> None:
    arguments: dict[str, Any] = {}
    if method == "POST":
        arguments = {"json": {"patient": UNKNOWN}} if path == "/v1/score" else {"data": {"by": "token", "key": UNKNOWN}}
    before = len(_denied(ward, permission))
    answer = client.request(method, path, headers=ward.bearer(user), **arguments)
    assert answer.status_code == 403
    assert as_json(answer)["permission"] == permission
    assert len(_denied(ward, permission)) == before + 1
    shown = client.request(method, path, headers=ward.bearer(user) | HTML, **arguments)
    assert shown.status_code == 403
    assert permission in shown.text


def _denied(ward: WardUnderTest, permission: str) -> list[Any]:
    from governance.audit import latest

    seen = latest(ward.settings.path(ward.settings.audit), ward.keys, limit=10_000)
    return [one for one in seen if one.action == "denied" and one.detail.get("permission") == permission]


class _Full:
    """A recorder whose disk is full."""

    def record(self, event: AuditEvent) -> None:
        self.record_all([event])

    def record_all(self, events: Sequence[AuditEvent]) -> None:
        raise ServiceUnavailable("Audit cannot be written", where="settings.audit", remedy="Make room.")


def test_nothing_is_answered_that_cannot_be_recorded(ward: WardUnderTest) -> None:
    patient = ward.token("p-0")
    with serving(ward.settings, audit=_Full()) as served, httpx.Client(base_url=served.address) as client:
        answers = [
            client.get(f"/v1/patients/{patient}/risk", headers=ward.bearer()),
            client.post("/v1/score", json={"patient": patient}, headers=ward.bearer()),
            client.get("/fhir/RiskAssessment", params={"patient": patient}, headers=ward.bearer()),
            client.get("/board", headers=ward.bearer()),
            client.get("/board/events", headers=ward.bearer()),
            client.get(f"/patients/{patient}", headers=ward.bearer()),
            client.get("/audit", headers=ward.bearer("officer")),
            client.post("/sign-in", data={"user": "clinician"}),
        ]
    for answer in answers:
        assert answer.status_code == 503, answer.request.url
        assert answer.headers["content-type"] == PROBLEM
        assert patient not in answer.text
        assert "set-cookie" not in answer.headers


def test_every_access_is_on_record(ward: WardUnderTest, client: httpx.Client) -> None:
    patient = ward.admit("p-seen", name="Seen, Ada", mrn="M-seen")
    ward.chart(patient, STABLE)
    client.get(f"/v1/patients/{patient}/risk", headers=ward.bearer())
    client.post("/v1/score", json={"patient": patient}, headers=ward.bearer())
    client.get(f"/patients/{patient}", headers=ward.bearer() | HTML)
    seen = who_saw(ward.settings.path(ward.settings.audit), ward.keys, patient)
    assert [one.action for one in seen] == ["risk.read", "score.write", "risk.read", "identity.read"]
    answer = client.post("/audit", data={"by": "mrn", "key": "M-seen"}, headers=ward.bearer("officer") | HTML)
    assert "saw the name" in answer.text
    assert "the audit's chains are intact" in html.unescape(answer.text)
    assert "Seen, Ada" not in answer.text
    renamed = "v2." + "b" * 32
    with closing(open_vault(ward.settings, ward.keys)) as vault:
        before = Pseudonyms(ward.keys, "patient-identifier").token
        vault.retoken(lambda source: renamed if source == "p-seen" else before(source))
    for by, key in (("mrn", "M-seen"), ("token", patient), ("token", renamed)):
        again = client.post("/audit", data={"by": by, "key": key}, headers=ward.bearer("officer") | HTML)
        assert "saw the name" in again.text, "under a new pseudonym what was seen under the old one is found"
        assert "Under all current and former pseudonyms of the patient" in again.text
    for key in ("M-nobody", UNKNOWN):
        by = "mrn" if key.startswith("M") else "token"
        nobody = client.post("/audit", data={"by": by, "key": key}, headers=ward.bearer("officer") | HTML)
        assert nobody.status_code == 200
        assert key not in nobody.text


def test_a_session_ends_with_the_sign_out_and_opens_pages_only(ward: WardUnderTest, client: httpx.Client) -> None:
    answer = client.post("/sign-in", data={"user": "clinician"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/board")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    held = dict(client.cookies)
    assert client.get("/board", headers=HTML).status_code == 200
    assert client.get(f"/v1/patients/{ward.token('p-0')}/risk").status_code == 401
    client.post("/sign-out")
    client.cookies.update(held)
    assert client.get("/board", headers=HTML).status_code == 303


def test_who_has_no_page_is_not_offered_to_sign_in_and_led_nowhere(ward: WardUnderTest, client: httpx.Client) -> None:
    page = client.get("/sign-in", headers=HTML)
    assert page.status_code == 200
    assert "clinician" in page.text
    assert "privacy-officer" not in page.text
    assert client.post("/sign-in", data={"user": "privacy-officer"}).status_code == 422
    answer = client.get("/", headers=ward.bearer("privacy-officer") | HTML)
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")


def test_an_open_board_ends_with_its_session(ward: WardUnderTest, client: httpx.Client) -> None:
    client.post("/sign-in", data={"user": "clinician"})
    for path in ("/board/events", f"/patients/{ward.token('p-0')}/events"):
        if "vitalake_session" not in client.cookies:
            client.post("/sign-in", data={"user": "clinician"})
        with client.stream("GET", path) as response:
            lines = response.iter_lines()
            assert next(lines) == "retry: 1000"
            client.post("/sign-out")
            assert "event: over" in list(lines), "it ends by itself, and says why"


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://elsewhere.example"}, {"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}],
)
def test_forms_of_other_sites_are_refused(client: httpx.Client, headers: dict[str, str]) -> None:
    assert client.post("/sign-in", data={"user": "clinician"}, headers=headers).status_code == 403


def test_other_names_of_this_machine_are_refused(client: httpx.Client) -> None:
    assert client.get("/healthz", headers={"host": "rebound.example"}).status_code == 421
    assert client.get("/healthz", headers={"host": "localhost:1"}).status_code == 200


# -- nothing echoed --------------------------------------------------------------------------------------------------


def test_planted_markers_come_back_nowhere(ward: WardUnderTest, client: httpx.Client, tmp_path: Path) -> None:
    log = io.BytesIO()
    configure(stream=log)
    m, clinician, officer = MARKER, ward.bearer(), ward.bearer("officer")
    answers = [
        client.get(f"/v1/patients/{m}/risk", headers=clinician),
        client.get(f"/v1/patients/{m}/risk/{m}/", headers=clinician),
        client.get(f"/patients/{m}", headers=clinician),
        client.get(f"/patients/{m}/", headers=clinician | HTML),
        client.get(f"/patients/{m}/events?{m}={m}", headers=clinician),
        client.get(f"/{m}", headers=HTML),
        client.get(f"/static/{m}.css"),
        client.get(f"/static/../{m}"),
        client.get(f"/fhir/RiskAssessment?patient={m}", headers=clinician),
        client.get(f"/fhir/RiskAssessment?{m}=1", headers=clinician),
        client.get(f"/fhir/{m}?patient={m * 9}", headers=clinician),
        client.get(f"/board/events?after={m}&{m}=1", headers={"authorization": f"Bearer {m}"}),
        client.get("/board", headers={"authorization": f"{m} {m}", "cookie": f"vitalake_session={m}"}),
        client.post("/v1/score", json={"patient": m}, headers=clinician),
        client.post("/v1/score", json={"patient": m * 20}, headers=clinician),
        client.post("/v1/score", json={"patient": [m]}, headers=clinician),
        client.post("/v1/score", json={"patient": UNKNOWN, m: m}, headers=clinician),
        client.post("/v1/score", json=[m], headers=clinician),
        client.post("/v1/score", content=f'{{"patient": "{m}'.encode(), headers=clinician),
        client.post("/v1/score", content=b"x" * (MOST_BYTES + 1), headers=clinician),
        client.post("/v1/score", content=iter([b"x" * MOST_BYTES, m.encode()]), headers=clinician),
        client.request(m.replace("-", ""), "/v1/score", headers=clinician),
        client.delete(f"/v1/patients/{m}/risk", headers=clinician),
        client.post("/sign-in", data={"user": m}),
        client.post("/sign-in", data={m: m}, headers=HTML),
        client.post("/sign-in", content=m.encode()),
        client.post("/audit", data={"by": m, "key": m}, headers=officer | HTML),
        client.post("/audit", data={"by": "mrn", "key": m}, headers=officer | HTML),
        client.post("/audit", data={"by": "token", "key": m}, headers=officer | HTML),
        client.post("/audit", data={"by": "token", "key": m * 9}, headers=officer),
        client.get("/healthz", headers={"host": m}),
        client.get("/sign-in", headers={"referer": m, "user-agent": m, "x-forwarded-for": m} | HTML),
    ]
    planted = re.compile(MARKER.replace("-", "-?"), re.IGNORECASE)
    for answer in answers:
        where = f"{answer.request.method} {answer.request.url}"
        assert answer.status_code != 500, where
        assert not planted.search(answer.text), where
        assert not planted.search(str(answer.headers)), where
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        if answer.status_code >= 400 and "text/html" not in answer.request.headers.get("accept", ""):
            assert answer.headers["content-type"] == PROBLEM, where
            assert {"type", "title", "status", "detail"} <= as_json(answer).keys()
    assert not planted.search(log.getvalue().decode())
    for path in ward.settings.path(ward.settings.audit).iterdir():
        assert not planted.search(path.read_text())
    configure()


def test_a_field_that_does_not_fit_is_named(ward: WardUnderTest, client: httpx.Client) -> None:
    answer = client.post("/v1/score", json={"patient": 7}, headers=ward.bearer())
    assert answer.status_code == 422
    assert as_json(answer)["errors"] == [{"field": "patient", "problem": "string type"}]
    answer = client.get("/fhir/RiskAssessment", headers=ward.bearer())
    assert as_json(answer)["errors"] == [{"field": "patient", "problem": "missing"}]


def test_a_bug_says_nothing(ward: WardUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.BytesIO()
    configure(stream=log)

    def explode(*_: object) -> None:
        raise RuntimeError(MARKER)

    with serving(ward.settings) as served:
        monkeypatch.setattr(served.app.state.server.ward, "chart", explode)
        answer = httpx.get(f"{served.address}/v1/patients/{ward.token('p-0')}/risk", headers=ward.bearer())
    assert answer.status_code == 500
    assert answer.headers["content-type"] == PROBLEM
    assert MARKER not in answer.text + log.getvalue().decode()
    assert "RuntimeError" in log.getvalue().decode()
    configure()


# -- events ----------------------------------------------------------------------------------------------------------


def test_the_board_is_told_what_changed_and_goes_on_where_it_was(ward: WardUnderTest, client: httpx.Client) -> None:
    first = _events(client, "/board/events", ward.bearer(), 3)
    assert [event["event"] for event in first] == ["ward", "names", "rows"]
    assert first[0]["data"]["speed"] == 1.0
    assert first.pop(1)["data"]["names"][ward.token("p-0")] == f"{MARKER}, Name"
    assert MARKER not in first[1]["data"]["rows"][0]["html"], "rows are the same for all, and not all may see names"
    shown = {row["patient"] for row in first[1]["data"]["rows"]}
    assert ward.token("p-0") in shown
    patient = ward.token("p-0")
    moment = ward.measure(patient, {"8867-4": 131})
    headers = ward.bearer() | {"last-event-id": first[1]["id"]}
    event = _events(client, "/board/events", headers, 3)[2]
    rows = {row["patient"]: row for row in event["data"]["rows"]}
    row = rows[patient]
    assert row["newest_us"] == moment
    assert moment <= row["ward_us"] <= clock.now_us()
    assert f'data-newest-us="{moment}"' in row["html"]
    assert f'data-patient="{patient}"' in row["html"]
    assert row["revision"] > 0
    assert ward.token("p-1") not in rows, "only what has changed"


def test_many_boards_that_meet_a_new_patient_share_the_syncs_of_their_records(
    ward: WardUnderTest, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A synced record a board kept scores waiting for 17 s behind sixty boards."""
    count, met = 40, threading.Barrier(41)
    patient = ward.token("p-new")
    syncs: list[int] = []

    def follow() -> None:
        with httpx.Client(base_url=str(client.base_url), timeout=60, limits=httpx.Limits(max_connections=1)) as own:
            for event in _until(own, "/board/events", ward.bearer()):
                if event.get("whole"):
                    met.wait(60)
                if any(row["patient"] == patient for row in event.get("rows", ())):
                    return

    with ThreadPoolExecutor(count) as boards:
        done = [boards.submit(follow) for _ in range(count)]
        met.wait(60)
        real = os.fsync

        def counted(descriptor: int) -> None:
            syncs.append(descriptor)
            real(descriptor)

        monkeypatch.setattr(os, "fsync", counted)
        ward.admit("p-new")
        ward.measure(patient, STABLE)
        for one in done:
            one.result()
    monkeypatch.undo()
    seen = who_saw(ward.settings.path(ward.settings.audit), ward.keys, patient)
    assert len([one for one in seen if one.detail.get("stage") == "events"]) == count, "each is on record"
    assert 0 < len(syncs) < count, "two syncs a record would be twice as many as boards"
    ward.store.drop(patients=[patient])


def test_a_replay_shows_only_what_has_come_by_the_wards_time(home: Path) -> None:
    ward = WardUnderTest(home)
    now = clock.now_us()
    ward.store.time.set_replay(Replay(start_us=now - 20 * HOUR, wall_us=now, speed=60.0, end_us=now))
    past, ahead, soon = (ward.token(name) for name in ("p-past", "p-ahead", "p-soon"))
    ward.measure(past, STABLE, at_us=now - 21 * HOUR)
    ward.measure(ahead, STABLE, at_us=now - HOUR)
    ward.measure(soon, STABLE, at_us=now - 20 * HOUR + 2 * MINUTE, known_us=now - 20 * HOUR + 3 * MINUTE)
    with serving(ward.settings) as served, httpx.Client(base_url=served.address, timeout=30) as client:
        page = client.get("/board", headers=ward.bearer() | HTML).text
        assert past in page
        assert ahead not in page
        assert "Replay" in page
        assert "60 × real time" in page
        found: set[str] = set()
        with client.stream("GET", "/board/events", headers=ward.bearer()) as response:
            for line in response.iter_lines():
                if line.startswith("data: "):
                    document = msgspec.json.decode(line[6:])
                    assert document["speed"] == 60.0
                    found |= {row["patient"] for row in document.get("rows", ())}
                if soon in found:
                    break
        assert ahead not in found
        assert client.get(f"/v1/patients/{ahead}/risk", headers=ward.bearer()).status_code == 404


def test_a_discharged_patient_leaves_the_board(home: Path) -> None:
    from pipelines.online_store.facts import Admission

    ward = WardUnderTest(home)
    patient = ward.admit("p-leaves")
    ward.chart(patient, STABLE)
    with serving(ward.settings) as served, httpx.Client(base_url=served.address, timeout=30) as client:
        assert patient in client.get("/board", headers=ward.bearer() | HTML).text
        with client.stream("GET", "/board/events", headers=ward.bearer()) as response:
            now = clock.now_us()
            ward.store.put_facts([(patient, "stay-p-leaves", 2, Admission(now - 40 * HOUR, now - 1, 60))])
            for line in response.iter_lines():
                if line.startswith("data: ") and patient in msgspec.json.decode(line[6:]).get("gone", ()):
                    break
        assert patient not in client.get("/board", headers=ward.bearer() | HTML).text


# -- the command -----------------------------------------------------------------------------------------------------


def _serve(home: Path, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vitalake", "serve", "--home", str(home), "--port", str(port)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_serve_prints_its_one_address_logs_no_access_and_ends_when_asked(ward: WardUnderTest) -> None:
    process = _serve(ward.home, 0)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
        patient = ward.token("p-0")
        with httpx.Client(base_url=address, timeout=60) as client:
            assert client.get(f"/v1/patients/{patient}/risk", headers=ward.bearer()).status_code == 200
            with client.stream("GET", "/board/events", headers=ward.bearer()) as response:
                lines = response.iter_lines()
                next(lines)
                process.send_signal(signal.SIGTERM)
                assert list(lines), "the stream ends well"
        output, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, errors
    assert output == ""
    assert patient not in errors
    assert "GET" not in errors


def test_an_address_that_is_taken_is_told(ward: WardUnderTest) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = _serve(ward.home, taken.getsockname()[1])
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 10
    assert "Address cannot be used" in errors
    assert "Traceback" not in errors
