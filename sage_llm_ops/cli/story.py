"""The decisions about one request, told to a person."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sage_llm_ops.cli.numbers import count, seconds

if TYPE_CHECKING:
    from sage_llm_ops.telemetry.ledger import Entry

Told = Sequence[tuple[list[str], "Entry"]]
"""Entries of one request, each with the workers that its rows mean."""


def tell(entries: Told) -> str:
    """A sentence that sums up, then what happened in order, times since its arrival."""
    return "\n".join(_lines(entries))


def because(entry: Entry, fleet: Sequence[str]) -> str:
    """One placement in one line, for a place beside an answer."""
    costs = ", ".join(f"{fleet[row]} {cost:.3g}" for row, cost in _candidates(entry))
    return f"{entry.reason} ({costs}: {entry.unit})"


def first_line(text: str) -> str:
    """Reasons end with the tail of a log; the first line is the reason."""
    return text.partition("\n")[0].removesuffix("; its log ends:")


def _lines(entries: Told) -> Iterator[str]:
    first = entries[0][1]
    arrived = first.now - first.waited_s
    yield _summary([entry for _, entry in entries], arrived)
    trace = next((entry.trace for _, entry in entries if entry.trace), "")
    if trace:
        yield f"traced as {trace}"
    yield ""
    yield (
        f"{0.0:+9.3f} s  arrived"
        if first.kind == "place"
        else f"{0.0:+9.3f} s  refused at the door"
    )
    for fleet, entry in entries:
        for number, line in enumerate(_about(fleet, entry)):
            at = f"{entry.now - arrived:+9.3f} s" if not number else " " * 11
            yield f"{at}  {line}"


def _summary(entries: Sequence[Entry], arrived: float) -> str:
    places = [entry for entry in entries if entry.kind == "place"]
    last = entries[-1]
    name = last.request
    on = " and then ".join(dict.fromkeys(entry.worker for entry in places)) or "no worker"
    tries = count(len(places), "attempt")
    if last.kind != "end":
        return f"{name} has not ended in this ledger: {tries}, on {on}."
    took = seconds(last.now - arrived)
    if last.code:
        return f"{name} ended as {last.code} {took} after it arrived, after {tries} on {on}."
    made = count(last.tokens, "token")
    return f"{name} was answered with {made} in {took}, by {on}, in {tries}."


def _about(fleet: Sequence[str], entry: Entry) -> Iterator[str]:
    if entry.kind == "place":
        yield from _placed(fleet, entry)
    elif entry.kind == "retry":
        cause = first_line(entry.reason)
        yield f"attempt {entry.attempt} failed ({entry.code}): {cause}"
        yield "it was put back at its old place in the queue"
    elif entry.code:
        kept = f"; {count(entry.tokens, 'token')} had been delivered" if entry.tokens else ""
        yield f"ended: {entry.code}: {first_line(entry.reason)}{kept}"
    else:
        why = {"length": "its token limit was reached", "stop": "the model ended it"}
        yield f"completed: {count(entry.tokens, 'token')}, {why.get(entry.reason, entry.reason)}"


def _placed(fleet: Sequence[str], entry: Entry) -> Iterator[str]:
    since = "in the queue" if entry.attempt == 1 else "since it arrived"
    yield (
        f"attempt {entry.attempt} → {entry.worker}: {entry.reason} "
        f"({entry.policy}, {seconds(entry.waited_s)} {since})"
    )
    width = max(map(len, fleet), default=0)
    for row, cost in _candidates(entry):
        chosen = "  ← chosen" if fleet[row] == entry.worker else ""
        held = (entry.hits or {}).get(fleet[row])
        known = f", {count(held, 'prompt token')} to reuse" if held is not None else ""
        yield f"    {fleet[row]:{width}}  {cost:8.4g} {entry.unit}{known}{chosen}"
    rest = [worker for row, worker in enumerate(fleet) if row not in entry.rows]
    if rest:
        yield f"    {', '.join(rest)}: no candidate (down, full, breaker open, or it failed it before)"


def _candidates(entry: Entry) -> Iterator[tuple[int, float]]:
    return zip(entry.rows, entry.costs, strict=True)
