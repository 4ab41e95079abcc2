"""Decoding and conforming as the lane does it, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.formats.fhir.observations import FhirDecoder
from pipelines.formats.registry import make_decoder
from pipelines.formats.shared.conform import Conformed, Conformer
from pipelines.formats.shared.result import Decoded, Decoder, Reject
from vitalake.settings import Settings, StreamSettings
from vitalake.vocabulary import load_vocabulary

BROKER_MS = 1_795_000_000_000
"""A broker's timestamp after all test messages: 2026-11-18."""


def conformer(**more: Any) -> Conformer:
    """Return a conformer with a key of its own."""
    return Conformer(
        load_vocabulary(), observation_key=b"k" * 32, max_future_seconds=86_400, min_effective_year=1900, **more
    )


def take(values: Sequence[bytes | None], *, precise: bool = False) -> tuple[Decoded, Conformed, dict[int, Reject]]:
    """Return what becomes of a poll: decoded, conformed, and the reject of each message that has one."""
    return take_by(FhirDecoder(precise=precise), values)


def decoder_of(name: str, *, dataset: str = "observation", settings: Settings | None = None) -> Decoder:
    """Return the decoder of a format, with the profiles that ship."""
    return make_decoder(name, dataset=dataset, stream=StreamSettings(), settings=settings or Settings())


def take_by(decoder: Decoder, values: Sequence[bytes | None]) -> tuple[Decoded, Conformed, dict[int, Reject]]:
    """Return what a decoder, and conforming, make of a poll; each message has one fate."""
    decoded = decoder.decode(values)
    assert decoded.message.tolist() == sorted(decoded.message.tolist()), "the order of messages is kept"
    fates = [*set(decoded.message.tolist()), *decoded.tombstones, *decoded.empty, *(r.message for r in decoded.rejects)]
    assert sorted(fates) == list(range(len(values)))
    conformed = conformer().conform(decoded, broker_ms=np.full(len(values), BROKER_MS))
    rejects = [*decoded.rejects, *conformed.rejects]
    assert len({r.message for r in rejects}) == len(rejects), "a message is rejected once"
    return decoded, conformed, {r.message: r for r in rejects}
