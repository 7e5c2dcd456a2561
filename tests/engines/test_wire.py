import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_llm_ops.engines import wire
from sage_llm_ops.engines.tokens import pack, unpack
from sage_llm_ops.types.capabilities import Capabilities
from sage_llm_ops.types.errors import ProtocolError
from sage_llm_ops.types.ids import NodeId, RequestId
from sage_llm_ops.types.kv import KvCleared, KvRemoved, KvStored
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import SamplingParams
from sage_llm_ops.types.wire import (
    PROTOCOL,
    Accepted,
    CacheChanged,
    CancelNode,
    Done,
    Down,
    Drained,
    DrainWorker,
    Failed,
    Hello,
    Ping,
    Pong,
    Stats,
    StopWorker,
    Submit,
    Tokens,
    Up,
)

HELLO = Hello(PROTOCOL, "vllm", "0.32.0", "m", "abc", 1, Capabilities(sampling=("seed",)))

UP: list[Up] = [
    HELLO,
    Accepted(NodeId(1)),
    Tokens(NodeId(1), 3, [1, 2], 4),
    Done(NodeId(1), "stop", 5, 6, 7, [0.5]),
    Failed(NodeId(2), "engine_failed", "why"),
    Stats(1, 2, 0.5, 3, 4.0),
    CacheChanged(
        2,
        [
            KvStored(b"8 bytes.", b"4 b.", 1, 7, 1, "law", "x"),
            KvRemoved(b"8 bytes.", 1),
            KvCleared(),
        ],
    ),
    Drained(),
    Pong(9),
]
DOWN: list[Down] = [
    Submit(
        PlanNode(
            NodeId(1),
            RequestId("r"),
            "w",
            1,
            tokens=pack([1, -1, 2**31 - 1]),
            n_tokens=3,
            sampling=SamplingParams(stop=("x",), seed=0, temperature=0.0),
            blocks=(1, 2),
        )
    ),
    CancelNode(NodeId(1)),
    DrainWorker(),
    StopWorker(),
    Ping(7),
]


def test_round_trip_of_every_message() -> None:
    assert wire.decode_up(wire.encode_up(UP)) == UP
    assert wire.decode_down(wire.encode_down(DOWN)) == DOWN
    assert wire.decode_up(wire.LINK_UP) == []


def test_what_the_frames_cover() -> None:
    """A message added to the protocol must be added here."""
    for union, examples in ((Up, UP), (Down, DOWN)):
        assert {type(message) for message in examples} == set(union.__args__)


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused_by_name(frame: bytes) -> None:
    for decode, sender in ((wire.decode_up, "worker"), (wire.decode_down, "plane")):
        try:
            decode(frame)
        except ProtocolError as error:
            assert sender in str(error) and str(len(frame)) in str(error)


@given(st.data())
def test_cut_and_flipped_frames(data: st.DataObject) -> None:
    frame = bytearray(wire.encode_up(UP))
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] = data.draw(st.integers(0, 255))
    for bad in (bytes(frame), bytes(frame[:at])):
        try:
            wire.decode_up(bad)
        except ProtocolError:
            pass


def test_a_hello_of_another_version_says_so() -> None:
    """Even where its fields do not decode as ours."""
    future = [{"type": "Hello", "protocol": 99, "shape": "unknown"}]
    with pytest.raises(ProtocolError, match=r"speaks protocol 99, this side speaks \d+: install"):
        wire.decode_up(msgspec.msgpack.encode(future))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": PROTOCOL + 1}, f"protocol {PROTOCOL + 1}"),
        ({"engine": "sim"}, "engine is 'sim', expected 'vllm'"),
        ({"model": "other"}, "model is 'other', expected 'm'"),
        ({"tokenizer_hash": "zzz"}, "tokenizer is 'zzz', expected 'abc'"),
    ],
)
def test_refusals(change: dict[str, object], words: str) -> None:
    refused = wire.refusal(
        msgspec.structs.replace(HELLO, **change), wire.Expected("vllm", "m", "abc")
    )
    assert refused is not None and words in refused


def test_what_is_not_expected_is_not_compared() -> None:
    assert wire.refusal(HELLO, wire.Expected("vllm", "m", "abc")) is None
    assert wire.refusal(HELLO, wire.Expected()) is None


@given(st.lists(st.integers(-(2**31), 2**31 - 1)))
def test_token_buffers(ids: list[int]) -> None:
    assert unpack(pack(ids)) == ids
    assert len(pack(ids)) == 4 * len(ids)


def test_half_a_token() -> None:
    with pytest.raises(ValueError):
        unpack(b"abc")
