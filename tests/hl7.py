"""Small HL7 v2 messages for tests, built by hand."""

from __future__ import annotations

MSH = r"MSH|^~\&|MON|ICU|LAKE|H|20250601100001+0200||ORU^R01^ORU_R01|1|P|2.6"
PID = "PID|1||4711^^^HOSP^MR||DOE^JANE"
PV1 = "PV1|1|I|ICU^1^2||||||||||||||||V-9"
OBR = "OBR|1||F-1^MON|VITALS|||20250601100000"


def obx(
    number: int = 1,
    code: str = "8867-4^Heart rate^LN",
    value: str = "72",
    unit: str = "/min^^UCUM",
    *,
    kind: str = "NM",
    sub: str = "",
    status: str = "F",
    at: str = "",
    device: str = "",
) -> str:
    """Return an OBX."""
    return f"OBX|{number}|{kind}|{code}|{sub}|{value}|{unit}|||||{status}|||{at}||||{device}"


def oru(*segments: str, msh: str = MSH, pid: str = PID, pv1: str = PV1, obr: str = OBR) -> bytes:
    """Return an ORU^R01 with these segments behind its order; an empty text leaves a segment out."""
    return "".join(f"{line}\r" for line in (msh, pid, pv1, obr, *(segments or (obx(),))) if line).encode()


def adt(event: str, *segments: str, at: str = "20250601100000+0200") -> bytes:
    """Return an ADT message."""
    msh = rf"MSH|^~\&|ADT|H|LAKE|H|{at}||ADT^{event}|1|P|2.6"
    return "".join(f"{line}\r" for line in (msh, f"EVN||{at}", *segments)).encode()
