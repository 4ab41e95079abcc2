"""The places that an erasure does not reach: a broker that cannot be asked does not stop it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.core.errors import BrokerUnreachable
from pipelines.core.kafka import check_broker_listens
from pipelines.erasure.out_of_scope import places_out_of_scope
from tests.services.kafka import free_port
from vitalake.errors import SettingsError
from vitalake.keys import load_keys
from vitalake.settings import load_settings


@pytest.mark.parametrize("servers", ["127.0.0.1:99999", "kafka:port", "", "a..b:9092", "127.0.0.1:FREE"])
def test_a_broker_that_cannot_be_asked_leaves_out_the_date_and_stops_nothing(home: Path, servers: str) -> None:
    """The key was destroyed, and then a mistyped port ended the erasure with a traceback."""
    settings, servers = load_settings(home), servers.replace("FREE", str(free_port()))
    kafka = settings.kafka.model_copy(update={"options": {"bootstrap.servers": servers}})
    settings, keys = settings.model_copy(update={"kafka": kafka}), load_keys(settings.path(settings.keys))
    topics = [place for place in places_out_of_scope(settings, keys) if place.place.startswith("topic ")]
    assert [(place.place, place.until) for place in topics] == [("topic vitals", None)]
    with pytest.raises((SettingsError, BrokerUnreachable)):
        check_broker_listens(servers)
