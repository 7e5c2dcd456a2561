"""The cost model: its form, what it learns, what it does not let itself be told."""

from __future__ import annotations

import json
import random

import msgspec
import numpy as np
import pytest

from sage_llm_ops.cost_model import CostBook, Step, WorkerClass, decode_ms, pairs_of, prefill_ms
from sage_llm_ops.cost_model.priors import prior, table
from sage_llm_ops.cost_model.rls import Learner
from sage_llm_ops.cost_model.step import features, step_ms
from sage_llm_ops.types.capabilities import Capabilities
from sage_llm_ops.types.errors import ConfigError

TRUE = np.array([16.5, 0.015, 0.01, 4.2e-7, 10.0, 0.05, 2.7e-5])
KIND = WorkerClass("", "m", "sim")


def steps(n: int, seed: int = 0, truth: np.ndarray = TRUE, noise: float = 0.03):
    rng = random.Random(seed)
    for _ in range(n):
        prompt = rng.choice([0, 0, rng.randint(1, 8000)])
        decodes = rng.choice([0, rng.randint(1, 64)]) if prompt else rng.randint(1, 64)
        step = Step(prompt, pairs_of(prompt), decodes, decodes * rng.randint(100, 4000))
        yield step, step_ms(truth, step) * (1.0 + rng.gauss(0.0, noise))


def error(learner: Learner, truth: np.ndarray = TRUE) -> float:
    found = [
        abs(step_ms(learner.coefficients, step) / ms - 1.0)
        for step, ms in steps(300, seed=9, truth=truth, noise=0.0)
    ]
    return float(np.median(found))


def test_the_parts_add_up_to_the_step() -> None:
    step = Step(1000, pairs_of(1000, 500), 8, 4000)
    whole = prefill_ms(TRUE, 1000, 500) + decode_ms(TRUE, 8, 4000)
    assert step_ms(TRUE, step) == pytest.approx(whole)
    assert prefill_ms(TRUE, 0) == decode_ms(TRUE, 0, 100) == 0.0


def test_it_learns_from_nothing() -> None:
    learner = Learner()
    assert not learner.known
    for step, ms in steps(600):
        learner.learn(features(step), ms)
    assert learner.known
    assert error(learner) < 0.03
    assert learner.error < 0.06


def test_a_wrong_prior_is_unlearnt() -> None:
    learner = Learner(TRUE * 2.0)
    for step, ms in steps(800):
        learner.learn(features(step), ms)
    assert error(learner) < 0.05


def test_outliers_move_nothing() -> None:
    learner = Learner()
    rng = random.Random(3)
    for step, ms in steps(800):
        learner.learn(features(step), ms * (30.0 if rng.random() < 0.05 else 1.0))
    assert learner.outliers > 20
    assert error(learner) < 0.08


def test_a_worker_that_has_changed_is_learnt_again() -> None:
    learner = Learner()
    for step, ms in steps(800):
        learner.learn(features(step), ms)
    slower = TRUE * 3.0
    for step, ms in steps(400, seed=5, truth=slower):
        learner.learn(features(step), ms)
    assert error(learner, slower) < 0.08


def test_a_book_is_the_same_after_a_night_on_disk() -> None:
    book = CostBook()
    book.learn(KIND, steps(50))
    again = CostBook.from_state(json.loads(json.dumps(book.state())))
    for one in (book, again):
        one.learn(KIND, steps(50, seed=1))
    assert book.report() == again.report()
    assert book.coefficients(KIND).tolist() == again.coefficients(KIND).tolist()


@pytest.mark.parametrize(
    ("step", "ms"),
    [
        (Step(100, pairs_of(100), 4, 2000), float("inf")),
        (Step(100, pairs_of(100), 4, 2000), float("nan")),
        (Step(100, pairs_of(100), 4, 2000), -1.0),
        (Step(-5, 25, 0, 0), 20.0),
        (Step(10**30, 10**60, 1, 1), 20.0),
        (Step(5, float("nan"), 0, 0), 20.0),  # type: ignore[arg-type]
        (Step(), 20.0),
    ],
)
def test_what_no_step_can_be_teaches_nothing(step: Step, ms: float) -> None:
    """Regression: one such step could make every coefficient nan, or no number at all, for ever."""
    learner = Learner(TRUE)
    before = learner.state()
    learner.learn(features(step), ms)
    assert learner.state() == before


@pytest.mark.parametrize("said", [(1.0,) * 6, (1.0,) * 8, (1.0,) * 6 + (float("nan"),)])
def test_an_engine_cannot_say_of_its_speed_what_is_none(said: tuple[float, ...]) -> None:
    """Regression: it came up, and whatever it was given ended as a defect of ours."""
    with pytest.raises(ValueError, match="must be 7 finite numbers"):
        Capabilities(step_ms=said)
    sent = msgspec.msgpack.encode({"step_ms": said})
    with pytest.raises(msgspec.ValidationError, match="must be 7 finite numbers"):
        msgspec.msgpack.decode(sent, type=Capabilities)


def test_workers_of_another_parallelism_are_another_class() -> None:
    book = CostBook()
    one = WorkerClass("h200", "meta-llama/Llama-3-8B", "vllm")
    staged = one._replace(ranks=(2, 1, 1))
    book.open(one)
    book.open(staged)
    assert book.coefficients(one) is not None
    assert book.coefficients(staged) is None, "the tables know of no stages"
    book.learn(staged, steps(50))
    assert [row["steps"] for row in book.report()] == [0, 50]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"w": [1.0] * 6}, "w must be"),
        ({"w": [float("nan")] * 7}, "w must be"),
        ({"p": [[1.0]]}, "length >= 7"),
        ({"p": [[1.0] * 7] * 6}, "p must be"),
        ({"errors": "abc"}, "errors"),
        ({"more": 1}, "more"),
    ],
)
def test_what_was_never_a_state_is_refused(change: dict[str, object], words: str) -> None:
    """Regression: it was taken for one, and every coefficient was nan, or an error came much later."""
    book = CostBook()
    book.learn(KIND, steps(20))
    state = book.state()
    state[str(KIND)] |= change
    with pytest.raises(ConfigError, match=words):
        CostBook.from_state(state)
    with pytest.raises(ConfigError, match="no state"):
        CostBook.from_state({"x": {}})


def test_nothing_is_known_of_a_class_that_nobody_measured() -> None:
    book = CostBook()
    book.open(KIND)
    assert book.coefficients(KIND) is None
    book.open(WorkerClass("h200", "meta-llama/Llama-3-8B", "vllm"))
    assert book.coefficients(WorkerClass("h200", "meta-llama/Llama-3-8B", "vllm")) is not None
    assert prior("", "llama-3-8b", 1) is prior("h200", "nobody", 1) is None


@pytest.mark.parametrize(
    ("hardware", "model", "width"),
    [
        ("h200", "meta-llama/Meta-Llama-3-8B-Instruct", 1),
        ("H200", "meta-llama/Llama-2-7b-chat-hf", 2),
        ("a100-80gb", "meta-llama/Llama-2-70b-chat-hf", 4),
        ("h100-80gb-pcap", "meta-llama/Llama-2-70b-hf", 2),
        ("a100-80gb", "bigscience/bloom", 8),
        ("a100-80gb", "facebook/opt-13b", 1),
        ("h200", "Qwen/Qwen2.5-7B-Instruct", 1),
    ],
)
def test_priors_are_found_by_the_names_that_models_have(
    hardware: str, model: str, width: int
) -> None:
    """Regression: the Splitwise table's own names were nobody's, and Llama 3's lacked its prefix."""
    assert prior(hardware, model, width) is not None


def test_every_prior_is_sane_and_names_its_source() -> None:
    for name, row in table()["steps"].items():
        ms = np.array(row["ms"])
        assert row["source"], name
        grid = [prefill_ms(ms, n) for n in (1, 64, 512, 2048, 8192, 65_536)]
        assert grid == sorted(grid) and grid[0] > 0.0, name
        assert decode_ms(ms, 1, 1000) < decode_ms(ms, 64, 64_000), name
    for name, row in table()["operators"].items():
        assert row["held_out"] < 0.10, name
