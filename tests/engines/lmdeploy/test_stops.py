"""Stop strings, wherever the tokens cut them."""

from hypothesis import given
from hypothesis import strategies as st

from sage_llm_ops.engines.lmdeploy.stops import StopStrings
from sage_llm_ops.engines.tokenizers import ByteTokenizer
from sage_llm_ops.types.requests import SamplingParams

TEXT = st.text("abcé", max_size=30)
STOPS = st.lists(st.text("abcé", min_size=1, max_size=4), min_size=1, max_size=3)


@given(TEXT, STOPS, st.lists(st.integers(1, 5), min_size=1), st.integers(0, 5))
def test_the_answer_ends_with_the_token_that_completes_a_stop(
    text: str, stops: list[str], sizes: list[int], not_before: int
) -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    sampling = SamplingParams(max_tokens=100, min_tokens=not_before, stop=tuple(stops))
    finder = StopStrings(sampling, tokenizer.decoder())
    kept, place, number = [], 0, 0
    found = None
    while place < len(ids) and found is None:
        piece = ids[place : place + sizes[number % len(sizes)]]
        found = finder.found(piece)
        kept += piece[:found]
        place += len(piece)
        number += 1

    def complete(count: int) -> bool:
        """Whether the answer may end here: what is certain of its text holds a stop that was not
        over before."""
        decoder = tokenizer.decoder()
        certain = [decoder.push([token]) for token in ids[:count]]
        now, before = "".join(certain), "".join(certain[:-1])
        return any(stop in now[max(0, len(before) - len(stop) + 1) :] for stop in stops)

    ends = [n for n in range(1, len(ids) + 1) if n > not_before and complete(n)]
    assert len(kept) == (ends[0] if ends else len(ids))
    assert (found is not None) == bool(ends)
