"""What can go wrong between Kafka and the lake."""

from __future__ import annotations

from vitalake.errors import InputError, LakeError, ServiceUnavailable


class BrokerUnreachable(ServiceUnavailable):
    """No broker answers; the worker ends, and the supervisor starts it again until one does."""


class TopicMissing(InputError):
    """The topic does not exist, or not any more."""

    transient = True


class TopicRemade(ServiceUnavailable):
    """The topic was deleted and created again: the lane starts on the new one."""


class UpstreamLoss(LakeError):
    """Kafka has deleted messages that the lane has not read: an operator has to decide whether to accept the loss."""
