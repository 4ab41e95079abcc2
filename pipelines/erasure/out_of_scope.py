"""What an erasure does not reach: where a patient's data may still be, and until when."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from governance.erasure.certificate import OutOfScope
from governance.policy.masking import compile_masks
from governance.policy.rules import load_policy
from pipelines.core.kafka import client_options
from vitalake import clock
from vitalake.errors import SettingsError
from vitalake.home import Home
from vitalake.keys import KeyRing
from vitalake.lake.tables.buckets import patient_column
from vitalake.settings import Settings

TIMEOUT_SECONDS = 5.0


def outside(settings: Settings, keys: KeyRing) -> list[OutOfScope]:
    """Return the places that the lake does not rule, and the rows in it that name nobody, as far as settings tell."""
    places = list(_topics(settings))
    places += [
        OutOfScope(
            "warehouses",
            "history jobs only read from them; what they still hold is left out when it is read again",
        ),
        OutOfScope(
            "back-ups of lake and vault",
            "identifiers in them are opened only by who has a back-up of the vault from before and the key service: "
            "until 'vitalake keys rotate' is run, with a service such as KMS until those back-ups are deleted; "
            "after a restore run 'vitalake patient reapply', which erases the masked rows again",
        ),
        OutOfScope(
            "exports and answers of queries", "whoever has them must be told; the audit says who asked for what"
        ),
        OutOfScope("models and their figures", "trained before; a model holds no row of a patient"),
    ]
    return [*places, *_unmasked(settings, keys)]


def _topics(settings: Settings) -> Iterator[OutOfScope]:
    """Yield the topics of the home's jobs, with the date by which today's messages are gone."""
    names = sorted({topic for stream in settings.jobs.values() for topic in stream.topics})
    retained = _retention(settings, names)
    for name in names:
        keeps = retained.get(name)
        what = "messages of the patient; they are filtered and counted when they are read again"
        if keeps is None:
            yield OutOfScope(f"topic {name}", f"{what}; the broker did not say how long it keeps them")
        elif keeps < 0:
            yield OutOfScope(f"topic {name}", f"{what}; the broker keeps them for ever")
        else:
            yield OutOfScope(f"topic {name}", what, str((clock.now() + timedelta(milliseconds=keeps)).date()))


def _retention(settings: Settings, topics: list[str]) -> dict[str, int]:
    """Return ``retention.ms`` of topics; those whose broker does not tell are not among them.

    Nor where this shell lacks the secrets of the broker: an erasure does not end for want of a date.
    """
    found: dict[str, int] = {}
    try:
        with AdminClient(client_options(settings)) as admin:
            resources = [ConfigResource(ResourceType.TOPIC, topic) for topic in topics]
            futures = admin.describe_configs(resources, request_timeout=TIMEOUT_SECONDS)
            for resource, future in futures.items():
                entry = future.result(TIMEOUT_SECONDS + 1).get("retention.ms")
                if entry is not None:
                    found[resource.name] = int(entry.value)
    except (KafkaException, SettingsError, TimeoutError, ValueError):
        return found
    return found


def _unmasked(settings: Settings, keys: KeyRing) -> Iterator[OutOfScope]:
    """Yield the published tables whose rows do not say whose they are: those stay, and name nobody."""
    lake = Home(settings).lake()
    published = {name: table for name, table in lake.present().items() if name.startswith("published/")}
    try:
        policy = load_policy(settings.path(settings.governance))
        plans = {name: compile_masks(policy, table.dataset, keys) for name, table in published.items()}
    except SettingsError:
        yield OutOfScope("published tables", "the rules do not hold, so which rows do not say whose they are is open")
        return
    for name, table in published.items():
        column = patient_column(table.dataset)
        if column and not next(c.published for c in plans[name].columns if c.column.name == column):
            yield OutOfScope(name, "its rows do not say whose they are, so the patient's stay among them")
