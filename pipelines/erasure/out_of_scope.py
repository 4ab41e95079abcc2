"""The places that an erasure does not reach: where data of the patient may remain, and until when."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from governance.erasure.certificate import OutOfScope
from governance.policy.masking import compile_masks
from governance.policy.rules import load_policy
from pipelines.core.errors import BrokerUnreachable
from pipelines.core.kafka import check_broker_listens, client_options
from vitalake import clock
from vitalake.errors import SettingsError
from vitalake.home import Home
from vitalake.keys import KeyRing
from vitalake.lake.tables.buckets import patient_column
from vitalake.settings import Settings

TIMEOUT_SECONDS = 5.0


def places_out_of_scope(settings: Settings, keys: KeyRing) -> list[OutOfScope]:
    """Return the places outside the lake's control, and the tables in it whose rows name no patient."""
    places = list(_topics(settings))
    places += [
        OutOfScope(
            "warehouses",
            "vitalake only reads from them; if they still hold rows of the patient, every later load leaves those out",
        ),
        OutOfScope(
            "back-ups of lake and vault",
            "only somebody who has both a vault back-up from before the erasure and access to the key service can read "
            "the identifiers in them: until 'vitalake keys rotate' is run or, with a service such as KMS, until those "
            "vault back-ups are deleted; after a restore run 'vitalake patient reapply', which erases the masked rows "
            "again",
        ),
        OutOfScope(
            "exports and answers of queries",
            "ask whoever received them to delete the patient's rows; the audit log shows who asked for what",
        ),
        OutOfScope(
            "models and their figures",
            "they were trained before the erasure and stay as they are; a model holds no rows of patients",
        ),
    ]
    return [*places, *_unmasked(settings, keys)]


def _topics(settings: Settings) -> Iterator[OutOfScope]:
    """Yield the topics of the home's jobs, with the date by which today's messages are gone."""
    names = sorted({topic for stream in settings.jobs.values() for topic in stream.topics})
    retained = _retention(settings, names)
    for name in names:
        kept_ms = retained.get(name)
        what = "messages of the patient; if they are read again, they are left out and counted as filtered"
        if kept_ms is None:
            yield OutOfScope(f"topic {name}", f"{what}; the broker did not say how long it keeps them")
        elif kept_ms < 0:
            yield OutOfScope(f"topic {name}", f"{what}; the broker keeps them for ever")
        else:
            yield OutOfScope(f"topic {name}", what, str((clock.now() + timedelta(milliseconds=kept_ms)).date()))


def _retention(settings: Settings, topics: list[str]) -> dict[str, int]:
    """Return ``retention.ms`` of each topic for which the broker reports it.

    A broker that cannot be asked, or whose secrets are missing in this shell, does not stop the erasure: without the
    date, the certificate says that the broker did not report one.
    """
    retention_ms: dict[str, int] = {}
    try:
        options = client_options(settings)
        check_broker_listens(str(options["bootstrap.servers"]))  # its client would wait for a broker that is down
        with AdminClient(options) as admin:
            resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
            for resource, future in admin.describe_configs(resources, request_timeout=TIMEOUT_SECONDS).items():
                with suppress(KafkaException, TimeoutError, ValueError):  # one topic's failure hides no other's date
                    entry = future.result(TIMEOUT_SECONDS + 1).get("retention.ms")
                    if entry is not None:
                        retention_ms[resource.name] = int(entry.value)
    except (BrokerUnreachable, KafkaException, SettingsError, TimeoutError):
        return retention_ms
    return retention_ms


def _unmasked(settings: Settings, keys: KeyRing) -> Iterator[OutOfScope]:
    """Yield the published tables without a patient column: the patient's rows cannot be found, and stay."""
    lake = Home(settings).lake()
    published = {name: table for name, table in lake.present().items() if name.startswith("published/")}
    try:
        policy = load_policy(settings.path(settings.governance))
        plans = {name: compile_masks(policy, table.dataset, keys) for name, table in published.items()}
    except SettingsError:
        yield OutOfScope(
            "published tables",
            "the rules (settings.governance) are not valid, so it is not known which tables have no patient column",
        )
        return
    for name, table in published.items():
        column = patient_column(table.dataset)
        if column and not next(c.published for c in plans[name].columns if c.column.name == column):
            yield OutOfScope(
                name, "its rows carry no pseudonym: those of the patient cannot be told apart, and stay in the table"
            )
