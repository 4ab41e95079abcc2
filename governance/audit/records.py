"""Encodes audit records and heads as lines, and binds them with the audit keys (MACs and signatures)."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from functools import cached_property

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from vitalake.errors import PrivacyError
from vitalake.keys import Key, KeyRing

_MAC_HEX = 64
_SIGNATURE_HEX = 128
_PATIENT_BYTES = 16


class AuditBroken(PrivacyError):
    """A chain does not match its head: somebody has changed or removed files. Nothing more is recorded in the chain."""


def broken(what: str, *, writer: str) -> AuditBroken:
    """Return the error of a chain that is not valid."""
    return AuditBroken(
        f"Audit chain is not valid ({what})",
        where=f"chain {writer}",
        remedy="Run 'vitalake audit verify'. 'vitalake audit begin' keeps the folder as evidence and begins a new one.",
    )


class Record(msgspec.Struct, frozen=True):
    """One line of a chain.

    Attributes:
        n: its number in the chain: 1, 2, 3 …
        at: microseconds since 1970, UTC.
        action: one of events.ACTIONS; also ``writer`` and ``anchor`` (in the chain of writers) and ``torn``.
        actor: who acted.
        role: the role in which they acted.
        patients: keyed digests of pseudonyms.
        detail: codes.
        key: id of the audit key.
    """

    n: int
    at: int
    action: str
    actor: str
    role: str
    patients: tuple[str, ...]
    detail: dict[str, str]
    key: str


class Head(msgspec.Struct, frozen=True):
    """How far a chain goes. It is signed, and stored in a file of its own next to the chain.

    Attributes:
        writer: the name of the chain.
        records: how many records it has.
        end: the length of its file, in bytes.
        mac: the MAC of the last record.
        at: when the head was signed, in microseconds since 1970.
        key: id of the audit key.
    """

    writer: str
    records: int
    end: int
    mac: str
    at: int
    key: str


@dataclass(frozen=True, slots=True)
class ChainPosition:
    """A point in a chain.

    Attributes:
        records: how many records come before it.
        end: how many bytes come before it.
        mac: the MAC of the last record before it; the next record's MAC includes it.
    """

    records: int
    end: int
    mac: str


@dataclass(frozen=True)
class _Secrets:
    """The keys that are derived from one version of the audit key, one for each use."""

    key: Key = field(repr=False)

    def derive(self, use: str) -> bytes:
        return HKDF(SHA256(), length=32, salt=None, info=f"vitalake audit, {use}".encode()).derive(self.key.secret)

    @cached_property
    def chain(self) -> bytes:
        return self.derive("chain")

    @cached_property
    def patients(self) -> bytes:
        return self.derive("patients")

    @cached_property
    def signing(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.derive("heads"))


class Seals:
    """Writes and checks lines with the audit key, in whichever version they name."""

    def __init__(self, keys: KeyRing) -> None:
        self._by_id = {key.id: _Secrets(key) for key in keys.versions("audit")}
        self.current = keys.current("audit").id

    def begin(self, writer: str) -> ChainPosition:
        """Return the beginning of a chain; its MAC is made with the oldest key, so key rotations do not change it."""
        oldest = next(iter(self._by_id.values()))
        return ChainPosition(0, 0, hmac.new(oldest.chain, f"begin {writer}".encode(), hashlib.sha256).hexdigest())

    def patients(self, pseudonym: str) -> set[str]:
        """Return the digests that may stand for a patient in records, one for each version of the key."""
        return {self._patient(secrets, pseudonym) for secrets in self._by_id.values()}

    def patient(self, pseudonym: str) -> str:
        """Return the digest that stands for a patient in new records."""
        return self._patient(self._by_id[self.current], pseudonym)

    @staticmethod
    def _patient(secrets: _Secrets, pseudonym: str) -> str:
        return hmac.digest(secrets.patients, pseudonym.encode(), hashlib.sha256)[:_PATIENT_BYTES].hex()

    def line(self, record: Record, *, after: ChainPosition) -> tuple[bytes, ChainPosition]:
        """Return a record's line, and the position after it."""
        body = msgspec.json.encode(record)
        mac = self._mac(record.key, body, after)
        line = b'%b,"mac":"%b"}\n' % (body[:-1], mac.encode())
        return line, ChainPosition(after.records + 1, after.end + len(line), mac)

    def follow(self, line: bytes, *, after: ChainPosition) -> tuple[Record, ChainPosition] | None:
        """Return a line's record and the position after it; None: it does not follow ``after``, or was changed."""
        body, mac = _split(line, b',"mac":"', _MAC_HEX)
        try:
            record = msgspec.json.decode(body, type=Record)
            expected = self._mac(record.key, body, after)
        except (msgspec.MsgspecError, UnicodeDecodeError, KeyError):
            return None
        if not hmac.compare_digest(expected.encode(), mac):
            return None
        return record, ChainPosition(after.records + 1, after.end + len(line), expected)

    def _mac(self, key: str, body: bytes, after: ChainPosition) -> str:
        return hmac.new(self._by_id[key].chain, after.mac.encode() + body, hashlib.sha256).hexdigest()

    def sign(self, head: Head) -> bytes:
        """Return a head's line, signed."""
        body = msgspec.json.encode(head)
        signature = self._by_id[head.key].signing.sign(body).hex()
        return b'%b,"signature":"%b"}\n' % (body[:-1], signature.encode())

    def check(self, line: bytes, *, writer: str) -> Head | None:
        """Return a line's head; None: it is not signed with this home's key, was changed, or is of another chain."""
        body, signature = _split(line, b',"signature":"', _SIGNATURE_HEX)
        try:
            head = msgspec.json.decode(body, type=Head)
            raw = bytes.fromhex(signature.decode())
            self._by_id[head.key].signing.public_key().verify(raw, body)
        except (msgspec.MsgspecError, ValueError, KeyError, InvalidSignature):
            return None
        # Only lower-case hex is accepted, so that every changed byte of the file is detected.
        return head if head.writer == writer and raw.hex().encode() == signature else None


def _split(line: bytes, label: bytes, length: int) -> tuple[bytes, bytes]:
    """Return the body of a line, and its MAC or signature; both are empty if the line is malformed."""
    cut = len(line) - length - len(b'"}\n')
    if cut > 0 and line.endswith(b'"}\n') and line[:cut].endswith(label):
        return line[: cut - len(label)] + b"}", line[cut : cut + length]
    return b"", b""
