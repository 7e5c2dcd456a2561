"""What becomes of a server's bytes, without a socket."""

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_llm_ops.engines.http.answers import message_of
from sage_llm_ops.engines.http.body import request_of
from sage_llm_ops.engines.http.dialects import DIALECTS
from sage_llm_ops.engines.http.reading import Broken, Reading
from sage_llm_ops.engines.http.sse import LONGEST_EVENT, SseParser
from sage_llm_ops.engines.tokens import pack
from sage_llm_ops.types.errors import ProtocolError
from sage_llm_ops.types.ids import NodeId, RequestId
from sage_llm_ops.types.plans import PlanNode
from sage_llm_ops.types.requests import SamplingParams
from sage_llm_ops.types.wire import Done, Tokens


def node(*ids: int, **fields: Any) -> PlanNode:
    sampling = fields.pop("sampling", SamplingParams(max_tokens=4))
    tokens = {"tokens": pack(ids), "n_tokens": len(ids), "sampling": sampling}
    return PlanNode(NodeId(1), RequestId("r"), "w", 1, **{**tokens, **fields})


def event(**choice: Any) -> bytes:
    return msgspec.json.encode({"choices": [{"index": 0, **choice}]})


def usage(prompt: int, completion: int, **more: Any) -> bytes:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, **more}
    return msgspec.json.encode({"choices": [], "usage": counts})


def read(reading: Reading, *events: bytes) -> tuple[list[int], Done]:
    ids: list[int] = []
    for data in events:
        tokens = reading.take(data)
        if tokens is not None:
            assert tokens.offset == reading.node.offset + len(ids)
            ids += tokens.ids
    return ids, reading.end()


TEXTS = st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8")), max_size=6)


@given(texts=TEXTS, cuts=st.sets(st.integers(0, 400)), end=st.sampled_from([b"\n", b"\r\n"]))
def test_the_same_events_however_the_bytes_are_cut(
    texts: list[str], cuts: set[int], end: bytes
) -> None:
    """U+2028 and its like are text, not line ends."""
    lines = [b": comment", b"event: x"]
    for text in texts:
        lines += [b"data: " + text.encode(), b""]
    whole = b"".join(line + end for line in lines)
    parser, found = SseParser(), []
    edges = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]
    for start, stop in itertools.pairwise(edges):
        found += parser.feed(whole[start:stop])
    assert [data.decode() for data in found] == texts


def test_half_an_event_is_none_and_an_endless_one_is_refused() -> None:
    parser = SseParser()
    assert parser.feed(b"data: a\ndata: b\n\ndata: c") == [b"a\nb"]
    with pytest.raises(ProtocolError, match="longer than"):
        parser.feed(b"x" * LONGEST_EVENT)


def test_tokens_have_offsets_and_the_counts_must_agree() -> None:
    events = (event(text="x", token_ids=[7]), event(text="", token_ids=[8, 9]))
    last = event(text="y", token_ids=[1], finish_reason="length")
    cached = usage(3, 4, prompt_tokens_details={"cached_tokens": 2})
    reading = Reading(node(5, 6, 7, offset=10), as_tokens=True)
    assert read(reading, *events, last, cached, b"[DONE]") == (
        [7, 8, 9, 1],
        Done(NodeId(1), "length", 3, 4, 2),
    )
    for lie in (usage(3, 5), usage(4, 4)):
        with pytest.raises(Broken, match="it counts"):
            read(Reading(node(5, 6, 7), as_tokens=True), *events, last, lie, b"[DONE]")


def test_the_prompt_must_be_the_one_that_was_sent() -> None:
    reading = Reading(node(5, 6), as_tokens=True)
    assert reading.take(event(text="x", token_ids=[7], prompt_token_ids=[5, 6]))
    with pytest.raises(Broken, match="3 prompt tokens that are not the 2 sent"):
        Reading(node(5, 6), as_tokens=True).take(
            event(text="x", token_ids=[7], prompt_token_ids=[1, 5, 6])
        )


def test_more_tokens_than_asked_for_is_a_lie() -> None:
    reading = Reading(node(5), as_tokens=True)
    with pytest.raises(Broken, match="5 tokens, max_tokens=4"):
        reading.take(event(text="x", token_ids=[1, 2, 3, 4, 5]))


def test_text_travels_as_its_bytes_and_the_server_counts() -> None:
    reading = Reading(node(untokenised="hi"), as_tokens=False)
    events = (event(text="na"), event(delta={"content": "ïve"}), event(delta={"role": "x"}))
    last = event(text="", finish_reason="stop")
    ids, end = read(reading, *events, last, usage(3, 2), b"[DONE]")
    assert bytes(ids).decode() == "naïve"
    assert end == Done(NodeId(1), "stop", 0, 6, 0, None, (3, 2))


@pytest.mark.parametrize("counts", [usage(3, 0), usage(3, 5), usage(0, 2), usage(3, -1), None])
def test_counts_that_cannot_be_true_are_not_taken(
    counts: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    reading = Reading(node(), as_tokens=False)
    events = [event(text="some text", finish_reason="stop"), *filter(None, [counts]), b"[DONE]"]
    _, end = read(reading, *events)
    assert isinstance(end, Done) and end.counted is None
    assert ("cannot be true" in caplog.text) == (counts is not None)


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([event(text="a", token_ids=[1])], "without .DONE"),
        ([event(text="a", token_ids=[1], finish_reason="stop")], "without .DONE"),
        ([event(text="a", token_ids=[1]), b"[DONE]"], "without a finish_reason"),
        ([event(text="", token_ids=[], finish_reason="abort"), b"[DONE]"], "'abort'"),
        ([event(text="", finish_reason="content_filter"), b"[DONE]"], "'content_filter'"),
    ],
)
def test_an_end_that_is_none(events: list[bytes], why: str) -> None:
    with pytest.raises(Broken, match=why) as caught:
        read(Reading(node(5), as_tokens=True), *events)
    assert caught.value.code == "engine_failed"


@pytest.mark.parametrize(
    ("data", "code", "why"),
    [
        (b"{half", "engine_failed", "garbage"),
        (b'"\xff"', "engine_failed", "garbage"),
        (b'{"choices": 7}', "engine_failed", "garbage"),
        (b'{"hello": 7}', "engine_failed", "no choices"),
        (b'{"error": {"message": "boom"}}', "engine_failed", "broke the stream: boom"),
        (b'{"error": {"message": "no", "code": 400}}', "invalid_request", "no"),
        (event(text="text alone"), "capability", "leave out the instance's option tokenizer"),
    ],
)
def test_what_cannot_be_read(data: bytes, code: str, why: str) -> None:
    with pytest.raises(Broken) as caught:
        Reading(node(5), as_tokens=True).take(data)
    assert (caught.value.code, why in str(caught.value)) == (code, True)


@given(st.binary(max_size=60))
def test_no_bytes_make_it_raise_anything_else(data: bytes) -> None:
    try:
        found = Reading(node(5), as_tokens=True).take(data)
        assert found is None or isinstance(found, Tokens)
    except Broken:
        pass


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"error": {"message": "too long", "code": 400}}', "too long"),
        (b'{"message": "too long", "object": "error"}', "too long"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b"<html>Bad Gateway</html>", "<html>Bad Gateway</html>"),
        (b"", "no reason given"),
        (b"{}", "{}"),
    ],
)
def test_the_sentence_of_an_error(body: bytes, said: str) -> None:
    assert message_of(body) == said


def test_what_is_sent() -> None:
    sampling = SamplingParams(max_tokens=4, temperature=0.0, stop=("x",), ignore_eos=True)
    vllm, plain = DIALECTS["vllm"], DIALECTS["openai"]
    path, body = request_of(node(5, 6, sampling=sampling), "m", vllm, as_tokens=True)
    assert path == "/v1/completions" and body["prompt"] == [5, 6]
    assert body["return_token_ids"] is True and body["stream_options"] == {"include_usage": True}
    assert body["ignore_eos"] is True and body["stop"] == ["x"]
    assert body["top_k"] == 0, "or the server would take its model's own default"
    assert "seed" not in body and "min_tokens" not in body
    path, body = request_of(node(untokenised="hi", sampling=sampling), "m", plain, as_tokens=False)
    assert (path, body["prompt"]) == ("/v1/completions", "hi")
    assert body.keys().isdisjoint({"top_k", "ignore_eos", "return_token_ids"})
    messages = [{"role": "user", "content": "hi"}]
    path, body = request_of(node(untokenised=messages), "m", plain, as_tokens=False)
    assert (path, body["messages"]) == ("/v1/chat/completions", messages)
    path, body = request_of(node(5, 6, task="embed"), "m", vllm, as_tokens=True)
    assert path == "/v1/embeddings"
    assert body == {"model": "m", "input": [5, 6], "encoding_format": "float"}


NOISE = [b"\xff\xfe{}", b'{"error": "\xff"}', b"[" * 100_000, b'{"error":' * 5000]


@pytest.mark.parametrize("data", NOISE)
def test_noise_breaks_the_stream_and_nothing_else(data: bytes) -> None:
    with pytest.raises(Broken, match="garbage"):
        Reading(node(1), as_tokens=False).take(data)
    assert message_of(data)


def test_text_without_end_is_ended() -> None:
    reading = Reading(node(1), as_tokens=False)
    with pytest.raises(Broken, match=r"it sent \d+ bytes, max_tokens=4"):
        for _ in range(100):
            reading.take(event(text="x" * 100))


def test_a_second_answer_is_not_mixed_with_the_first() -> None:
    reading = Reading(node(1), as_tokens=False)
    reading.take(event(text="a"))
    with pytest.raises(Broken, match="choice 1 where one was asked for"):
        reading.take(event(text="b").replace(b'"index":0', b'"index":1'))


def test_empty_lines_of_an_event_without_end_count() -> None:
    parser = SseParser()
    with pytest.raises(ProtocolError, match="longer than"):
        for _ in range(100):
            parser.feed(b"data:\n" * 100_000)
