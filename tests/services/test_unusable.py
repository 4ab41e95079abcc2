"""What came and cannot be used, through broker, lane and server: no normal value of before stays on the board."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from tests.fhir import message
from tests.services.lane import LaneUnderTest
from tests.services.serving import STABLE, WardUnderTest, as_json, serving
from vitalake import clock
from vitalake.lake.commits.ledger import summarise
from vitalake.vocabulary import load_vocabulary


def _component(code: str, value: float) -> dict[str, Any]:
    vocabulary = load_vocabulary()
    unit = vocabulary.unit_of[vocabulary.codes[code]]
    return {
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
        "valueQuantity": {"value": value, "system": "http://unitsofmeasure.org", "code": unit},
    }


def _vitals(number: int, patient: str, values: dict[str, float], *, minutes_ago: float) -> bytes:
    """Return a monitor's message: all it measures at one moment."""
    at = clock.now() - timedelta(minutes=minutes_ago)
    panel = {"coding": [{"system": "http://loinc.org", "code": "85353-1"}]}
    parts = [_component(code, value) for code, value in values.items()]
    return message(
        number, patient=patient, code=panel, valueQuantity=None, component=parts, effectiveDateTime=at.isoformat()
    )


def test_a_refused_message_takes_the_last_normal_values_off_the_board(
    home: Path, embedded_broker: str, topic_name: str
) -> None:
    lane = LaneUnderTest(home, embedded_broker, topic_name, partitions=1)
    lane.configure()
    lane.create_topic()
    ill = STABLE | {"8867-4": 150}
    lane.send(
        [
            *(_vitals(i, f"p-{i}", STABLE, minutes_ago=30) for i in range(1, 5)),
            _vitals(11, "p-1", ill | {"8310-5": 99}, minutes_ago=20),  # out of range beside a pulse of 150
            _vitals(12, "p-2", ill | {"59408-5": 0}, minutes_ago=20),  # no signal beside it
            message(13, patient="p-3", effectiveDateTime="soon"),
            _vitals(14, "p-4", {"8867-4": 4}, minutes_ago=20),
        ]
    )
    lane.run()
    done = summarise(lane.lake.spans)
    assert done.to_json()["balanced"] is True
    assert (done.total.counts.rejected, done.total.counts.undecodable) == (len(ill), 1)
    ward = WardUnderTest(home)
    with serving(ward.settings) as served:
        page = httpx.get(f"{served.address}/board", headers=ward.bearer()).text
        answers = {
            i: as_json(httpx.get(f"{served.address}/v1/patients/{ward.token(f'p-{i}')}/risk", headers=ward.bearer()))
            for i in range(1, 5)
        }
    rows = {i: page.partition(f'data-patient="{ward.token(f"p-{i}")}"')[2].partition("</tr>")[0] for i in range(1, 5)}
    assert answers[1]["news2"]["total"] is None, "nothing of before counts"
    assert "implausibly high since" in rows[1]
    assert "1 message refused" in rows[1]
    assert answers[2]["news2"]["parts"]["pulse"] == 3
    assert "SpO₂ 0: no pulse detected, or probe off" in rows[2]
    assert "1 message refused" in rows[3]
    assert "HR 4: no beat detected, or probe off" in rows[4]
    order = sorted(range(1, 5), key=lambda i: page.index(ward.token(f"p-{i}")))
    assert order == [2, 4, 1, 3]
