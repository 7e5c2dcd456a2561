"""PrefixFleet: who holds what, from what workers say, were given, or were sent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sage_llm_ops.prefix_reuse import PrefixFleet
from sage_llm_ops.prefix_reuse.base import EXPECTED
from sage_llm_ops.prefix_reuse.metrics import MAX_ROWS, OTHERS
from sage_llm_ops.testing.requests import make_request
from sage_llm_ops.types.events import KvBatch
from sage_llm_ops.types.ids import NodeId, WorkerId
from sage_llm_ops.types.kv import KvChange, KvCleared, KvRemoved, KvStored, PrefixCache
from sage_llm_ops.types.requests import Request
from tests.prefix_reuse.asking import SIZE, request

W0, W1 = WorkerId("w0"), WorkerId("w1")


def stored(tokens: list[int], first: int = 1, **fields: Any) -> KvStored:
    n = len(tokens) // SIZE
    names = np.arange(first, first + n, dtype="<u8").tobytes()
    return KvStored(names, np.asarray(tokens, dtype="<i4").tobytes(), SIZE, **fields)


def fleet(*reporting: str, believing: tuple[str, ...] = (), **options: Any) -> PrefixFleet:
    view = PrefixFleet(**options)
    for name in reporting:
        view.up(WorkerId(name), "m", ("alias",), PrefixCache(SIZE, 100, True, 1))
    for name in believing:
        view.up(WorkerId(name), "m", (), PrefixCache(SIZE, 100, False, 1))
    return view


class Told:
    """Batches of one worker, numbered."""

    def __init__(self, view: PrefixFleet, worker: WorkerId = W0, incarnation: int = 1) -> None:
        self.view, self.worker, self.incarnation, self.number = view, worker, incarnation, 0

    def __call__(self, *said: KvChange, **fields: Any) -> None:
        number = fields.pop("number", self.number)
        self.number = number + 1
        self.view.take(
            KvBatch(
                worker=self.worker,
                incarnation=fields.pop("incarnation", self.incarnation),
                number=number,
                changes=list(said),
                **fields,
            )
        )


def test_what_is_reported_is_found() -> None:
    view = fleet("w0", "w1")
    Told(view)(stored(list(range(8))))
    assert view.match(request(list(range(20))), 0.0) == {"w0": 8}
    assert view.match(request(list(range(20)), model="alias"), 0.0) == {"w0": 8}
    assert view.match(request(list(range(20)), model="other"), 0.0) is None
    assert view.match(request([9] * 20), 0.0) == {}


def test_the_last_token_is_always_computed() -> None:
    view = fleet("w0")
    Told(view)(stored(list(range(8))))
    assert view.match(request(list(range(8))), 0.0) == {"w0": 4}
    assert view.match(request(list(range(9))), 0.0) == {"w0": 8}


def test_an_adapters_blocks_are_its_own() -> None:
    view = PrefixFleet()
    view.up(W0, "m", ("lora",), PrefixCache(SIZE, 9, True, 1, ("lora",)))
    Told(view)(stored(list(range(8)), lora="lora"))
    assert view.match(request(list(range(9)), model="lora"), 0.0) == {"w0": 8}
    assert view.match(request(list(range(9))), 0.0) == {}


def test_removed_and_cleared() -> None:
    view = fleet("w0")
    told = Told(view)
    told(stored(list(range(12))))
    told(KvRemoved(np.array([3], dtype="<u8").tobytes()))
    assert view.match(request(list(range(13))), 0.0) == {"w0": 8}
    told(KvCleared())
    assert view.match(request(list(range(13))), 0.0) == {}
    found = view.told(W0)
    assert found is not None
    assert not found.drops


def test_a_block_that_is_there_twice_goes_with_its_second_copy() -> None:
    view = fleet("w0")
    told = Told(view)
    told(stored(list(range(4))), stored(list(range(4))))
    told(KvRemoved(np.array([1], dtype="<u8").tobytes()))
    assert view.match(request(list(range(5))), 0.0) == {"w0": 4}
    told(KvRemoved(np.array([1], dtype="<u8").tobytes()))
    assert view.match(request(list(range(5))), 0.0) == {}


def test_tiers_below() -> None:
    """An offload report names blocks without their tokens."""
    view = fleet("w0")
    told = Told(view)
    told(stored(list(range(8))))
    told(KvStored(np.array([1, 2], dtype="<u8").tobytes(), b"", SIZE, tier=1))
    told(KvRemoved(np.array([2], dtype="<u8").tobytes()))
    assert view.match(request(list(range(9))), 0.0) == {"w0": 8}
    told(KvRemoved(np.array([2], dtype="<u8").tobytes(), tier=1))
    assert view.match(request(list(range(9))), 0.0) == {"w0": 4}


def test_what_does_not_fit_is_counted_and_harms_nothing() -> None:
    view = fleet("w0")
    told = Told(view)
    told(stored(list(range(8))))
    good = view.match(request(list(range(9))), 0.0)
    told(KvStored(b"1234567", b"", SIZE))
    told(KvStored(np.array([7], dtype="<u8").tobytes(), bytes(16), 16))
    told(KvStored(np.array([7], dtype="<u8").tobytes(), bytes(12), SIZE))
    told(stored([5] * 4, 9, tier=7), KvRemoved(b"12345678", tier=-1), KvRemoved(b"123"))
    told(stored([5] * 8, 20, parent=999))
    told(KvRemoved(np.array([55, 56], dtype="<u8").tobytes()))
    told(stored([5] * 4, 9), number=0)
    found = view.told(W0)
    assert found is not None
    assert found.drops == {"misfits": 6, "orphans": 2, "strangers": 2, "duplicates": 1}
    Told(view, WorkerId("nobody"))(stored([1] * 4))
    Told(view, W0, incarnation=7)(stored([1] * 4))
    assert view.drops == {"unknown_worker": 1, "stale_start": 1}
    assert view.match(request(list(range(9))), 0.0) == good == {"w0": 8}
    view.check_integrity()


def test_lost_batches_and_a_fresh_start_forget() -> None:
    view = fleet("w0")
    told = Told(view)
    told(stored(list(range(8))))
    told(stored([7] * 8, 50), number=5)
    assert view.match(request(list(range(9))), 0.0) == {}
    assert view.match(request([7] * 9), 0.0) == {"w0": 8}
    told(reset=True, number=0)
    assert view.match(request([7] * 9), 0.0) == {}
    found = view.told(W0)
    assert found is not None
    assert found.drops["gaps"] == 2


def test_a_worker_that_goes_takes_its_blocks_and_leaves_the_others() -> None:
    view = fleet("w0", "w1")
    for worker in (W0, W1):
        Told(view, worker)(stored(list(range(8))))
    view.down(W0)
    assert view.match(request(list(range(9))), 0.0) == {"w1": 8}
    view.up(W0, "m", (), PrefixCache(SIZE, 100, True, 2))
    Told(view, W0, 1)(stored(list(range(4))))
    assert view.match(request(list(range(9))), 0.0) == {"w1": 8}, "it is of the start before"
    view.check_integrity()


def test_mixed_block_sizes() -> None:
    view = fleet("w0")
    view.up(W1, "m", (), PrefixCache(2, 100, True, 1))
    Told(view)(stored(list(range(8))))
    names = np.arange(1, 6, dtype="<u8").tobytes()
    Told(view, W1)(KvStored(names, np.arange(10, dtype="<i4").tobytes(), 2))
    assert view.match(request(list(range(20))), 0.0) == {"w0": 8, "w1": 10}


# -- expected -----------------------------------------------------------------------------------


def test_what_was_just_given_counts_until_it_fails() -> None:
    view = fleet("w0", "w1")
    first = request(list(range(12)))
    view.match(first, 0.0)
    view.placed(NodeId(1), first, W0, 0.0)
    assert view.match(request(list(range(20))), 0.1) == {"w0": 12}
    view.ended(NodeId(1), 0.2, failed=True)
    assert view.match(request(list(range(20))), 0.3) == {}


def test_two_that_expect_the_same_do_not_undo_each_other() -> None:
    view = fleet("w0")
    for node in (1, 2):
        view.placed(NodeId(node), request(list(range(12))), W0, 0.0)
    view.ended(NodeId(1), 0.0, failed=True)
    assert view.match(request(list(range(20))), 0.1) == {"w0": 12}
    view.ended(NodeId(2), 0.0, failed=True)
    assert view.match(request(list(range(20))), 0.1) == {}


def test_expectations_end() -> None:
    view = fleet("w0", expect_s=10.0)
    view.placed(NodeId(1), request(list(range(12))), W0, 0.0)
    assert view.match(request(list(range(20))), 9.9) == {"w0": 12}
    assert view.match(request(list(range(20))), 10.0) == {}
    view.placed(NodeId(2), request(list(range(12))), W0, 20.0)
    view.answered(NodeId(2), 0)
    view.ended(NodeId(2), 21.0)
    assert view.match(request(list(range(20))), 21.9) == {"w0": 12}, "its report is on the way"
    assert view.match(request(list(range(20))), 22.1) == {}
    index = view.index(SIZE)
    assert index is not None
    assert index.blocks_of("w0") == index.tree.held(0, EXPECTED) == 0


def test_who_dies_is_expected_to_have_nothing() -> None:
    view = fleet("w0", "w1")
    view.placed(NodeId(1), request(list(range(12))), W0, 0.0)
    view.down(W0)
    view.up(WorkerId("w2"), "m", (), PrefixCache(SIZE, 9, True, 1))  # may get the same number
    view.placed(NodeId(2), request(list(range(12))), WorkerId("w2"), 0.0)
    view.ended(NodeId(1), 0.1, failed=True)
    assert view.match(request(list(range(20))), 0.2) == {"w2": 12}
    view.check_integrity()


# -- believed -----------------------------------------------------------------------------------


def test_a_silent_worker_is_believed_to_have_what_it_was_sent() -> None:
    view = fleet(believing=("w0",))
    view.placed(NodeId(1), request(list(range(12))), W0, 0.0)
    view.answered(NodeId(1), 0)
    view.ended(NodeId(1), 1.0)
    assert view.match(request(list(range(20))), 99.0) == {"w0": 12}


def test_a_belief_is_no_larger_than_the_cache() -> None:
    view = PrefixFleet()
    view.up(W0, "m", (), PrefixCache(SIZE, 20, False, 1))
    for number in range(30):
        view.placed(NodeId(number), request([number] * 12), W0, float(number))
        view.answered(NodeId(number), 0)
        view.ended(NodeId(number), float(number))
    index = view.index(SIZE)
    assert index is not None
    assert index.blocks_of("w0") == 20
    assert view.match(request([29] * 20), 100.0) == {"w0": 12}
    assert view.match(request([0] * 20), 100.0) == {}
    view.check_integrity()


def test_answers_correct_a_belief() -> None:
    """A worker that never has what it was believed to have is believed less and less."""
    view = PrefixFleet()
    view.up(W0, "m", (), PrefixCache(SIZE, 60, False, 1))
    claims = []
    for number in range(200):
        asked = request([number % 20] * 13, f"r{number}")
        hits = view.match(asked, float(number))
        assert hits is not None
        claims.append(hits.get(W0, 0))
        view.placed(NodeId(number), asked, W0, float(number))
        view.answered(NodeId(number), 0)
        view.ended(NodeId(number), float(number))
    assert sum(claims[20:40]) > 0
    assert sum(claims[-20:]) == 0
    assert view.metrics.total.row()["staleness"] == 1.0


def test_what_the_index_evicted_is_believed_again_when_it_is_sent_again() -> None:
    view = PrefixFleet(max_blocks=40)
    view.up(W0, "m", (), PrefixCache(SIZE, 1000, False, 1))

    def send(node: int, tokens: list[int]) -> None:
        view.placed(NodeId(node), request(tokens), W0, float(node))
        view.answered(NodeId(node), 0)
        view.ended(NodeId(node), float(node))

    prompt = list(range(100, 120))
    send(1, prompt)
    for node in range(2, 60):
        send(node, [node] * 8)
    view.check_integrity()
    assert view.match(request([*prompt, 1]), 99.0) == {}
    send(100, prompt)
    assert view.match(request([*prompt, 1]), 200.0) == {"w0": 20}
    view.check_integrity()
    index = view.index(SIZE)
    assert index is not None
    assert index.blocks_of("w0") <= 40


def test_an_answer_counts_however_late_it_comes() -> None:
    view = fleet("w0", believing=("w1",), expect_s=5.0)
    for number, worker in enumerate((W0, W1)):
        view.placed(NodeId(number), request(list(range(12))), worker, 0.0)
    assert view.match(request(list(range(20))), 4.0) == {"w0": 12, "w1": 12}
    assert view.match(request(list(range(20))), 6.0) == {}
    for number in range(2):
        view.answered(NodeId(number), 3)
        view.ended(NodeId(number), 7.0)
    row = view.metrics.total.row()
    assert (row["requests"], row["achieved"]) == (2, 6)
    assert view.match(request(list(range(20))), 99.0) == {"w1": 12}
    assert not view._given
    view.check_integrity()


def test_a_prompt_that_is_shorter_than_it_says_is_read_no_further() -> None:
    view = fleet("w0")
    Told(view)(stored(list(range(8))))
    asked = request(list(range(8)))
    asked.n_prompt = 1_000_000
    assert view.match(asked, 0.0) == {"w0": 8}
    view.placed(NodeId(1), asked, W0, 0.0)
    view.ended(NodeId(1), 0.0, failed=True)
    view.check_integrity()


def test_believing_can_be_turned_off() -> None:
    view = PrefixFleet(believe=False)
    view.up(W0, "m", (), PrefixCache(SIZE, 60, False, 1))
    view.placed(NodeId(1), request(list(range(12))), W0, 0.0)
    assert view.match(request(list(range(12))), 0.0) is None


def test_a_traces_blocks() -> None:
    view = fleet(believing=("w0", "w1"))

    def of(*blocks: int, tokens: int) -> Request:
        made = make_request("t", model="m")
        made.tokens, made.blocks, made.block_size, made.n_prompt = b"", blocks, 512, tokens
        return made

    view.placed(NodeId(1), of(1, 2, 3, tokens=1300), W0, 0.0)
    view.answered(NodeId(1), 0)
    view.ended(NodeId(1), 1.0)
    assert view.match(of(1, 2, 9, tokens=1500), 2.0) == {"w0": 1024}
    assert view.match(of(1, 2, 3, tokens=1600), 2.0) == {"w0": 1024}, "its last one was not whole"


# -- what it brought ----------------------------------------------------------------------------


def test_regret() -> None:
    view = fleet("w0", "w1")
    Told(view, W1)(stored(list(range(12))))
    asked = request(list(range(16)), tenant="t")
    assert view.match(asked, 0.0) == {"w1": 12}
    view.placed(NodeId(1), asked, W0, 0.0)  # not where it was
    view.answered(NodeId(1), 4)
    view.answered(NodeId(1), 4)
    row = view.row(100.0)
    assert row["total"] == row["tenants"]["t"] == row["workers"]["w0"]
    assert row["total"] | {"staleness": None} == {
        "requests": 1,
        "prompt": 16,
        "achieved": 4,
        "reachable": 12,
        "ideal": 12,
        "avoidable": 8,
        "claimed": 0,
        "overclaimed": 0,
        "achieved_share": 0.25,
        "reachable_share": 0.75,
        "ideal_share": 0.75,
        "staleness": None,
    }
    assert (row["lookups"], row["hit_rate"], row["mean_matched_tokens"]) == (1, 1.0, 12.0)
    assert row["lookup_p99_us"] is None, "nobody gave it a clock"


def test_an_unbounded_cache_would_have_known() -> None:
    view = fleet("w0")
    told = Told(view)
    told(stored(list(range(12))))
    told(KvCleared())
    asked = request(list(range(16)))
    view.match(asked, 0.0)
    view.placed(NodeId(1), asked, W0, 0.0)
    view.answered(NodeId(1), 0)
    total = view.row(100.0)["total"]
    assert (total["reachable"], total["ideal"]) == (0, 12)


def test_what_was_dropped_and_who_is_silent_is_told() -> None:
    """Also of workers that are gone: a counter does not go back."""
    view = fleet("w0", "w1")
    told = Told(view)
    told(KvRemoved(stored(list(range(8))).hashes), now=3.0)
    told(stored(list(range(8)), parent=99), now=5.0)
    view.take(KvBatch(worker=WorkerId("w9"), incarnation=1, number=0, changes=[]))
    wanted = {"unknown_worker": 1, "strangers": 2, "orphans": 2}
    row = view.row(12.0)
    assert (row["drops"], row["silence_s"]) == (wanted, {"w0": 7.0})
    view.down(W0)
    row = view.row(13.0)
    assert (row["drops"], row["silence_s"]) == (wanted, {})


def test_rows_are_bounded() -> None:
    """Those of tenants, and those of workers, which are together once they are not here any more."""
    view = fleet("w0")
    for number in range(MAX_ROWS + 5):
        view.metrics.answered(f"t{number}", f"w{number}", 10, 5, 0, 0, 0)
    tenants, workers = view.metrics.tenants, view.metrics.workers
    assert (len(tenants), tenants[OTHERS].requests) == (MAX_ROWS + 1, 5)
    assert len(workers) <= MAX_ROWS and workers["w0"].requests == 1
    assert sum(each.requests for each in workers.values()) == MAX_ROWS + 5


def test_a_beginning_after_which_others_went_on_otherwise_is_shared() -> None:
    view = fleet(believing=("w0",))
    system = list(range(8))
    for number, turn in enumerate(([20] * 4, [30] * 4)):
        asked = request([*system, *turn], f"r{number}")
        view.match(asked, 0.0)
        assert view.shared == 8 * number, "the second finds that the first went on there"
        view.placed(NodeId(number), asked, W0, 0.0)
    view.match(request([*system, *[20] * 4, *[21] * 4]), 0.0)
    assert view.shared == 0, "nobody else went on with this conversation"
    view.match(request([1, 2, 3]), 0.0)
    assert view.shared == 0


def test_lookups_are_timed_by_the_drivers_clock() -> None:
    view = fleet("w0")
    ticks = iter([1.0, 1.5])
    view.clock = lambda: next(ticks)
    view.match(request(list(range(16))), 0.0)
    assert view.row(100.0)["lookup_p99_us"] == pytest.approx(5e5, rel=0.02)


@pytest.mark.parametrize("compiled", [None, False])
def test_workers_that_come_and_go_leave_nothing_but_their_sum(compiled: bool | None) -> None:
    view = PrefixFleet(compiled=compiled)
    asked = request(list(range(16)))
    for n in range(1500):
        worker = WorkerId(f"w{n}")
        view.up(worker, "m", (), PrefixCache(SIZE, 100, bool(n % 2), 1))
        view.match(asked, float(n))
        view.placed(NodeId(n), asked, worker, float(n))
        view.answered(NodeId(n), 0)
        view.ended(NodeId(n), float(n))
        if n >= 4:
            view.down(WorkerId(f"w{n - 4}"))
    view.match(asked, 9999.0)
    index = view.index(SIZE)
    assert index is not None and len(index.names) <= 6
    assert not view._given and not view._due
    rows = view.row(9999.0)["workers"]
    assert len(rows) <= 1001 and "w1499" in rows
    assert sum(row["requests"] for row in rows.values()) == 1500
    view.check_integrity()
