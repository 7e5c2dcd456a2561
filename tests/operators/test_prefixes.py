"""Observe and Route tell the prefix view what happens; PrefixLookup asks it."""

from __future__ import annotations

import numpy as np

from sage_llm_ops.core.defaults import serving
from sage_llm_ops.operators import OPERATORS, Plane
from sage_llm_ops.operators.observe import Observe, ObserveOptions
from sage_llm_ops.operators.prefix_lookup import PrefixLookup, PrefixLookupOptions
from sage_llm_ops.pipeline.graph import check
from sage_llm_ops.pipeline.replay import NoHands, ReplaySource
from sage_llm_ops.prefix_reuse import PrefixFleet
from sage_llm_ops.telemetry import Ledger
from sage_llm_ops.testing.requests import make_request
from sage_llm_ops.types.events import (
    Job,
    KvBatch,
    Offer,
    WorkerDown,
    WorkerJoin,
    WorkerLeave,
    WorkerUp,
)
from sage_llm_ops.types.ids import WorkerId
from sage_llm_ops.types.kv import KvStored, PrefixCache

W = WorkerId("w")


def made() -> tuple[Plane, Observe, PrefixLookup]:
    plane = Plane(ReplaySource(iter(())), NoHands(), Ledger())
    lookup = PrefixLookup(plane, PrefixLookupOptions(), "prefix_lookup")
    return plane, Observe(plane, ObserveOptions(), "observe"), lookup


def up(incarnation: int) -> WorkerUp:
    cache = PrefixCache(2, 100, True, incarnation)
    return WorkerUp(worker=W, model="m", slots=4, max_model_len=99, prefixes=cache)


def report(incarnation: int) -> KvBatch:
    names = np.array([1, 2], dtype="<u8").tobytes()
    tokens = np.array([1, 2, 3, 4], dtype="<i4").tobytes()
    change = KvStored(names, tokens, 2)
    return KvBatch(worker=W, incarnation=incarnation, number=0, changes=[change])


def hits(lookup: PrefixLookup) -> object:
    offer = Offer(1, 0.0, Job(make_request("r", n_prompt=9), 1))
    return lookup.offer(offer).hits


def test_what_a_worker_reports_is_in_the_offer_until_it_goes() -> None:
    _, observe, lookup = made()
    assert hits(lookup) is None
    observe.join(WorkerJoin(worker=W, model="m"))
    observe.up(up(1))
    assert hits(lookup) == {}
    assert observe.blocks(report(1)) is None, "it ends here"
    assert hits(lookup) == {"w": 4}
    observe.down(WorkerDown(worker=W, reason="died"))
    assert hits(lookup) is None
    observe.up(up(2))
    observe.blocks(report(1))
    assert hits(lookup) == {}, "what the start before it said comes too late"
    observe.blocks(report(2))
    assert hits(lookup) == {"w": 4}


def test_who_left_does_not_come_back_by_a_late_word() -> None:
    _, observe, lookup = made()
    observe.join(WorkerJoin(worker=W, model="m"))
    observe.up(up(1))
    observe.leave(WorkerLeave(worker=W, reason="scaled down"))
    observe.up(up(1))
    observe.blocks(report(1))
    assert hits(lookup) is None


def test_reports_of_strangers_are_counted() -> None:
    plane, observe, _ = made()
    observe.blocks(report(1))
    assert isinstance(plane.prefix, PrefixFleet)
    assert plane.prefix.drops == {"unknown_worker": 1}


def test_a_drivers_own_view_stays() -> None:
    from sage_llm_ops.testing.offers import Offers

    view = Offers()
    plane = Plane(ReplaySource(iter(())), NoHands(), Ledger(), view)
    check(serving(), OPERATORS).operators(plane)
    assert plane.prefix is view


def test_looking_up_can_be_turned_off() -> None:
    plane = Plane(ReplaySource(iter(())), NoHands(), Ledger())
    PrefixLookup(plane, PrefixLookupOptions(learn="nothing"), "prefix_lookup")
    assert not isinstance(plane.prefix, PrefixFleet)
