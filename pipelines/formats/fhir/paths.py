"""Paths of errors in a message, in FHIR's words: only element names and indices, never a key or value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache

import msgspec

from pipelines.formats.shared.reasons import Reason
from pipelines.formats.shared.result import Reject

MOST_EXPLAINED = 20
"""Rejects of one batch for which fhir.resources is asked: each takes 0.1 ms or more."""

_STEP = re.compile(r"\.?([A-Za-z]\w*)|\[(\d+)\]|\[\.\.\.\]")
_DEEP_ENOUGH = 200
"""fhir.resources is not asked about messages with more brackets or more bytes: a sender could slow the lane down."""

_MOST_BYTES = 20_000


def reason_of(error: Exception) -> Reason:
    """Return the reason for an error of msgspec; the error's text is not passed on."""
    if isinstance(error, RecursionError):
        return Reason.TOO_DEEP
    if isinstance(error, UnicodeDecodeError):
        return Reason.NOT_UTF8
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return Reason.NOT_UTF8 if "utf-8" in text.lower() else Reason.NOT_JSON
    path = fhir_path(text)
    if path.endswith(".status"):
        return Reason.BAD_STATUS
    if (
        "resourceType" in text
        or (path.endswith(".resource") and "tag" in text)
        or ("Invalid value" in text and not path)
    ):
        return Reason.WRONG_RESOURCE
    return Reason.WRONG_SHAPE


def fhir_path(text: str, *, resource: str = "Observation") -> str:
    """Return ``Observation.valueQuantity.value`` for msgspec's ``… - at `$.valueQuantity.value```.

    The path is cut at anything that is not a FHIR element name or an index: it could be a key of the message.
    """
    _, found, path = text.rpartition(" - at `$")
    steps = _steps(path.rstrip("`")) if found else iter(())
    return _join(steps, resource)


def _steps(path: str) -> Iterator[str | int]:
    for match in _STEP.finditer(path):
        if match[1]:
            yield match[1]
        elif match[2]:
            yield int(match[2])


def _join(steps: Iterator[str | int], resource: str = "Observation") -> str:
    out = ""
    for step in steps:
        if isinstance(step, int):
            out += f"[{step}]"
        elif step in _element_names():
            out += f".{step}"
        elif step != "resourceType":
            break
    if not out:
        return ""
    return ("Bundle" if out.startswith(".entry") else resource) + out


@cache
def _element_names() -> frozenset[str]:
    """Return the names of the elements that are read, and of others that errors can name."""
    from pipelines.formats.fhir import structs as fhir_structs

    kinds = [k for k in vars(fhir_structs).values() if isinstance(k, type) and issubclass(k, msgspec.Struct)]
    return frozenset(name for kind in kinds for name in kind.__struct_fields__) | _MORE_NAMES


_MORE_NAMES = frozenset(
    "id extension text contained basedOn partOf category focus performer dataAbsentReason interpretation note bodySite "
    "method specimen referenceRange hasMember derivedFrom valueRange valueRatio valuePeriod valueSampledData "
    "valueDateTime valueTime effectivePeriod effectiveTiming display userSelected unit low high start end type "
    "fullUrl name family given gender birthDate address line postalCode city state country use period class "
    "hospitalization admitSource dischargeDisposition verificationStatus recordedDate patient timingPeriod "
    "profile security tag source div language versionId lastUpdated link fullUrl request response search".split()
)


class PreciseReasons:
    """Asks fhir.resources (R4B) for the exact path at which a message violates FHIR; slow, so only a few per batch."""

    def __init__(self) -> None:
        try:
            from fhir.resources.R4B.observation import Observation
        except ImportError:  # the extra 'reasons' is not installed
            self._model = None
        else:
            self._model = Observation

    def explain(self, rejects: list[Reject], values: Sequence[bytes | None]) -> list[Reject]:
        """Return the rejects; the first ones get a more precise path if there is one."""
        if self._model is None:
            return rejects
        asked = 0
        explained = []
        for reject in rejects:
            value = values[reject.message]
            if reject.reason is Reason.WRONG_SHAPE and value and len(value) <= _MOST_BYTES and asked < MOST_EXPLAINED:
                asked += 1
                path = self._path(value)
                explained.append(Reject(reject.message, reject.reason, path or reject.path, reject.rows))
            else:
                explained.append(reject)
        return explained

    def _path(self, value: bytes) -> str:
        from pydantic import ValidationError

        assert self._model is not None
        if value.count(b"[") + value.count(b"{") > _DEEP_ENOUGH:
            return ""
        try:
            self._model.model_validate_json(value)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            return _join(iter(first["loc"]))
        except Exception:  # if the library fails, the reason and path of msgspec stay
            return ""
        return ""
