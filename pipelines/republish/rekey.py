"""Changes the pseudonym key: adds a new version, updates the vault, and publishes every dataset under it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

from governance.erasure.alone import erasures_locked
from governance.keyuse import open_vault
from governance.policy.masks import Pseudonyms
from pipelines.people.patients import former_versions, pseudonyms_by
from pipelines.republish.online_store import rebuild_online_store
from pipelines.republish.republish import open_restricted, refuse_loss, republish, restricted_datasets
from vitalake import clock
from vitalake.errors import InputError
from vitalake.failpoints import failpoint
from vitalake.home import Home
from vitalake.keys import add_version, next_version, retire_version
from vitalake.lake.commits.lake import published_name
from vitalake.lake.datasets.declared import published_datasets
from vitalake.lake.maintenance.journal import Job, Journal, Work
from vitalake.lake.maintenance.replacement import TableReplaced
from vitalake.lake.tables.staging import Counted
from vitalake.settings import Settings

NAME = "rekey"
"""The name of its journal; no dataset has this name."""


@dataclass(slots=True)
class Rekeyed:
    """What a change of the pseudonym key did.

    Attributes:
        version: the version of the key under which everything is published now.
        patients: how many patients have a new pseudonym in the vault.
        care_rows: how many rows were offered to the online store.
        datasets: the datasets that were published again, without those that a killed run had done before.
    """

    version: str
    patients: int = 0
    care_rows: int = 0
    datasets: list[TableReplaced] = field(default_factory=list)


def rekey(
    settings: Settings, *, counted: Counted | None = None, progress: Callable[[str], None] = lambda _: None
) -> Rekeyed:
    """Make a new version of the pseudonym key and publish everything under it; continues a run that was killed.

    The old version stays in the key file, because the audit and exports name patients by it. See ``retire``.

    Args:
        settings: of the home.
        counted: called with the number of rows that were made.
        progress: called with each step.

    Raises:
        InputError: the identified rows of a published dataset are not kept, so it cannot be published again. Nothing
            was changed.
        LakeError: identified rows are missing of some published rows. Nothing was changed.
        KeyRevoked: patients' keys are not available.
        ServiceUnavailable: something cannot be reached; call it again.
    """
    lake = Home(settings).lake()
    lake.check_writable()
    _refuse_unrestricted(settings)
    journal = Journal(lake.storage, NAME)
    version = _begun(settings, journal)
    done = Rekeyed(version)
    progress(f"pseudonym key {version}")
    with erasures_locked(settings):  # an erasure looks for the pseudonyms that it knows when it begins
        add_version(settings.path(settings.keys), "pseudonym", version)
    failpoint("rekey-added")
    done.patients = _retoken(settings)
    failpoint("rekey-retokened")
    for dataset in restricted_datasets(settings):
        if journal.done([dataset]) is None:
            progress(dataset)
            done.datasets.append(republish(settings, dataset, counted=counted))
            journal.record(Work([dataset], [], done.datasets[-1].rows_restricted, 0, 0))
            failpoint("rekey-republished")
    done.patients += _retoken(settings)  # lanes enrol under the old key until their fence is raised
    progress("care")
    done.care_rows = rebuild_online_store(settings, counted=counted)
    failpoint("rekey-care")
    journal.end()
    return done


def retire(settings: Settings, version: str) -> None:
    """Delete an old version of the pseudonym key from the key file: its pseudonyms cannot be made any more.

    The vault stores the patients' pseudonyms of that version first, so that the audit still finds who saw a patient
    under them.

    Raises:
        InputError: a re-key is under way.
        PrivacyError: the version is in use, or does not exist.
        KeyRevoked, ServiceUnavailable: the vault cannot store the pseudonyms; the key stays.
    """
    if Journal(Home(settings).lake().storage, NAME).job() is not None:
        raise InputError(
            "A re-key is under way", where="pseudonym", remedy="Finish it first: vitalake lake rewrite --rekey"
        )
    keys = Home(settings).keys
    if version in former_versions(keys):
        with closing(open_vault(settings, keys, purpose="rekey")) as vault:
            vault.keep_former(version, pseudonyms_by(keys, version).token)
    retire_version(settings.path(settings.keys), "pseudonym", version)


def _begun(settings: Settings, journal: Journal) -> str:
    job = journal.job()
    if job is None:
        version = next_version(Home(settings).keys, "pseudonym")
        job = Job(uuid.uuid4().hex[:16], NAME, NAME, 0, version, clock.now_us())
        journal.begin(job)
    return job.rules


def _retoken(settings: Settings) -> int:
    keys = Home(settings).keys
    vault = open_vault(settings, keys, purpose="rekey")
    try:
        return vault.retoken(Pseudonyms(keys, "patient-identifier").token)
    finally:
        vault.close()


def _refuse_unrestricted(settings: Settings) -> None:
    """Stop before anything is done, if a published dataset could not be published again."""
    lake, kept = Home(settings).lake(), restricted_datasets(settings)
    for dataset in published_datasets():
        if dataset in kept:
            kept_rows = open_restricted(settings, dataset)
            refuse_loss(kept_rows)
            kept_rows.published.refresh()  # raises if it is gone
        elif (
            lake.storage.holds_table(published_name(dataset))
            and lake.present()[published_name(dataset)].snapshot().files
        ):
            raise InputError(
                "Identified rows of a published dataset are not kept",
                where=dataset,
                remedy="Its pseudonyms could not be replaced. Load it again from its source. Nothing was changed.",
            )
