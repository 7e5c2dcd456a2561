"""Streamed text is the whole text, in pieces, and never any of a stop string."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sage_llm_ops.engines.tokenizers import ByteTokenizer
from sage_llm_ops.engines.tokenizers.stops import stop_at
from sage_llm_ops.service.gateway.text import StreamedText

letters = st.text(alphabet="abcé", max_size=24)


def cut(text: str, stops: list[str]) -> str:
    """By hand: letter after letter, until one completes a stop string."""
    for end in range(1, len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop)]
    return text


@settings(max_examples=500)
@given(letters, st.lists(st.text(alphabet="abcé", min_size=1, max_size=4), max_size=3), st.data())
def test_pieces_make_the_whole(text: str, stops: list[str], data: st.DataObject) -> None:
    ids = list(text.encode())
    streamed = StreamedText(ByteTokenizer().decoder(), stops)
    shown = ""
    while ids:
        size = data.draw(st.integers(1, len(ids)))
        shown += streamed.push(ids[:size])
        ids = ids[size:]
        assert cut(text, stops).startswith(shown)
    assert shown + streamed.flush() == cut(text, stops)
    assert text[: stop_at(text, stops)] == cut(text, stops)


def test_only_what_may_be_a_stop_string_is_held_back() -> None:
    streamed = StreamedText(ByteTokenizer().decoder(), ["END"])
    assert streamed.push(b"one E") == "one "
    assert streamed.push(b"N") == ""
    assert streamed.push(b"o") == "ENo"
    assert streamed.push(b"EN") == ""
    assert streamed.flush() == "EN"
