from hypothesis import given
from hypothesis import strategies as st

from sage_llm_ops.engines.tokenizers import ByteTokenizer, TextTokenizer, estimate


@given(st.text())
def test_text_comes_back_as_it_went(text: str) -> None:
    tokenizer = TextTokenizer()
    ids = list(text.encode())
    assert tokenizer.decode(ids) == text
    decoder = tokenizer.decoder()
    assert "".join(decoder.push([token]) for token in ids) + decoder.flush() == text


def test_counts_are_estimates_of_their_own_kind() -> None:
    tokenizer = TextTokenizer()
    assert [estimate(size) for size in (0, 1, 4, 5)] == [0, 1, 1, 2]
    assert tokenizer.estimate("eight by") == 2
    assert tokenizer.estimate([{"role": "user", "content": "hi"}]) == 8
    assert tokenizer.hash != ByteTokenizer.hash
