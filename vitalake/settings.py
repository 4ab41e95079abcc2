"""The configuration of a home: one frozen object that is read once and passed down."""

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
"""Jobs of our own, which process messages again that other jobs have put aside: see pipelines/reprocess."""

_PROFILE = r"[a-z0-9][a-z0-9-]{0,60}"
Format = Annotated[str, Field(pattern=rf"^[a-z][a-z0-9-]{{0,30}}(:{_PROFILE})?$")]
"""``<format>`` or ``<format>:<profile>``: see docs/how-to/formats.md. Packages register the formats."""


Topic = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]
"""A topic's name as Kafka allows it; published rows contain it."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class LakeSettings(_Frozen):
    """Where the lake is, and who may read its files."""

    uri: str = Field(
        "lake", description="A folder (relative to the home) or s3://bucket/prefix.", json_schema_extra=ALLOWED
    )
    readers: str | None = Field(
        None,
        description="Group of this machine whose members may read the files of published/; by default no group. "
        "'vitalake lake permissions' gives it the right.",
    )
    storage_options: dict[str, str] = Field(
        default_factory=dict,
        description="Options of the object storage; values can be references: env:NAME or file:PATH.",
        repr=False,
    )


def broker_addresses(servers: str) -> list[tuple[str, int]]:
    """Return host and port of each of Kafka's addresses; a protocol may stand before them, as librdkafka allows.

    Raises:
        ValueError: one is not an address; the error does not show it.

    >>> broker_addresses("kafka-1:9093, SSL://[::1]")
    [('kafka-1', 9093), ('::1', 9092)]
    """
    found = []
    for server in filter(None, map(str.strip, servers.split(","))):
        try:
            address = urlsplit(f"//{server.rpartition('://')[2]}")  # SASL_SSL is no scheme of an URL
            host, port = address.hostname, address.port
        except ValueError:  # a port that is no number, or too high
            host, port = None, None
        if not host or port == 0:
            raise ValueError("not host:port, comma-separated, with ports from 1 to 65535")
        found.append((host, port or 9092))
    if not found:
        raise ValueError("no address")
    return found


class KafkaSettings(_Frozen):
    """How to reach Kafka."""

    bootstrap_servers: str = Field(
        "127.0.0.1:19092", description="host:port, comma-separated.", json_schema_extra=ALLOWED
    )
    options: dict[str, str] = Field(
        default_factory=dict,
        description="Further librdkafka options (TLS, SASL); values can be references: env:NAME or file:PATH.",
        repr=False,
    )

    @field_validator("bootstrap_servers")
    @classmethod
    def _with_ports(cls, servers: str) -> str:
        broker_addresses(servers)
        return servers


class StreamSettings(_Frozen):
    """One job of the live lane."""

    topics: dict[Topic, Format] = Field(
        {"vitals": "fhir"},
        description="Topic → format of its messages: fhir, hl7-v2, hl7-v2:<profile>, flat:<profile>, or a format of "
        "another package.",
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
        10.0, gt=0, le=600, description="Longest duration of one bundle of the runner.", json_schema_extra=ALLOWED
    )
    relist_seconds: float = Field(
        10.0,
        gt=0,
        description="New partitions of a topic are found within this time and the rest of a bundle.",
        json_schema_extra=ALLOWED,
    )
    poll_messages: int = Field(
        20_000, ge=1, le=100_000, description="Most messages that one poll takes.", json_schema_extra=ALLOWED
    )
    max_message_bytes: int = Field(
        1_048_576, ge=1_000, description="Longer messages are rejected as too-large.", json_schema_extra=ALLOWED
    )
    fetch_queue_kbytes: int = Field(
        32_768, ge=1_024, description="Most memory for messages that are fetched in advance.", json_schema_extra=ALLOWED
    )
    lookback_seconds: float = Field(
        3600.0, gt=0, description="Duplicates are recognised for at least this long …", json_schema_extra=ALLOWED
    )
    lookback_entries: int = Field(
        1_000_000,
        ge=1_000,
        description="… or among at least this many rows of a worker.",
        json_schema_extra=ALLOWED,
    )
    late_seconds: float = Field(
        3600.0,
        gt=0,
        description="Rows count as late if their effective time is this much before the newest of their partition.",
    )
    max_future_seconds: float = Field(
        86_400.0,
        ge=0,
        description="Rows are rejected if their effective time is more than this after the broker's time.",
    )
    min_effective_year: int = Field(1900, description="Rows are rejected if their effective time is before this year.")
    max_past_days: float = Field(
        0.0,
        ge=0,
        description="Observations are rejected if their effective time is more than this before the broker's time; "
        "0: no limit.",
    )
    unset_clock_days: tuple[date, ...] = Field(
        (date(1970, 1, 1), date(1980, 1, 6), date(2000, 1, 1)),
        description="Days at which a device's clock starts if nobody has set it; observations of these days are "
        "rejected, whatever time zone they are in.",
    )
    publish_arrival: bool = Field(
        False,
        description="Where the sender does not say when an observation was known: true publishes the time at which it "
        "arrived, or a system sent it (MSH-7); false publishes the end of that day. Set it only for senders that never "
        "send in the order of patients or identifiers, such as monitors, which send each value as they measure it.",
    )
    care: bool = Field(True, description="Whether rows also go to the online store, from which scores are computed.")
    dead_letter_days: int = Field(30, ge=1, description="Dead letters expire after this many days.")


class MaintenanceSettings(_Frozen):
    """What a stream does for its tables while it runs."""

    every_seconds: float = Field(
        900.0,
        ge=0,
        description="How often compaction, vacuum and sweep run, in a process of their own; 0: not by themselves.",
        json_schema_extra=ALLOWED,
    )


class ObservabilitySettings(_Frozen):
    """Metrics and health over HTTP."""

    host: str = Field("127.0.0.1", description="Address that serves metrics and health.", json_schema_extra=ALLOWED)
    port: int = Field(9464, ge=0, le=65535, description="0 takes a free one.", json_schema_extra=ALLOWED)


class AlertSettings(_Frozen):
    """When a stream notifies that it rejects or holds too much."""

    window_seconds: float = Field(
        300.0, gt=0, description="Length of a window: rows are counted in windows, with at most one notification each."
    )
    share: float = Field(
        0.05, gt=0, lt=1, description="Notify if more than this share of a window's rows is rejected or held."
    )
    min_messages: int = Field(100, ge=1, description="A window is extended until this many messages have come.")
    runbook_url: str = Field(
        "docs/how-to/dead-letters.md", description="Address in the notification that says what to do."
    )


class CareSettings(_Frozen):
    """The online store that scores are computed from: current patients, true times, for treatment only."""

    path: Path = Field(Path("care.db"), description="A SQLite file; values in it are encrypted.")
    hours: float = Field(
        54.0,
        gt=0,
        le=24 * 31,
        description="Older values are deleted from it. Models look back this far, and no score rests on older values.",
    )


class KeyServiceSettings(_Frozen):
    """The key service: it wraps the vault's keys, and can revoke them."""

    kind: Literal["local", "aws-kms"] = Field("local", description="local: a file that the home keeps; or AWS KMS.")
    path: Path = Field(Path("vault-keys.yaml"), description="local: the file, which only its owner may read.")
    key: str | None = Field(None, description="aws-kms: id, ARN or alias of the key.")
    region: str | None = Field(None, description="aws-kms: region of the key; by default that of the environment.")
    endpoint: str | None = Field(None, description="aws-kms: address to use instead of AWS's own.")
    options: dict[str, str] = Field(
        default_factory=dict,
        description="aws-kms: arguments of a boto3 client, such as credentials, as references: env:NAME or file:PATH.",
        repr=False,
    )


class QuerySettings(_Frozen):
    """Limits for all queries together; each query has limits of its own, too."""

    workers: int = Field(2, ge=1, le=64, description="Queries that run at once; each can use a gigabyte of memory.")
    wait_seconds: float = Field(
        60.0,
        ge=0,
        description="Further queries wait this long for one of them to end; then they are refused.",
        json_schema_extra=ALLOWED,
    )


class ServingSettings(_Frozen):
    """The scoring endpoint and the ward board."""

    host: str = Field(
        "127.0.0.1",
        description="An address that only this machine reaches, because the issuer asks for no password.",
        json_schema_extra=ALLOWED,
    )
    port: int = Field(8321, ge=0, le=65535, description="0 takes a free one.", json_schema_extra=ALLOWED)
    task: str = Field("mortality", description="The task whose learnt score is served, in shadow mode beside NEWS2.")
    issuer: Literal["development"] = Field(
        "development", description="Who signs the tokens; development: one user for each role, for trying out."
    )
    audience: str = Field("vitalake", description="The audience that a token must name.")
    time_zone: str = Field(
        "", description='Time zone of the ward, such as Europe/Berlin, for the times shown; "": the machine\'s.'
    )
    session_minutes: int = Field(480, ge=1, le=1440, description="A sign-in is valid this long.")
    requests_per_second: int = Field(
        300, ge=1, description="Most requests a second of one user; further requests are refused for a moment."
    )
    most_boards: int = Field(
        1_000, ge=2, description="Most boards and patients' pages open at once; one user may open half as many."
    )

    @field_validator("time_zone")
    @classmethod
    def _existing_zone(cls, name: str) -> str:
        if name and name not in available_timezones():
            raise ValueError("no such time zone")
        return name


class RecordsSettings(_Frozen):
    """How long records must be kept, even if their erasure is requested."""

    keep_days: int = Field(
        0, ge=0, description="A patient with rows of the last so many days is not erased; 0: no duty to keep records."
    )
    basis: str = Field("", description="The law or rule that requires it; the refusal of an erasure shows it.")


class Settings(_Frozen):
    """All settings of a home; the environment can set addresses, ports and sizes: see vitalake/environment.py."""

    home: Path = Field(Path(), exclude=True, description="The folder of the configuration file.")
    doubt: str = Field(
        "it was not read from a file",
        exclude=True,
        description="Why the account that runs this process could have written the configuration; empty: it could not.",
    )
    lake: LakeSettings = LakeSettings()
    kafka: KafkaSettings = KafkaSettings()
    jobs: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,40}$")], StreamSettings] = {"vitals": StreamSettings()}
    governance: Path = Field(Path("governance"), description="Folder of the masking rules.")
    profiles: Path = Field(Path("profiles"), description="Folder of the home's device profiles; others ship.")
    keys: Path = Field(Path("keys.yaml"), description="The key file, which only its owner may read.")
    care: CareSettings = CareSettings()
    vault: str = Field(
        "vault.db",
        description="The vault: patients' keys, and which patient has which pseudonym; a file, or a reference to "
        "postgresql://…",
        repr=False,
    )
    erasures: Path = Field(
        Path("erasures.jsonl"),
        description="The log of erased patients; a file that must be kept apart from the vault's back-ups.",
    )
    records: RecordsSettings = RecordsSettings()
    certificates: Path = Field(
        Path("certificates"), description="Folder of the certificates of erasures; they name no patient."
    )
    key_service: KeyServiceSettings = KeyServiceSettings()
    privacy_officers: list[str] = Field(
        default_factory=list,
        description="Accounts of this machine that may query identified rows; by default no account.",
    )
    audit: Path = Field(Path("audit"), description="Folder of the audit's chains.")
    anchors: Path | None = Field(
        None,
        description="A folder on other storage with copies of the audit's heads and of the erasures. They show if the "
        "audit or the home was put back to an earlier state.",
    )
    models: Path = Field(Path("mlflow"), description="Folder of MLflow's database and artefacts.")
    serving: ServingSettings = ServingSettings()
    queries: QuerySettings = QuerySettings()
    observability: ObservabilitySettings = ObservabilitySettings()
    maintenance: MaintenanceSettings = MaintenanceSettings()
    notify: list[str] = Field(
        default_factory=list,
        description="Addresses to notify, as apprise writes them; each as a reference: env:NAME or file:PATH.",
        repr=False,
    )
    alerts: AlertSettings = AlertSettings()
    notify_when: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Options of the notification rules pause and share, and further rules: name → options. "
        "'vitalake doctor' lists the installed rules.",
    )

    @field_validator("jobs")
    @classmethod
    def _not_our_own(cls, jobs: dict[str, StreamSettings]) -> dict[str, StreamSettings]:
        if not OWN_JOBS.isdisjoint(jobs):
            raise ValueError("a job's name is one of vitalake's own")
        return jobs

    def path(self, relative: Path | str) -> Path:
        """Return a path of the configuration as an absolute path; a relative one starts at the home."""
        try:
            return (self.home / relative).resolve()
        except (RuntimeError, OSError):  # a link that leads to itself: opening the file raises the error
            return Path(os.path.abspath(self.home / relative))

    @property
    def lake_uri(self) -> str:
        """Return the address of the lake; a folder as an absolute path."""
        return self.lake.uri if "://" in self.lake.uri else str(self.path(self.lake.uri))

    @property
    def lake_folder(self) -> Path | None:
        """Return the folder of the lake; None: it is in object storage, which has permissions of its own."""
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
            remedy = "Set the variable." if kind == "env" else "Create the file, and let this account read it."
            raise SettingsError(
                "Reference cannot be resolved", where=f"{name}: {kind}:{target}", remedy=remedy
            ) from None
    return resolved


def has_password(address: str) -> bool:
    """Return whether an address contains a password in clear; on a command line or in a file others could read it."""
    try:
        parts = urlsplit(address)
    except ValueError:  # brackets that do not match: the driver reports the mistake
        return "@" in address
    return bool(parts.password) or "password" in parse_qs(parts.query)


def load_settings(config: Path) -> Settings:
    """Return the settings of a configuration file, or of the folder that has one.

    From here on the files that this process makes can be read by its account only, and it uses the declarations of the
    home.

    Raises:
        SettingsError: the file is missing or not YAML, a field does not fit, or the environment sets a field that it
            may not set. The error shows no values.
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
            remedy="Use the account that the home belongs to. An account that may only read published rows opens the "
            "lake's folder 'published' with an engine of its own: see docs/how-to/accounts-and-files.md."
            if isinstance(error, PermissionError)
            else "Run 'vitalake init' to make one.",
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
        ours = first["type"] == "value_error"  # the text of one of our validators, which repeats no value
        why = first["msg"].removeprefix("Value error, ") if ours else first["type"].replace("_", " ")
        raise SettingsError(
            f"Setting does not fit ({why})",
            where=given.get(place) or f"{path}: {'.'.join(place)}",
            remedy="See docs/reference/configuration.md.",
        ) from None
    declarations.use(home)
    return settings
