"""R12: our parameters, a dict, or vLLM's object; and nothing that an engine would leave out."""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Any

import msgspec
import pytest

from sage_llm_ops import SamplingParams
from sage_llm_ops.core.requests import as_sampling
from sage_llm_ops.types.capabilities import Capabilities
from sage_llm_ops.types.errors import InvalidRequest, RequestFailed
from tests.core.fleets import QUICK, held, instance, request, simulated


class Theirs(msgspec.Struct, kw_only=True):
    """Shaped like vLLM's: a struct with the same names, derived and private fields, and more."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    max_tokens: int | None = 16
    logprobs: int | None = None
    output_kind: int = 0
    output_text_buffer_length: int = 0
    _real_n: int | None = None
    _all_stop_token_ids: set[int] = msgspec.field(default_factory=set)

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            self.stop = [self.stop]
        self.stop_token_ids = self.stop_token_ids or []
        self._all_stop_token_ids.update(self.stop_token_ids)
        self.output_text_buffer_length = len(self.stop[0]) - 1 if self.stop else 0


@dataclasses.dataclass
class AsDataclass:
    max_tokens: int = 16
    temperature: float = 1.0


def test_nothing_given_means_the_requests_own_number_of_tokens() -> None:
    assert as_sampling(None, 512) == SamplingParams(max_tokens=512)


def test_an_objects_tokens_win_also_where_they_are_its_default() -> None:
    assert as_sampling(SamplingParams(max_tokens=7), 512).max_tokens == 7
    assert as_sampling(SamplingParams(temperature=0.5), 512).max_tokens == 16
    assert as_sampling(Theirs(max_tokens=7), 512).max_tokens == 7
    assert as_sampling(Theirs(), 512).max_tokens == 16


def test_a_dict_that_names_no_tokens_leaves_them_to_the_request() -> None:
    assert as_sampling({"max_tokens": 7}, 512).max_tokens == 7
    assert as_sampling({"temperature": 0.0}, 100) == SamplingParams(100, temperature=0.0)


def test_a_foreign_object_is_known_by_its_fields() -> None:
    given = Theirs(temperature=0.7, top_p=0.9, stop="\n\n", stop_token_ids=[2], max_tokens=512)
    assert as_sampling(given, 1) == SamplingParams(
        512, temperature=0.7, top_p=0.9, stop=("\n\n",), stop_token_ids=(2,)
    )
    assert as_sampling(AsDataclass(temperature=0.0), 1) == SamplingParams(temperature=0.0)


def test_fields_at_their_default_are_not_sent() -> None:
    assert msgspec.to_builtins(as_sampling(Theirs(top_k=-1), 1)) == {}
    assert msgspec.to_builtins(as_sampling(Theirs(top_k=5), 1)) == {"top_k": 5}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"temprature": 0.1}, r"temprature=0\.1 is not honoured here; known: max_tokens"),
        (Theirs(n=2), "n=2 is not honoured here"),
        (Theirs(logprobs=1), "logprobs=1 is not honoured here"),
        (Theirs(max_tokens=None), r"Expected `int`, got `null` - at `\$\.max_tokens`"),
        ({"temperature": "hot"}, r"Expected `float`, got `str` - at `\$\.temperature`"),
        (SamplingParams(temperature="hot"), r"at `\$\.temperature`"),  # type: ignore[arg-type]
        ({"top_p": 0.0}, "top_p=0.0 must be above 0 and at most 1"),
        (SamplingParams(max_tokens=0), "max_tokens=0 must be at least 1"),
        ({"temperature": float("nan")}, "temperature=nan must be between"),
        ({"stop": ["", "x"]}, "stop="),
        (object(), "object has no known fields"),
        (3, "int has no known fields"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_what_is_wrong_is_refused_by_name(given: Any, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        as_sampling(given, 512)


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllms_own_object() -> None:
    from vllm import SamplingParams as Real

    given = Real(temperature=0.7, top_p=0.9, max_tokens=512)
    assert as_sampling(given, 1) == SamplingParams(512, temperature=0.7, top_p=0.9)
    assert msgspec.to_builtins(as_sampling(Real(), 1)) == {}
    assert as_sampling(Real(temperature=0.0, stop=["."], seed=3), 1) == SamplingParams(
        temperature=0.0, stop=(".",), seed=3
    )
    with pytest.raises(InvalidRequest, match="n=2 is not honoured here"):
        as_sampling(Real(n=2), 1)


# -- what the engines honour ------------------------------------------------------------------

PLAIN = Capabilities(sampling=("temperature",), max_model_len=4096)
"""Honours `temperature`, and what every engine does."""


async def test_what_the_engine_would_ignore_is_refused_with_what_it_honours() -> None:
    async with simulated(2) as manager:
        with pytest.raises(InvalidRequest) as refused:
            await manager.submit_request(request("r", sampling_params={"presence_penalty": 0.5}))
    said = str(refused.value)
    assert "request 'r': sampling parameter presence_penalty=0.5 is not honoured by" in said
    assert "engine 'sim', which would ignore it; leave it out. Honoured there: " in said
    assert "max_tokens" in said and "temperature" in said and "stop," not in said


async def test_a_field_at_its_default_is_no_wish() -> None:
    async with simulated() as manager:
        given = {"presence_penalty": 0.0, "repetition_penalty": 1.0, "stop": None, "max_tokens": 2}
        assert (await manager.process_request("Hello", given)).usage.completion_tokens == 2


async def test_every_worker_that_may_get_it_must_honour_it_and_a_pin_leaves_one() -> None:
    async with held("able", "plain", workers={"plain": {"capabilities": PLAIN}}) as (
        manager,
        fleet,
    ):
        wish = {"top_p": 0.5}
        with pytest.raises(InvalidRequest, match=r"top_p=0\.5 is not honoured by engine 'held'"):
            await manager.submit_request(request("r", sampling_params=wish))
        await manager.submit_request(request("r", sampling_params=wish, pin="able"))
        assert fleet["able"].wait_for("r").sampling.top_p == 0.5
        await manager.unregister_instance("plain")
        await manager.submit_request(request("s", sampling_params=wish))
        fleet["able"].wait_for("s")


async def test_a_worker_that_came_up_later_does_not_get_what_it_would_ignore() -> None:
    """Nobody was up to ask when the request was let in: it fails by name, it is not cut short."""
    plain = {"starts": ["not yet"], "capabilities": PLAIN}
    async with held(workers={"late": plain}, restart=QUICK) as (manager, fleet):
        manager.register_instance(instance("late"))
        await manager.submit_request(request("r", sampling_params={"top_p": 0.5}))
        with pytest.raises(RequestFailed, match=r"capability: .*top_p=0\.5.*engine 'held'"):
            await manager.wait_for_result("r", 10.0)
        assert not fleet["late"].nodes


async def test_other_models_engines_have_no_say() -> None:
    async with held("w0", workers={"other": {"capabilities": PLAIN}}) as (manager, fleet):
        manager.register_instance(instance("other", model="m"))
        wish = {"top_p": 0.5}
        await manager.submit_request(request("r", sampling_params=wish, model_name="sim-model"))
        fleet["w0"].wait_for("r")
        with pytest.raises(InvalidRequest, match="top_p"):
            await manager.submit_request(request("s", sampling_params=wish, model_name="m"))
