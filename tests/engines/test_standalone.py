import pytest

from sage_llm_ops.engines.registry import make_engine
from sage_llm_ops.testing.echo_engine import ECHO, echo_token
from sage_llm_ops.types.errors import CapabilityError, InvalidRequest
from sage_llm_ops.types.requests import SamplingParams


def test_generate_from_token_ids() -> None:
    engine = make_engine(ECHO)
    engine.start()
    result = engine.generate([7, 8], SamplingParams(max_tokens=3))
    assert result.token_ids == tuple(echo_token(7, 2 + k) for k in range(3))
    assert result.finish_reason == "length"
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (2, 3)
    assert result.timings.ttft_s is not None


def test_what_it_cannot_do_is_refused() -> None:
    engine = make_engine(ECHO)
    with pytest.raises(CapabilityError, match="no tokenizer here"):
        engine.generate("text")
    with pytest.raises(CapabilityError, match="offers generate, not 'embed'"):
        engine.embed([1])


def test_failures_are_exceptions() -> None:
    with pytest.raises(InvalidRequest, match="the prompt is empty"):
        make_engine(ECHO).generate([])
