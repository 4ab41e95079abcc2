"""Checks before a worker starts: done once by the command, so that mistakes end it at once."""

from __future__ import annotations

from confluent_kafka.admin import AdminClient

from governance.belonging import admit
from governance.policy.masking import writing_plan
from governance.policy.rules import load_policy
from pipelines.core.kafka import client_options, list_partitions
from pipelines.formats.registry import make_decoder
from vitalake.errors import SettingsError
from vitalake.home import Home
from vitalake.settings import Settings


def preflight(settings: Settings, job: str) -> int:
    """Check that a job can start, and return the number of its partitions.

    Raises:
        SettingsError: there is no such job, a format cannot fill its dataset, or a profile is not valid.
        PrivacyError: a key is missing, the rules are not valid or do not allow it, or the lake is another home's.
        LakeError, InputError: the lake cannot be written, or has other tables; the topic does not exist.
        ServiceUnavailable: no broker answers.
    """
    if job not in settings.jobs:
        raise SettingsError("Unknown job", where=job, remedy=f"The configuration has: {', '.join(settings.jobs)}.")
    stream = settings.jobs[job]
    keys = Home(settings).keys
    admit(settings)
    for name in sorted(set(stream.topics.values())):
        make_decoder(name, dataset=stream.dataset, stream=stream, settings=settings)
    lake = Home(settings).lake(stream.dataset)
    lake.check_writable()
    writing_plan(load_policy(settings.path(settings.governance)), lake.dataset, keys)
    with AdminClient(client_options(settings)) as admin:
        parts = list_partitions(admin, sorted(stream.topics))
    lake.open_all()  # last: it is the first check that changes something, by creating tables
    return len(parts)
