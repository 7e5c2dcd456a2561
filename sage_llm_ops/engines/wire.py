"""Frames: lists of structs as msgpack, one list per engine step, and the handshake that opens them.

Lists, not single structs, because an engine step answers a whole batch: one message per step keeps
the reader's cost per token at a few microseconds. An empty list is a frame too: each side sends one
as soon as it is connected, which proves the link before a model is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sage_llm_ops.types.errors import ProtocolError
from sage_llm_ops.types.wire import PROTOCOL, Down, Hello, Up

_encoder = msgspec.msgpack.Encoder()
_up = msgspec.msgpack.Decoder(list[Up])
_down = msgspec.msgpack.Decoder(list[Down])

LINK_UP = _encoder.encode([])
"""The frame that says only "I am connected"."""


class Expected(msgspec.Struct, frozen=True):
    """What a worker was asked to be. Empty: anything will do."""

    engine: str = ""
    model: str = ""
    tokenizer_hash: str = ""


def encode_up(messages: Sequence[Up]) -> bytes:
    """One frame from a worker to the plane."""
    return _encoder.encode(messages)


def encode_down(messages: Sequence[Down]) -> bytes:
    """One frame from the plane to a worker."""
    return _encoder.encode(messages)


def decode_up(frame: bytes) -> list[Up]:
    """Raises `ProtocolError`, which names what does not fit."""
    try:
        return _up.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(_why("worker", frame, error)) from error


def decode_down(frame: bytes) -> list[Down]:
    """Raises `ProtocolError`, which names what does not fit."""
    try:
        return _down.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(_why("plane", frame, error)) from error


def refusal(hello: Hello, expected: Expected) -> str | None:
    """Why this worker is not the one that was asked for; None where it is."""
    if hello.protocol != PROTOCOL:
        return _protocol_refusal(hello.protocol)
    wanted = (
        ("engine", hello.engine, expected.engine, "the wrong engine was started"),
        (
            "model",
            hello.model,
            expected.model,
            "the worker serves another model: correct the instance's model_name or its options",
        ),
        (
            "tokenizer",
            hello.tokenizer_hash,
            expected.tokenizer_hash,
            "plane and worker read different tokenizer files: point both at the same model directory",
        ),
    )
    for what, found, want, meaning in wanted:
        if want and found != want:
            return f"handshake: {what} is {found!r}, expected {want!r}: {meaning}"
    return None


def _protocol_refusal(found: object) -> str:
    return (
        f"handshake: the worker speaks protocol {found!r}, this side speaks {PROTOCOL}: "
        "install the same version of sage-llm-ops on both sides"
    )


def _why(sender: str, frame: bytes, error: Exception) -> str:
    try:
        raw = msgspec.msgpack.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raw = None
    # A Hello of another protocol version may not decode as ours: say that, not which field differs.
    for message in raw if isinstance(raw, list) else ():
        if isinstance(message, dict) and message.get("protocol", PROTOCOL) != PROTOCOL:
            return _protocol_refusal(message["protocol"])
    start = frame[:16].hex(" ")
    return (
        f"frame of {len(frame)} bytes from the {sender} does not decode: {error} (starts {start})"
    )
