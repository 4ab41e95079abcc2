"""A warehouse that says nothing is given up; one that answers is not touched by it."""

from __future__ import annotations

import threading
from urllib.parse import parse_qs, urlsplit

import pytest

from pipelines.history.silence import Silent, answered
from pipelines.history.warehouses.postgresql import with_keepalives


def test_an_answer_and_an_error_come_through() -> None:
    assert answered(lambda: 7, seconds=30, where="w") == 7
    assert answered(lambda: 7, seconds=None, where="w") == 7
    with pytest.raises(KeyError):
        answered({}.popitem, seconds=30, where="w")


def test_silence_is_told_and_is_worth_another_try() -> None:
    never = threading.Event()
    with pytest.raises(Silent, match=r"has not answered for 0\.01 seconds: w\.") as caught:
        answered(never.wait, seconds=0.01, where="w")
    never.set()
    assert caught.value.transient


def test_time_outs_are_added_to_an_address_and_given_ones_stay() -> None:
    address = with_keepalives("postgresql://u:p%40ss@[::1]:5432/db?connect_timeout=3&options=-c%20a%3Db")
    parts = urlsplit(address)
    query = parse_qs(parts.query)
    assert parts.netloc == "u:p%40ss@[::1]:5432"
    assert query["connect_timeout"] == ["3"]
    assert query["options"] == ["-c a=b"]
    assert query["keepalives"] == ["1"]
    assert with_keepalives(address) == address
