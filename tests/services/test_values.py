"""Values and times as laboratories and devices send them, through broker and command: what is published of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from typer.testing import CliRunner

from tests.fhir import message
from tests.hl7 import obx, oru
from tests.services.lane import LaneUnderTest
from vitalake.cli.app import make_app
from vitalake.lake.commits.ledger import summarise

LAB = "2823-3^Potassium^LN"
SI = [
    ("777-3", 210, "10*9/L", 210, "10*3/uL"),
    ("6690-2", 8, "10*9/L", 8, "10*3/uL"),
    ("2160-0", 88, "umol/L", 0.9955, "mg/dL"),
    ("718-7", 140, "g/L", 14, "g/dL"),
    ("1975-2", 10, "µmol/L", 0.58467, "mg/dL"),
    ("3094-0", 5, "MMOL/L", 14.007, "mg/dL"),
    ("2345-7", 5.5, "mmol/L", 99.088, "mg/dL"),
    ("2823-3", 4.1, "meq/L", 4.1, "mmol/L"),
    ("1988-5", 1.2, "mg/dL", 12, "mg/L"),
    ("8331-1", 98.6, "°F", 37, "Cel"),
    ("76215-3", 118, "mmHg", 118, "mm[Hg]"),
]
UNSET = """
format: flat
description: a monitor whose clock may never have been set
patient: $.pat
device: $.dev
time: {path: $.t, format: epoch-ms, absent: [-1]}
values:
  - {path: $.hr, code: 8867-4, unit: /min}
"""


def _lab(number: int, code: str, value: float, unit: str) -> bytes:
    coding = {"coding": [{"system": "http://loinc.org", "code": code}]}
    return message(number, code=coding, valueQuantity={"value": value, "unit": unit})


def _flat(t: int) -> bytes:
    return msgspec.json.encode({"pat": "p-1", "dev": "m1", "t": t, "hr": 72})


@pytest.fixture
def lane(home: Path, embedded_broker: str, topic_name: str) -> LaneUnderTest:
    """A job of three topics, and what came on them."""
    lane = LaneUnderTest(home, embedded_broker, topic_name, partitions=1)
    topics = {f"{topic_name}.lab": "hl7-v2", f"{topic_name}.ehr": "fhir", f"{topic_name}.unset": "flat:unset"}
    (home / "profiles").mkdir(exist_ok=True)
    (home / "profiles" / "unset.yaml").write_text(UNSET)
    document = {
        "kafka": {"bootstrap_servers": embedded_broker},
        "jobs": {"vitals": {"topics": topics}},
        "observability": {"port": 0},
    }
    (home / "vitalake.yaml").write_text(yaml.safe_dump(document))
    admin = AdminClient({"bootstrap.servers": embedded_broker})
    for future in admin.create_topics([NewTopic(topic, 1, 1) for topic in topics]).values():
        future.result(20)
    producer = Producer({"bootstrap.servers": embedded_broker})
    sent: list[tuple[str, bytes, dict[str, Any]]] = [
        ("lab", oru(obx(code=LAB, value="4.2", unit="mmol/L", kind="ST"), obr=_order("F-1")), {}),
        ("lab", oru(obx(code=LAB, value=">10.0", unit="mmol/L", kind="ST"), obr=_order("F-2")), {}),
        ("lab", oru(obx(code=LAB, value="haemolysed", unit="mmol/L", kind="ST"), obr=_order("F-3")), {}),
        ("lab", oru(obx(code=LAB, value="4,2", unit="mmol/L", kind="ST"), obr=_order("F-4")), {}),
        ("lab", oru(obx(code="67775-7^ACVPU^LN", value="V", unit="", kind="ST"), obr=_order("F-5")), {}),
        *(("ehr", _lab(100 + i, code, value, unit), {}) for i, (code, value, unit, _, _) in enumerate(SI)),
        ("ehr", message(1, effectiveDateTime="2026-03-01T10:00:00+14:30"), {}),
        ("ehr", message(2, effectiveDateTime="2026-03-01T10:00:00-15:00"), {}),
        ("ehr", message(3, value=0.0), {}),
        ("ehr", message(4), {"timestamp": 1_000}),
        ("unset", _flat(0), {}),
        ("unset", _flat(-1), {}),
        ("unset", _flat(946_684_800_000), {}),
        ("unset", _flat(1_748_764_800_000), {}),
    ]
    for topic, payload, more in sent:
        producer.produce(f"{topic_name}.{topic}", payload, partition=0, **more)
    assert producer.flush(30) == 0
    lane.sent = len(sent)
    return lane


def _order(filler: str) -> str:
    return f"OBR|1||{filler}^MON|LABS|||20250601100000"


def test_each_value_is_published_as_what_it_is_or_counted(lane: LaneUnderTest) -> None:
    run = CliRunner().invoke(make_app(), ["stream", "--home", str(lane.home), "--until-idle", "1"])
    assert run.exit_code == 0, run.output
    columns = ["code", "value", "comparator", "unit", "value_code", "data_absent_reason", "effective_at", "value_text"]
    rows = lane.published().select(columns).to_pylist()
    assert all(any(row[name] is not None for name in ("value", "value_code", "data_absent_reason")) for row in rows), (
        "a published row says something"
    )
    potassium = [row for row in rows if row["code"] == "2823-3"]
    assert sorted((row["value"], row["comparator"]) for row in potassium if row["value"]) == [
        (4.1, None),
        (4.2, None),
        (10.0, ">"),
    ]
    assert [row["data_absent_reason"] for row in potassium if row["value"] is None] == ["as-text"]
    assert [row["value_code"] for row in rows if row["code"] == "67775-7"] == ["http://loinc.org|LA17108-4"]
    for code, _, _, value, unit in SI:
        found = [(row["value"], row["unit"]) for row in rows if row["code"] == code]
        assert (pytest.approx(value, rel=1e-3), unit) in found, code
    assert sorted(row["value"] for row in rows if row["code"] == "8867-4") == [0.0, 72.0, 72.0]
    assert not any(row["value_text"] for row in rows)

    done = summarise(lane.lake.spans)
    assert done.to_json()["balanced"] is True
    assert (done.total.counts.messages, done.total.counts.published) == (lane.sent, 3 + 1 + len(SI) + 2 + 1)
    listed = CliRunner().invoke(make_app(), ["dead-letters", "list", "--home", str(lane.home), "--json"])
    letters = msgspec.json.decode(listed.stdout)["dead_letters"]
    assert sorted((letter["reason"], letter["path"]) for letter in letters) == [
        ("bad-time", "Observation.effective[x]"),
        ("bad-time", "Observation.effective[x]"),
        ("implausible-time", "Observation.effective[x]"),
        ("implausible-time", "Observation.effective[x]"),
        ("no-time", "$.t"),
        ("number-in-words", "Observation.value[x]"),
    ]
    latency = done.to_json()["latency_ms"]
    assert max(latency.values()) < 600_000, "the broker's time of 1970 counts for nothing"
