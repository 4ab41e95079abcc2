"""Device profiles: the meaning of a device's JSON, as YAML in the home's ``profiles/`` folder or shipped."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import cached_property
from importlib import resources
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pipelines.formats.fhir.structs import Status
from pipelines.formats.flat.profile_paths import Path, parse_path
from pipelines.formats.flat.types import Layout, Types
from pipelines.formats.shared.zones import Repeated, Zone
from vitalake.declarations import is_yaml
from vitalake.errors import SettingsError
from vitalake.settings import Settings
from vitalake.strict_yaml import explain, read_yaml
from vitalake.vocabulary import load_vocabulary

_SHIPPED = FilePath(str(resources.files("pipelines.formats"))) / "profiles"
_TEXT, _LABEL, _WHOLE = frozenset({str}), frozenset({str, int}), frozenset({int})
_Profile = TypeVar("_Profile", bound="Profile")

PathText = Annotated[Path, BeforeValidator(lambda text: parse_path(text) if isinstance(text, str) else text)]
TimeFormat = Literal["rfc3339", "epoch-s", "epoch-ms", "epoch-us", "local"]


class StrictModel(BaseModel):
    """A model that forbids unknown keys, and keeps input out of its errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True)


def _as_mapping(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


class IdentifierPlace(StrictModel):
    """The path of an identifier, and its system, which is written before it: ``<system>|<value>``."""

    path: PathText
    system: str = ""


class TimePlace(StrictModel):
    """The path of a time, and how it is written.

    Attributes:
        path, format: where the time stands, and its format.
        absent: values that mean "no time", such as 0 or -1 of a clock that was never set.
        earliest: earlier times are bad.
    """

    path: PathText
    format: TimeFormat = "rfc3339"
    absent: tuple[int | str, ...] = ()
    earliest: AwareDatetime | None = None


class UnitWords(StrictModel):
    """The path of a unit's word, and the UCUM unit of each word."""

    path: PathText
    words: Annotated[dict[str, str], Field(alias="is", min_length=1)]


class StatusWords(StrictModel):
    """The path of a status, and FHIR's status for each word."""

    path: PathText
    words: Annotated[dict[str, Status], Field(alias="is", min_length=1)]


class WordCondition(StrictModel):
    """A condition of a value: it counts only if this word stands at this path."""

    path: PathText
    word: Annotated[str, Field(alias="is")]


class Value(StrictModel):
    """One measured value; its code is of LOINC, or ``<system>|<code>`` of a local system that maps it to LOINC."""

    path: PathText
    code: str
    unit: str | UnitWords | None = None
    kind: Literal["number", "text"] = "number"
    factor: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    offset: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    when: WordCondition | None = None

    @property
    def units(self) -> list[str]:
        """Return the UCUM units in which the value can be sent."""
        if self.unit is None:
            return []
        return [self.unit] if isinstance(self.unit, str) else list(self.unit.words.values())


IdentifierOrPath = Annotated[IdentifierPlace, BeforeValidator(_as_mapping)]
TimeOrPath = Annotated[TimePlace, BeforeValidator(_as_mapping)]


class Profile(StrictModel):
    """The keys that profiles of all formats have.

    Attributes:
        description: for readers.
        zone: time zone of times without a zone.
        repeated_hour: which instant is meant by a time in the hour that is repeated when summer time ends.
        name: the name of its file, without the suffix.
        digest: hash of its text, part of the decoder's version.
    """

    description: str
    zone: str | None = None
    repeated_hour: Repeated = "reject"
    name: str = ""
    digest: str = ""

    @cached_property
    def clock(self) -> Zone | None:
        """Return the clock for times without a zone."""
        return Zone(self.zone, repeated=self.repeated_hour) if self.zone else None


class FlatProfile(Profile):
    """The meaning of a device's JSON."""

    format: Literal["flat"]
    patient: IdentifierOrPath | None = None
    encounter: IdentifierOrPath | None = None
    device: IdentifierOrPath | None = None
    id: IdentifierOrPath | None = None
    version: PathText | None = None
    status: StatusWords | None = None
    time: TimeOrPath
    issued: TimeOrPath | None = None
    numbers_as_text: bool = False
    absent: tuple[float | str, ...] = ()
    values: Annotated[tuple[Value, ...], Field(min_length=1)]

    @cached_property
    def layout(self) -> Layout:
        """Return the types with which its messages are parsed."""
        return Layout((path, types) for _, path, types in self.places())

    def places(self) -> list[tuple[str, Path, Types]]:
        """Return every path with its key in the profile and the types that are allowed there."""
        found: list[tuple[str, Path, Types]] = []
        for key in ("patient", "encounter", "device", "id"):
            name = getattr(self, key)
            if name:
                found.append((key, name.path, _LABEL))
        if self.version:
            found.append(("version", self.version, _WHOLE))
        if self.status:
            found.append(("status", self.status.path, _LABEL))
        for key in ("time", "issued"):
            when = getattr(self, key)
            if when:
                types: Types = _TEXT if when.format in ("rfc3339", "local") else frozenset({int, float})
                found.append((key, when.path, types))
        for i, value in enumerate(self.values):
            found.append((f"values.{i}", value.path, self._value_types(value)))
            if value.when:
                found.append((f"values.{i}.when", value.when.path, _LABEL))
            if isinstance(value.unit, UnitWords):
                found.append((f"values.{i}.unit", value.unit.path, _LABEL))
        return found

    def _value_types(self, value: Value) -> Types:
        if value.kind == "text":
            return _TEXT
        texts = self.numbers_as_text or any(isinstance(word, str) for word in self.absent)
        return frozenset({float, str}) if texts else frozenset({float})

    @model_validator(mode="after")
    def _check(self) -> FlatProfile:
        _check_places(self)
        _check_codes(self)
        if self.patient is None and self.device is None:
            raise ValueError("patient or device: one of them must be there")
        if "local" in (self.time.format, self.issued.format if self.issued else "") and self.zone is None:
            raise ValueError("zone: local times need one")
        return self


def _check_places(profile: FlatProfile) -> None:
    """Raise unless all readings are of one list, and what belongs to them stands in each or in the whole message."""
    places = profile.places()
    lists = {path.outer for _, path, _ in places if path.inner is not None}
    if len(lists) > 1:
        raise ValueError("[*]: readings must be of one list")
    if any(value.path.inner is None for value in profile.values):
        for key, path, _ in places:
            if path.inner is not None and not key.startswith("values"):
                raise ValueError(f"{key}: stands in a reading, but some values do not")
    for value in profile.values:
        inside = [value.when.path] if value.when else []
        inside += [value.unit.path] if isinstance(value.unit, UnitWords) else []
        if value.path.inner is None and any(path.inner is not None for path in inside):
            raise ValueError("values: a condition or unit in a reading cannot be for a value outside")
    read = Counter((value.path, value.when.path if value.when else None, _word(value)) for value in profile.values)
    if max(read.values()) > 1:
        raise ValueError("values: the same path twice")
    plain = {value.path for value in profile.values if value.when is None}
    if any(value.when and value.path in plain for value in profile.values):
        raise ValueError("values: the same path with and without a condition")
    try:
        _ = profile.layout
    except ValueError as error:
        raise ValueError(f"paths: {error}") from None


def _word(value: Value) -> str | None:
    return value.when.word if value.when else None


def _check_codes(profile: FlatProfile) -> None:
    """Raise unless codes and units are in the vocabulary, and all values of a message can be told apart."""
    vocabulary = load_vocabulary()
    codes = [vocabulary.loinc_of(value.code) for value in profile.values]
    for i, (value, code) in enumerate(zip(profile.values, codes, strict=True)):
        if code not in vocabulary.codes:
            raise ValueError(f"values.{i}.code: not a code of the vocabulary")
        if value.kind == "text" and (value.units or (value.factor, value.offset) != (1.0, 0.0)):
            raise ValueError(f"values.{i}: words have no unit, factor or offset")
        if value.kind == "number" and not value.units:
            raise ValueError(f"values.{i}.unit: a number needs one")
        if value.factor == 0:
            raise ValueError(f"values.{i}.factor: 0 makes everything the same")
        for unit in value.units:
            if not vocabulary.converts(code, unit):
                raise ValueError(f"values.{i}.unit: not a unit of this code in the vocabulary")
    if max(Counter(codes).values()) > 1:
        each_has_id = profile.id is not None and profile.id.path.inner is not None
        if not each_has_id or any(value.when is None for value in profile.values):
            raise ValueError("values: the same code twice; only conditions on readings with an id can tell them apart")


def load_profile(kind: type[_Profile], name: str, settings: Settings) -> _Profile:
    """Return a profile of the home, or else a shipped one.

    Raises:
        SettingsError: there is no such profile, it is not valid, or a profile's file has another ending; the error
            names the field.
    """
    own, shipped = settings.path(settings.profiles) / f"{name}.yaml", _SHIPPED / f"{name}.yaml"
    known = sorted({p.stem for folder in (own.parent, _SHIPPED) for p in folder.glob("*") if is_yaml(p)})
    path = own if own.exists() else shipped
    try:
        text = path.read_text()
    except OSError:
        raise SettingsError(
            "No such profile", where=f"{own}", remedy=f"Write it, or use one of: {', '.join(known)}."
        ) from None
    except UnicodeDecodeError:
        raise SettingsError("Profile is not UTF-8", where=str(path), remedy="Save it as UTF-8.") from None
    return parse_profile(kind, text, where=str(path))


def parse_profile(kind: type[_Profile], text: str, *, where: str) -> _Profile:
    """Return the profile that a YAML document declares.

    Raises:
        SettingsError: it is not valid; the error names the field.
    """
    try:
        document: Any = read_yaml(text)
    except yaml.YAMLError as error:
        why, line = explain(error)
        raise SettingsError(f"Profile {why}", where=f"{where}:{line}", remedy="Correct that line.") from None
    if not isinstance(document, dict) or document.keys() & {"name", "digest"}:
        raise SettingsError(
            "Profile is not a mapping of its keys",
            where=where,
            remedy="Write a profile's keys, without name and digest; see docs/how-to/formats.md.",
        )
    try:
        digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
        profile = kind.model_validate({**document, "name": FilePath(where).stem, "digest": digest})
        _ = profile.clock
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        reason = first["msg"].removeprefix("Value error, ")
        field = ".".join(str(part) for part in first["loc"])
        raise SettingsError(
            f"Profile is not valid ({reason})",
            where=f"{where}: {field}".rstrip(": "),
            remedy="Correct this field; see docs/how-to/formats.md.",
        ) from None
    except SettingsError as error:
        raise SettingsError(error.what, where=f"{where}: {error.where}", remedy=error.remedy) from None
    return profile
