from hypothesis import given
from hypothesis import strategies as st

from sage_llm_ops.engines.tokenizers.bytes import ByteTokenizer


@given(st.text())
def test_round_trip(text: str) -> None:
    tokenizer = ByteTokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.lists(st.integers(0, 400)))
def test_pieces_are_the_whole(ids: list[int]) -> None:
    tokenizer = ByteTokenizer()
    decoder = tokenizer.decoder()
    assert "".join(decoder.push([i]) for i in ids) + decoder.flush() == tokenizer.decode(ids)


def test_chat_tags_the_roles() -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.chat([{"role": "user", "content": "hi"}])
    assert tokenizer.decode(ids) == "<|user|>hi\n<|assistant|>"
