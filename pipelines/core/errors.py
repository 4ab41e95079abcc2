"""What can go wrong between Kafka and the lake."""

from __future__ import annotations

from vitalake.errors import InputError, LakeError, ServiceUnavailable


class BrokerUnreachable(ServiceUnavailable):
    """No broker answers; the lane waits and goes on by itself."""


class TopicMissing(InputError):
    """The topic does not exist (any more)."""

    transient = True


class TopicRemade(ServiceUnavailable):
    """The topic was deleted and made again: the lane starts anew on the new one."""


class UpstreamLoss(LakeError):
    """The log no longer holds what comes next: somebody has to decide."""
