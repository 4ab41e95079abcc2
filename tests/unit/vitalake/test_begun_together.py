"""Processes that start at the same moment on a new home, as a service manager starts them: all of them get in."""

from __future__ import annotations

import multiprocessing
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from governance.belonging.opening import admit, introduce, open_vault
from governance.home import init_home
from governance.samples import copy_samples
from pipelines.online_store.opening import open_online_store
from vitalake.keys import load_keys
from vitalake.lake.commits.format import FORMAT, Format
from vitalake.lake.commits.lake import Lake
from vitalake.lake.maintenance.verify import verify
from vitalake.settings import Settings, load_settings

pytestmark = pytest.mark.slow

HOMES = 20
"""Before, one home in six refused somebody."""

DATASETS = ("observation", "device_association", "observation")


def _settings(folder: Path, number: int) -> Settings:
    return load_settings(folder / str(number) / "vitalake.yaml")


def _open_all(folder: Path, dataset: str, barrier: Any) -> None:
    """Open of each home in turn what a stream opens; a failure breaks the barrier, and so ends the others."""
    try:
        for number in range(HOMES):
            settings = _settings(folder, number)
            keys = load_keys(settings.path(settings.keys))
            barrier.wait()
            admit(settings)
            with closing(open_vault(settings, keys)) as vault:
                Lake(settings.lake_uri, settings.storage_options, dataset=dataset).open_all()
                introduce(settings, keys, vault)
                open_online_store(settings, keys, vault=vault).close()
    except BaseException:
        barrier.abort()
        raise


def test_several_streams_can_begin_one_home_at_the_same_moment(tmp_path: Path) -> None:
    for number in range(HOMES):
        init_home(tmp_path / str(number), copy_samples)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(len(DATASETS), timeout=60)
    processes = [context.Process(target=_open_all, args=(tmp_path, dataset, barrier)) for dataset in DATASETS]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * len(DATASETS)
    for number in range(HOMES):
        settings = _settings(tmp_path, number)
        lake = Lake(settings.lake_uri, settings.storage_options)
        assert verify(lake) == []
        assert lake.format == Format(FORMAT)
