"""Hostile HL7 v2 messages, each with its documented outcome: a reason, or accepted by a stated rule."""

from __future__ import annotations

from pipelines.formats.shared.reasons import Reason
from tests.hl7 import MSH, OBR, PID, obx, oru

ACCEPTED = None

_GOOD = oru()


def _replaced(old: bytes, new: bytes, message: bytes = _GOOD) -> bytes:
    assert old in message
    return message.replace(old, new)


def _msh(number: int, value: str) -> bytes:
    fields = MSH.split("|")
    fields += [""] * (number - len(fields))
    fields[number - 1] = value
    return oru(msh="|".join(fields))


def _in_charset(name: str, text: bytes) -> bytes:
    return _replaced(b"DOE^JANE", text, _msh(18, name))


CORPUS: dict[str, tuple[bytes, Reason | None]] = {
    # not a message
    "empty": (b"", Reason.NOT_HL7),
    "white space": (b"  \r\r", Reason.NOT_HL7),
    "json": (b'{"resourceType":"Observation"}', Reason.NOT_HL7),
    "no MSH": (_GOOD[_GOOD.index(b"PID") :], Reason.NOT_HL7),
    "something before MSH": (b"PID|1\r" + _GOOD, Reason.NOT_HL7),
    "byte-order mark": (b"\xef\xbb\xbf" + _GOOD, Reason.NOT_HL7),
    "utf-16": (_GOOD.decode().encode("utf-16"), Reason.NOT_HL7),
    "MSH alone": (b"MSH", Reason.NOT_HL7),
    "a training message": (_msh(11, "T"), Reason.WRONG_RESOURCE),
    "a debugging message of an archive": (_msh(11, "D^A"), Reason.WRONG_RESOURCE),
    "a training message in a small letter": (_msh(11, "t"), Reason.WRONG_RESOURCE),
    "a training message with a space": (_msh(11, " T ^A"), Reason.WRONG_RESOURCE),
    "no processing id": (_msh(11, ""), ACCEPTED),
    "a current production message": (_msh(11, "P^T"), ACCEPTED),
    "MSH without a second separator": (b"MSH|^~", Reason.NOT_HL7),
    "letters as separators": (_replaced(b"|", b"X"), Reason.NOT_HL7),
    "one separator for two": (_replaced(rb"^~\&", rb"^^\&"), Reason.NOT_HL7),
    "a segment without a name": (_GOOD + b"|x\r", Reason.WRONG_SHAPE),
    "a segment with a small name": (_GOOD + b"obx|1\r", Reason.WRONG_SHAPE),
    "a segment of another separator": (_GOOD + b"OBX^2\r", Reason.WRONG_SHAPE),
    # framing and ends
    "MLLP's frame": (b"\x0b" + _GOOD + b"\x1c\r", ACCEPTED),
    "MLLP's frame without the last byte": (b"\x0b" + _GOOD + b"\x1c", ACCEPTED),
    "MLLP's end only": (_GOOD + b"\x1c\r", ACCEPTED),
    "MLLP's end is missing": (b"\x0b" + _GOOD, Reason.NOT_HL7),
    "two frames in one": ((b"\x0b" + _GOOD + b"\x1c\r") * 2, Reason.NOT_HL7),
    "line feeds": (_replaced(b"\r", b"\n"), ACCEPTED),
    "carriage returns and line feeds": (_replaced(b"\r", b"\r\n"), ACCEPTED),
    "a line feed in a text": (oru(obx(kind="TX", value="a\nb")), Reason.WRONG_SHAPE),
    "empty lines": (_replaced(b"\r", b"\r\r"), ACCEPTED),
    "no end behind the last segment": (_GOOD[:-1], ACCEPTED),
    "other separators": (_GOOD.replace(b"|", b"#").replace(b"^", b"@").replace(b"&", b"%"), ACCEPTED),
    "too large": (_GOOD + b"NTE|1||" + b"x" * 1_100_000, Reason.TOO_LARGE),
    # batches
    "a batch": (b"BHS|^~\\&\r" + _GOOD + _replaced(b"F-1", b"F-2") + b"BTS|2\r", ACCEPTED),
    "a file of a batch": (b"FHS|^~\\&\rBHS|^~\\&\r" + _GOOD + b"BTS|1\rFTS|1\r", ACCEPTED),
    "a batch without its header": (_GOOD + _replaced(b"F-1", b"F-2"), ACCEPTED),
    "a batch that lacks a message": (b"BHS|^~\\&\r" + _GOOD + b"BTS|2\r", Reason.WRONG_SHAPE),
    "a batch of nothing": (b"BHS|^~\\&\rBTS|0\r", Reason.NOT_HL7),
    "a batch with a bad message": (_GOOD + _replaced(b"|72|", b"|x|"), Reason.WRONG_SHAPE),
    # character sets
    "UTF-8 where nothing is said": (_replaced(b"JANE", "JÄNE".encode()), ACCEPTED),
    "Latin-1 where nothing is said": (_replaced(b"JANE", b"J\xc4NE"), Reason.NOT_UTF8),
    "Latin-1 as it says": (_in_charset("8859/1", b"D\xd6E^JANE"), ACCEPTED),
    "UTF-8 as it says": (_in_charset("UNICODE UTF-8", "DÖE^JANE".encode()), ACCEPTED),
    "not the UTF-8 it says": (_in_charset("UNICODE UTF-8", b"D\xd6E"), Reason.NOT_UTF8),
    "not the Big-5 it says": (_in_charset("BIG-5", b"D\xff\xff"), Reason.BAD_CHARSET),
    "a character set that is not read": (_in_charset("ISO IR87", b"DOE"), Reason.BAD_CHARSET),
    "hexadecimal bytes that are no text": (oru(obx(kind="ST", value=r"\XFF\ ")), Reason.BAD_CHARSET),
    "an escaped NUL": (oru(obx(kind="ST", value=r"a\X00\b")), Reason.CONTROL_CHARACTER),
    "an escaped NUL in the patient": (_replaced(b"4711", rb"4711\X00\ "[:-1]), Reason.CONTROL_CHARACTER),
    "a raw NUL in a text": (oru(obx(kind="ST", value="a\0b")), Reason.CONTROL_CHARACTER),
    "an escape that is not closed": (oru(obx(kind="ST", value="a\\b")), ACCEPTED),
    # the message
    "another message": (_msh(9, "ORM^O01"), Reason.WRONG_RESOURCE),
    "another event": (_msh(9, "ORU^R40"), Reason.WRONG_RESOURCE),
    "no message type": (_msh(9, ""), Reason.WRONG_RESOURCE),
    "MSH-7 is no time": (_msh(7, "yesterday"), Reason.BAD_TIME),
    "MSH-7 is a day": (_msh(7, "20250601"), Reason.BAD_TIME),
    # Rule: without MSH-7 the broker's time is when it could be known, and OBX-14 must have its zone.
    "no MSH-7": (_replaced(b"20250601100001+0200", b"", oru(obx(at="20250601100000+0200"))), ACCEPTED),
    "no zone anywhere": (_msh(7, "20250601100001"), Reason.BAD_TIME),
    # missing segments
    "no PID and no device": (oru(pid="", pv1=""), Reason.NO_SUBJECT),
    "no PID, but a bed": (oru(pid="", obr=OBR, pv1="PV1|1|I|ICU^1^2"), ACCEPTED),
    "no PID, and a ward without a bed": (oru(pid="", pv1="PV1|1|I|ICU"), Reason.NO_SUBJECT),
    "no PID, but a device": (oru(obx(device="MX-1^DEV"), pid="", pv1=""), ACCEPTED),
    "PID without a number, but a device": (oru(obx(device="MX-1"), pid="PID|1||^^^HOSP^MR"), ACCEPTED),
    "no PV1": (oru(pv1=""), ACCEPTED),
    "no OBR, but a time": (oru(obx(at="20250601100000"), obr=""), ACCEPTED),
    "no OBR": (oru(obr=""), Reason.NO_TIME),
    "no OBX": (oru(OBR), Reason.NO_VALUE),
    # OBX
    "no code": (oru(obx(code="^Heart rate")), Reason.NO_CODE),
    "unknown LOINC": (oru(obx(code="99999-9^x^LN")), Reason.UNKNOWN_CODE),
    "a local code": (oru(obx(code="HR^x^L")), Reason.UNKNOWN_CODE),
    "LOINC as the other coding": (oru(obx(code="HR^x^L^8867-4^Heart rate^LN")), ACCEPTED),
    "a code by IEEE 11073": (oru(obx(code="147842^MDC_ECG_HEART_RATE^MDC", unit="264864^x^MDC")), ACCEPTED),
    "unknown unit": (oru(obx(unit="furlong")), Reason.UNKNOWN_UNIT),
    "no unit": (oru(obx(unit="")), Reason.UNKNOWN_UNIT),
    "implausible": (oru(obx(value="1000")), Reason.IMPLAUSIBLE_VALUE),
    "words as a number": (oru(obx(value="high")), Reason.WRONG_SHAPE),
    "a comparator in a number": (oru(obx(value=">72")), ACCEPTED),
    "a comparator alone": (oru(obx(value=">")), Reason.WRONG_SHAPE),
    "a comma in a number": (oru(obx(value="72,5")), Reason.WRONG_SHAPE),
    "NaN": (oru(obx(value="NaN")), Reason.WRONG_SHAPE),
    "1e999": (oru(obx(value="1e999")), Reason.WRONG_SHAPE),
    "digits that are not ASCII": (oru(obx(value="٧٢")), Reason.WRONG_SHAPE),
    "two numbers": (oru(obx(value="72~73")), Reason.WRONG_SHAPE),
    "a number with blanks": (oru(obx(value=" 72 ")), ACCEPTED),
    "a number without a zero": (oru(obx(1, "2524-7^Lactate^LN", ".9", "mmol/L")), ACCEPTED),
    "no value": (oru(obx(value="")), Reason.NO_VALUE),
    "HL7's null as a value": (oru(obx(value='""')), Reason.NO_VALUE),
    "no value, and no result": (oru(obx(value="", status="X")), ACCEPTED),
    # Rule: of what is not there or taken back the value is not read.
    "a sign of nothing, and no result": (oru(obx(value="8388607", status="X")), ACCEPTED),
    "taken back, whatever it was": (oru(obx(value="oops", status="D")), ACCEPTED),
    "no type": (oru(obx(kind="")), Reason.WRONG_SHAPE),
    "a kind that is not read": (oru(obx(kind="ED", value="x^y")), Reason.NO_VALUE),
    "a time": (oru(obx(kind="DTM", value="20250601")), Reason.NO_VALUE),
    "a structured number": (oru(obx(kind="SN", value="<^72")), ACCEPTED),
    "a range": (oru(obx(kind="SN", value="^60^-^72")), Reason.NO_VALUE),
    "a comparator that is none": (oru(obx(kind="SN", value="<>^72")), Reason.WRONG_SHAPE),
    "words": (oru(obx(kind="ST", value="a")), ACCEPTED),
    "a code as a value": (oru(obx(kind="CWE", value="271594007^Syncope^SCT")), ACCEPTED),
    "a code as a value, empty": (oru(obx(kind="CWE", value="^^SCT")), Reason.NO_VALUE),
    "a status of nothing": (oru(obx(status="Q")), Reason.BAD_STATUS),
    "no status": (oru(obx(status="")), ACCEPTED),
    "two results of one name": (oru(obx(1), obx(2)), Reason.WRONG_SHAPE),
    "two results of one code": (oru(obx(1, sub="1"), obx(2, sub="2")), ACCEPTED),
    "one bad result of two": (oru(obx(1, sub="1"), obx(2, sub="2", value="x")), Reason.WRONG_SHAPE),
    "a device named on the way": (oru("OBX|1||69965^MDS^MDC|1.0.0.0|||||||X|||||||MX-1", obx(2)), ACCEPTED),
    "a great many results": (oru(*[obx(i, sub=str(i)) for i in range(2_100)]), Reason.TOO_MANY_ROWS),
    # times
    "OBX-14 is a day": (oru(obx(at="20250601")), Reason.BAD_TIME),
    "OBX-14 is an hour": (oru(obx(at="2025060110")), Reason.BAD_TIME),
    "OBX-14 is a minute": (oru(obx(at="202506011000")), ACCEPTED),
    "30 February": (oru(obx(at="20250230100000")), Reason.BAD_TIME),
    "second 60": (oru(obx(at="20250601100060")), Reason.BAD_TIME),
    "a zone of 99 hours": (oru(obx(at="20250601100000+9900")), Reason.BAD_TIME),
    "year 1": (oru(obx(at="00010101000000")), Reason.IMPLAUSIBLE_TIME),
    "year 9999": (oru(obx(at="99991231235959-1400")), Reason.IMPLAUSIBLE_TIME),
    "year 0": (oru(obx(at="00000101000000")), Reason.BAD_TIME),
    "hex and half": (_replaced(PID.encode(), PID.encode() + rb"\X4\ "[:-1]), ACCEPTED),
}
"""Name → (message, reason or ACCEPTED)."""
