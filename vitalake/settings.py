"""The configuration of a home: one frozen object, read once, passed down."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs, urlsplit
from zoneinfo import available_timezones

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from vitalake import declarations
from vitalake.environment import ALLOWED, overlaid, variables
from vitalake.errors import SettingsError
from vitalake.guarded import read_guarded
from vitalake.modes import keep_private
from vitalake.strict_yaml import explain, read_yaml

CONFIG_NAME = "vitalake.yaml"

OWN_JOBS = frozenset({"replay", "attribution"})
"""Jobs that take up again what others have put aside: see pipelines/reprocess."""

_PROFILE = r"[a-z0-9][a-z0-9-]{0,60}"
Format = Annotated[str, Field(pattern=rf"^[a-z][a-z0-9-]{{0,30}}(:{_PROFILE})?$")]
"""``<format>`` or ``<format>:<profile>``: see docs/how-to/formats.md. Which formats there are, packages register."""


Topic = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]
"""A topic's name as Kafka allows it; it stands in published rows."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class LakeSettings(_Frozen):
    """Where the lake lies."""

    uri: str = Field(
        "lake", description="A folder (relative to the home) or s3://bucket/prefix.", json_schema_extra=ALLOWED
    )
    readers: str | None = Field(
        None,
        description="Group of this machine that may read published/ and its log by its files; nobody by default. "
        "'vitalake lake permissions' lets it in.",
    )
    storage_options: dict[str, str] = Field(
        default_factory=dict,
        description="For object storage; values may be references: env:NAME or file:PATH.",
        repr=False,
    )


class KafkaSettings(_Frozen):
    """How the event log is reached."""

    bootstrap_servers: str = Field(
        "127.0.0.1:19092", description="host:port, comma-separated.", json_schema_extra=ALLOWED
    )
    options: dict[str, str] = Field(
        default_factory=dict,
        description="Further librdkafka options (TLS, SASL); values may be references: env:NAME or file:PATH.",
        repr=False,
    )


class StreamSettings(_Frozen):
    """One job of the live lane."""

    topics: dict[Topic, Format] = Field(
        {"vitals": "fhir"},
        description="Topic → format of its messages: fhir, hl7-v2, hl7-v2:<profile>, flat:<profile>, or what a package "
        "registers.",
    )
    dataset: str = Field("observation", description="The dataset its rows go to.")
    span_seconds: float = Field(
        1.0,
        gt=0,
        le=600,
        description="A span is decided at least this often while rows come.",
        json_schema_extra=ALLOWED,
    )
    span_rows: int = Field(
        100_000, ge=1, le=2_000_000, description="… or after this many messages.", json_schema_extra=ALLOWED
    )
    bundle_seconds: float = Field(
        10.0, gt=0, le=600, description="Longest bundle of the runner.", json_schema_extra=ALLOWED
    )
    relist_seconds: float = Field(
        10.0, gt=0, description="Added partitions are found within this and a bundle.", json_schema_extra=ALLOWED
    )
    poll_messages: int = Field(
        20_000, ge=1, le=100_000, description="Most messages taken in one poll.", json_schema_extra=ALLOWED
    )
    max_message_bytes: int = Field(
        1_048_576, ge=1_000, description="Longer messages are rejected as too-large.", json_schema_extra=ALLOWED
    )
    fetch_queue_kbytes: int = Field(
        32_768, ge=1_024, description="Most memory for messages fetched ahead.", json_schema_extra=ALLOWED
    )
    lookback_seconds: float = Field(
        3600.0, gt=0, description="Duplicates are recognised at least this long …", json_schema_extra=ALLOWED
    )
    lookback_entries: int = Field(
        1_000_000,
        ge=1_000,
        description="… or for at least this many rows of a worker.",
        json_schema_extra=ALLOWED,
    )
    late_seconds: float = Field(
        3600.0, gt=0, description="Rows effective this far behind their partition count as late."
    )
    max_future_seconds: float = Field(
        86_400.0, ge=0, description="Rows effective further ahead of the broker are rejected."
    )
    min_effective_year: int = Field(1900, description="Rows effective earlier are rejected.")
    max_past_days: float = Field(
        0.0, ge=0, description="Observations effective further behind the broker are rejected; 0: none are."
    )
    unset_clock_days: tuple[date, ...] = Field(
        (date(1970, 1, 1), date(1980, 1, 6), date(2000, 1, 1)),
        description="Where clocks begin that nobody set; observations of these days, anywhere on Earth, are rejected.",
    )
    publish_arrival: bool = Field(
        False,
        description="Publish when an observation came, or a system sent it (MSH-7), where its sender gives no other "
        "time at which it was known; else the end of that day is published. Only for senders that never send in the "
        "order of patients or identifiers, as monitors that send what they measure at once.",
    )
    care: bool = Field(True, description="Whether its rows go to the care store too, which scores are computed from.")
    dead_letter_days: int = Field(30, ge=1, description="Dead letters expire after this many days.")


class MaintenanceSettings(_Frozen):
    """What a stream does for its tables while it runs."""

    every_seconds: float = Field(
        900.0,
        ge=0,
        description="Compaction, vacuum and sweep, in a process of their own; 0: never by itself.",
        json_schema_extra=ALLOWED,
    )


class ObservabilitySettings(_Frozen):
    """Metrics and health over HTTP."""

    host: str = Field("127.0.0.1", description="Where metrics are served.", json_schema_extra=ALLOWED)
    port: int = Field(9464, ge=0, le=65535, description="0 takes a free one.", json_schema_extra=ALLOWED)


class AlertSettings(_Frozen):
    """When a stream notifies that it rejects or holds too much."""

    window_seconds: float = Field(300.0, gt=0, description="It is looked at so often; at most one notification each.")
    share: float = Field(0.05, gt=0, lt=1, description="Of the rows of a window, rejected or held: more is too much.")
    min_messages: int = Field(100, ge=1, description="A window lasts until so many have come.")
    runbook_url: str = Field("docs/how-to/dead-letters.md", description="Where people find what to do about it.")


class CareSettings(_Frozen):
    """The online store that scores are computed from: current patients, true times, for treatment only."""

    path: Path = Field(Path("care.db"), description="A SQLite file; values in it are encrypted.")
    hours: float = Field(
        54.0,
        gt=0,
        le=24 * 31,
        description="What is older is deleted from it: the models' window, and as old as the newest evidence may be.",
    )


class KeyServiceSettings(_Frozen):
    """Who wraps the vault's keys, and can take them away."""

    kind: Literal["local", "aws-kms"] = Field("local", description="local: a file of its own.")
    path: Path = Field(Path("vault-keys.yaml"), description="local: the file, readable by its owner only.")
    key: str | None = Field(None, description="aws-kms: id, ARN or alias of the key.")
    region: str | None = Field(None, description="aws-kms: region of the key; by default the environment's.")
    endpoint: str | None = Field(None, description="aws-kms: another address than AWS's.")
    options: dict[str, str] = Field(
        default_factory=dict,
        description="aws-kms: arguments of a boto3 client, such as credentials, as references: env:NAME or file:PATH.",
        repr=False,
    )


class QuerySettings(_Frozen):
    """What queries may take together; each has its own limits besides."""

    workers: int = Field(2, ge=1, le=64, description="Queries that run at once; each may take a gigabyte.")
    wait_seconds: float = Field(
        60.0,
        ge=0,
        description="The others wait so long for one to end, and are refused then.",
        json_schema_extra=ALLOWED,
    )


class ServingSettings(_Frozen):
    """The scoring endpoint and the ward board."""

    host: str = Field(
        "127.0.0.1", description="One of this machine only: the issuer asks for no password.", json_schema_extra=ALLOWED
    )
    port: int = Field(8321, ge=0, le=65535, description="0 takes a free one.", json_schema_extra=ALLOWED)
    task: str = Field("mortality", description="The task whose learnt score is served, in the shadow of NEWS2.")
    issuer: Literal["development"] = Field(
        "development", description="Who signs the tokens; one user a role, to try with."
    )
    audience: str = Field("vitalake", description="Whom a token must be made out to.")
    time_zone: str = Field(
        "", description="The ward's, such as Europe/Berlin: times are shown in it; \"\": the machine's."
    )
    session_minutes: int = Field(480, ge=1, le=1440, description="A sign-in holds this long.")
    requests_per_second: int = Field(300, ge=1, description="Of one user; who asks more often is told to wait.")
    most_boards: int = Field(1_000, ge=2, description="Open boards and patients' pages; of one user half as many.")

    @field_validator("time_zone")
    @classmethod
    def _known(cls, name: str) -> str:
        if name and name not in available_timezones():
            raise ValueError("no such time zone")
        return name


class RecordsSettings(_Frozen):
    """How long records must be kept, whoever asks for them to be erased."""

    keep_days: int = Field(0, ge=0, description="Who has rows of the last so many days is not erased; 0: no duty.")
    basis: str = Field("", description="The law or rule that says so; shown to who is refused.")


class Settings(_Frozen):
    """All settings of a home; the environment may set addresses, ports and sizes: see vitalake/environment.py."""

    home: Path = Field(Path(), exclude=True, description="The folder of the configuration file.")
    doubt: str = Field(
        "it was not read from a file", exclude=True, description="Why it may be the word of whoever runs this process."
    )
    lake: LakeSettings = LakeSettings()
    kafka: KafkaSettings = KafkaSettings()
    jobs: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,40}$")], StreamSettings] = {"vitals": StreamSettings()}
    governance: Path = Field(Path("governance"), description="Folder of the masking rules.")
    profiles: Path = Field(Path("profiles"), description="Folder of device profiles, beside those that ship.")
    keys: Path = Field(Path("keys.yaml"), description="The key file, readable by its owner only.")
    care: CareSettings = CareSettings()
    vault: str = Field(
        "vault.db",
        description="Patients' keys, and who is behind a pseudonym; a file, or a reference to postgresql://…",
        repr=False,
    )
    erasures: Path = Field(
        Path("erasures.jsonl"), description="Who was erased; a file that is kept apart from the vault's back-ups."
    )
    records: RecordsSettings = RecordsSettings()
    certificates: Path = Field(Path("certificates"), description="Folder of what was erased, and when; names nobody.")
    key_service: KeyServiceSettings = KeyServiceSettings()
    privacy_officers: list[str] = Field(
        default_factory=list, description="Accounts of this machine that may ask identified rows; nobody by default."
    )
    audit: Path = Field(Path("audit"), description="Folder of the audit's chains.")
    anchors: Path | None = Field(
        None,
        description="A folder on other storage, where the audit's heads and the erasures are kept too: an audit or a "
        "home that was put back to an earlier day shows by it.",
    )
    models: Path = Field(Path("mlflow"), description="Folder of MLflow's database and artefacts.")
    serving: ServingSettings = ServingSettings()
    queries: QuerySettings = QuerySettings()
    observability: ObservabilitySettings = ObservabilitySettings()
    maintenance: MaintenanceSettings = MaintenanceSettings()
    notify: list[str] = Field(default_factory=list, description="apprise addresses, as references.", repr=False)
    alerts: AlertSettings = AlertSettings()
    notify_when: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Rules of notification beside pause and share, or other options of these: name → options. "
        "'vitalake doctor' lists those that are installed.",
    )

    @field_validator("jobs")
    @classmethod
    def _none_of_our_own(cls, jobs: dict[str, StreamSettings]) -> dict[str, StreamSettings]:
        if not OWN_JOBS.isdisjoint(jobs):
            raise ValueError("a job's name is one of vitalake's own")
        return jobs

    def path(self, relative: Path | str) -> Path:
        """Return a path of the configuration, resolved against the home."""
        try:
            return (self.home / relative).resolve()
        except (RuntimeError, OSError):  # a link that leads to itself: whoever opens it says so
            return Path(os.path.abspath(self.home / relative))

    @property
    def lake_uri(self) -> str:
        """Return the lake's address; a folder as an absolute path."""
        return self.lake.uri if "://" in self.lake.uri else str(self.path(self.lake.uri))

    @property
    def lake_folder(self) -> Path | None:
        """Return the lake's folder; None: it lies in object storage, which has permissions of its own."""
        return None if "://" in self.lake.uri else self.path(self.lake.uri)

    @property
    def storage_options(self) -> dict[str, str]:
        """Return the storage options with their references resolved."""
        return resolve_references(self.lake.storage_options, home=self.home)


def resolve_references(options: dict[str, str], *, home: Path) -> dict[str, str]:
    """Return the options with ``env:NAME`` and ``file:PATH`` replaced by what they refer to.

    Raises:
        SettingsError: the variable is not set or the file cannot be read.
    """
    resolved = {}
    for name, value in options.items():
        kind, _, target = value.partition(":")
        try:
            if kind == "env":
                resolved[name] = os.environ[target]
            elif kind == "file":
                resolved[name] = (home / target).read_text().strip()
            else:
                resolved[name] = value
        except (KeyError, OSError, UnicodeDecodeError):
            raise SettingsError("Reference leads nowhere", where=f"{name}: {kind}:{target}", remedy="Set it.") from None
    return resolved


def has_password(address: str) -> bool:
    """Return whether a password stands in an address in clear: on a command line or in a file others can read it."""
    try:
        parts = urlsplit(address)
    except ValueError:  # brackets that do not match: the driver says what is wrong
        return "@" in address
    return bool(parts.password) or "password" in parse_qs(parts.query)


def load_settings(config: Path) -> Settings:
    """Return the settings of a configuration file, or of the folder that holds one.

    From here on this process makes files that only its account can read, and works with the home's declarations.

    Raises:
        SettingsError: it is missing, is not YAML, a field does not fit, or the environment sets what it may not set
            (values are not echoed).
    """
    path = config / CONFIG_NAME if config.is_dir() or not config.suffix else config
    keep_private()
    given = variables(Settings, os.environ)
    try:
        text, doubt = read_guarded(path)
        document: Any = read_yaml(text) or {}
    except OSError as error:
        raise SettingsError(
            f"Configuration cannot be read ({error.strerror})",
            where=str(path),
            remedy="Run 'vitalake init' to make one.",
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        why, line = explain(error)
        raise SettingsError(f"Configuration {why}", where=f"{path}:{line}", remedy="Correct that line.") from None
    if not isinstance(document, dict):
        raise SettingsError(
            "Configuration is not a mapping", where=str(path), remedy="See docs/reference/configuration.md."
        )
    try:
        home = path.parent.resolve()
        own = {"home": home, "doubt": doubt or declarations.doubt_of(home)}
        settings = Settings(**{**overlaid(document, given, os.environ), **own})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = tuple(map(str, first["loc"]))
        raise SettingsError(
            f"Setting does not fit ({first['type'].replace('_', ' ')})",
            where=given.get(place) or f"{path}: {'.'.join(place)}",
            remedy="See docs/reference/configuration.md.",
        ) from None
    declarations.use(home)
    return settings
