"""Records how something ended that the audit says has begun."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vitalake.errors import VitaLakeError

_log = logging.getLogger(__name__)


@contextmanager
def recording_stop(record: Callable[[str], None]) -> Iterator[None]:
    """If the body raises, record that it was stopped, and raise the same error.

    Args:
        record: records an event with the kind of the error, which is a name of our code; its text is not recorded. If
            this cannot be recorded, the body's error is still the one that is raised.
    """
    try:
        yield
    except BaseException as error:
        try:
            record(type(error).__name__)
        except VitaLakeError as unrecorded:
            extra = {"what": unrecorded.what, "where": unrecorded.where, "remedy": unrecorded.remedy}
            _log.error("audit does not have how it ended", extra=extra)
        raise
