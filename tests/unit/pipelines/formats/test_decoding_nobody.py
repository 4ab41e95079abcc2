"""Messages that name a device but no patient."""

from __future__ import annotations

from tests.decoding import take
from tests.fhir import message


def _nobody(number: int, **changes: object) -> bytes:
    return message(number, subject=None, **changes)


def test_a_devices_message_is_a_row_of_nobody() -> None:
    _, conformed, rejects = take([_nobody(1), message(2)])
    assert not rejects
    assert conformed.rows["patient_id"].to_pylist() == [None, "p-1"]
    assert conformed.rows["device_id"].to_pylist() == ["d-1", "d-1"]


def test_without_identifier_and_patient_the_device_tells_rows_apart() -> None:
    def ids(payload: bytes) -> list[bytes]:
        return take([payload])[1].rows["observation_id"].to_pylist()

    other = {"reference": "Device/other"}
    plain = ids(_nobody(1, identifier=None))
    assert ids(_nobody(1, identifier=None, value=99.0)) == plain
    assert ids(_nobody(1, identifier=None, device=other)) != plain
    assert ids(message(1, identifier=None, patient="d-1")) != plain, "a patient with a device's name is somebody else"
    mixed = take([_nobody(1, identifier=None), message(1, identifier=None)])[1].rows["observation_id"].to_pylist()
    assert mixed == plain + ids(message(1, identifier=None))


def test_the_device_is_part_of_what_nobody_sent() -> None:
    payloads = [_nobody(1), _nobody(1), _nobody(1, device={"reference": "Device/other"})]
    prints = [tuple(p) for p in take(payloads)[1].fingerprint.tolist()]
    assert prints[0] == prints[1] != prints[2]
