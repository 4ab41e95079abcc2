"""The closed list of reasons for which a message is rejected."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a message went to the dead letters."""

    NOT_JSON = "not-json"
    NOT_UTF8 = "not-utf8"
    TOO_LARGE = "too-large"
    TOO_DEEP = "too-deep"
    WRONG_RESOURCE = "wrong-resource"
    WRONG_SHAPE = "wrong-shape"
    BAD_STATUS = "bad-status"
    BAD_TIME = "bad-time"
    NO_TIME = "no-time"
    NO_SUBJECT = "no-subject"
    NO_CODE = "no-code"
    NO_VALUE = "no-value"
    MODIFIED = "modified"
    CONTROL_CHARACTER = "control-character"
    TOO_MANY_ROWS = "too-many-rows"
    TOO_MANY_ELEMENTS = "too-many-elements"
    DECODER_FAILED = "decoder-failed"
    NOT_HL7 = "not-hl7"
    BAD_CHARSET = "bad-charset"
    UNKNOWN_CODE = "unknown-code"
    UNKNOWN_UNIT = "unknown-unit"
    NUMBER_IN_WORDS = "number-in-words"
    IMPLAUSIBLE_VALUE = "implausible-value"
    IMPLAUSIBLE_TIME = "implausible-time"
    NO_KEY = "no-key"


EXPLAINED: dict[Reason, str] = {
    Reason.NOT_JSON: "Not valid JSON: truncated, two documents, NaN, a byte-order mark, a number out of range.",
    Reason.NOT_UTF8: "A text that the decoder reads is not valid UTF-8.",
    Reason.TOO_LARGE: "Longer than jobs.*.max_message_bytes.",
    Reason.TOO_DEEP: "Nested too deeply for any valid message.",
    Reason.WRONG_RESOURCE: "A resourceType that no dataset uses, or a type of HL7 v2 message that is not read.",
    Reason.WRONG_SHAPE: "An element is missing or has the wrong type, or two results have one identity: see the path.",
    Reason.BAD_STATUS: "A status that FHIR or HL7 does not define, or that the profile does not list.",
    Reason.BAD_TIME: "Not a full date and time with a zone, or a local time that occurs twice or never (summer time).",
    Reason.NO_TIME: "No effectiveDateTime, Instant or Period; no OBX-14 or OBR-7; no time at the profile's path.",
    Reason.NO_SUBJECT: "No usable patient or device: a name, a contained resource, a wrong number; or it has a focus.",
    Reason.NO_CODE: "code, component.code or OBX-3 holds no code.",
    Reason.NO_VALUE: "No value of a type that is read, and no reason for its absence; an empty Bundle; no OBX.",
    Reason.MODIFIED: "modifierExtension or implicitRules, also of an element or entry: they can change what it means.",
    Reason.CONTROL_CHARACTER: "An identifier, a reference or a text contains U+0000.",
    Reason.TOO_MANY_ROWS: "The message has more rows than a panel or Bundle may have.",
    Reason.TOO_MANY_ELEMENTS: "A resource of a dataset with FHIRPath has more elements than a resource may have.",
    Reason.DECODER_FAILED: "The format that the path names failed, or its rows do not fit: correct it, then replay.",
    Reason.NOT_HL7: "Not HL7 v2: no MSH at the start, unusable separators, or no end of the MLLP frame.",
    Reason.BAD_CHARSET: "The character set (MSH-18) is not supported, or a text is not valid in it.",
    Reason.UNKNOWN_CODE: "Not in the vocabulary: declare or map the code (docs/how-to/declare-codes.md), then replay.",
    Reason.UNKNOWN_UNIT: "Does not fit the code: extend the profile, or see docs/how-to/declare-codes.md; then replay.",
    Reason.NUMBER_IN_WORDS: "A text that begins with a number but may mean another: a comma, a note, an unknown unit.",
    Reason.IMPLAUSIBLE_VALUE: "A value that no living body and no working sensor can show.",
    Reason.IMPLAUSIBLE_TIME: "Before jobs.*.min_effective_year, of an unset clock, or far ahead of the broker's time.",
    Reason.NO_KEY: "A row lacks its key, its patient, or the time it is partitioned by; the path names the column.",
}
"""What each reason means, and what to do if the sender is right."""

UNDECODABLE = frozenset(list(Reason)[: list(Reason).index(Reason.UNKNOWN_CODE)])
"""Reasons for which a message was not decoded; the others reject the rows that were decoded."""
