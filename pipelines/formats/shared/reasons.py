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
    NOT_HL7 = "not-hl7"
    BAD_CHARSET = "bad-charset"
    UNKNOWN_CODE = "unknown-code"
    UNKNOWN_UNIT = "unknown-unit"
    NUMBER_IN_WORDS = "number-in-words"
    IMPLAUSIBLE_VALUE = "implausible-value"
    IMPLAUSIBLE_TIME = "implausible-time"
    NO_KEY = "no-key"


EXPLAINED: dict[Reason, str] = {
    Reason.NOT_JSON: "Not one JSON document: truncated, NaN, a byte-order mark, two documents, a number out of range.",
    Reason.NOT_UTF8: "Text that is read is not valid UTF-8.",
    Reason.TOO_LARGE: "Longer than jobs.*.max_message_bytes.",
    Reason.TOO_DEEP: "Nested too deeply to be what it should be.",
    Reason.WRONG_RESOURCE: "A resourceType that no dataset is made of, or an HL7 v2 message that is not read.",
    Reason.WRONG_SHAPE: "An element is missing or of the wrong type, or two results have one name: see the path.",
    Reason.BAD_STATUS: "A status that is not one of FHIR's or HL7's, or that the profile does not name.",
    Reason.BAD_TIME: "A time is no full date and time with its zone, or the clock of its zone has it twice or never.",
    Reason.NO_TIME: "No effectiveDateTime, Instant or Period, no OBX-14 or OBR-7, nothing where the profile says.",
    Reason.NO_SUBJECT: "Neither patient nor device; words, a contained subject, not the number asked for; a focus.",
    Reason.NO_CODE: "code, component.code or OBX-3 has no code.",
    Reason.NO_VALUE: "No value of a kind that is read, and no reason why; an empty Bundle; no OBX.",
    Reason.MODIFIED: "modifierExtension or implicitRules: it may mean something else than it says.",
    Reason.CONTROL_CHARACTER: "An identifier, reference or text holds U+0000.",
    Reason.TOO_MANY_ROWS: "More rows in one message than a panel or Bundle may have.",
    Reason.NOT_HL7: "Not HL7 v2: no MSH at its start, unusable separators, or MLLP's end is missing.",
    Reason.BAD_CHARSET: "A character set (MSH-18) that is not read, or text that is not of the one that is named.",
    Reason.UNKNOWN_CODE: "Not in the vocabulary: declare or map it (docs/how-to/declare-codes.md), then replay.",
    Reason.UNKNOWN_UNIT: "Does not fit the code: extend the profile, or see docs/how-to/declare-codes.md; then replay.",
    Reason.NUMBER_IN_WORDS: "A text that begins with a number and is none for sure: a comma, a note, an unknown unit.",
    Reason.IMPLAUSIBLE_VALUE: "Outside what a living body or a working sensor can show.",
    Reason.IMPLAUSIBLE_TIME: "Before jobs.*.min_effective_year, of an unset clock, or far ahead of the broker's time.",
    Reason.NO_KEY: "A row lacks its key, its patient, or the time it is partitioned by; the path says which.",
}
"""What each reason means and, where the sender is right, what to do."""

UNDECODABLE = frozenset(list(Reason)[: list(Reason).index(Reason.UNKNOWN_CODE)])
"""Reasons for which a message has no rows; the others reject the rows it has."""
