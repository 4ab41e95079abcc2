"""What to do about a service that is not there."""

from __future__ import annotations

import os
from collections import Counter

import pytest

missing: Counter[str] = Counter()


def missing_service(name: str, how: str) -> None:
    """Skip a test whose service is not there, or fail it where the service is required.

    ``VITALAKE_REQUIRE=kafka,flink,s3`` names what must be there: in CI a missing service is a failure.
    """
    missing[name] += 1
    if name in os.environ.get("VITALAKE_REQUIRE", "").split(","):
        pytest.fail(f"{name} is required and not there: {how}")
    pytest.skip(f"{name} is not there: {how}")
