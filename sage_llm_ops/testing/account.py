"""A graph compared with an account of it that is kept outside: what a `Harness` checks."""

from __future__ import annotations

from sage_llm_ops.operators import Operator, Plane
from sage_llm_ops.operators.schedule import Schedule
from sage_llm_ops.pipeline.timers import TimerHeap
from sage_llm_ops.testing.manual_hands import ManualHands
from sage_llm_ops.testing.offers import Offers
from sage_llm_ops.types.errors import IntegrityError
from sage_llm_ops.types.ids import RequestId, WorkerId


class Account:
    """What was accepted, and what must hold between two events because of it."""

    def __init__(
        self,
        plane: Plane,
        operators: dict[str, Operator],
        hands: ManualHands,
        offers: Offers,
        timers: TimerHeap,
    ) -> None:
        self.plane = plane
        self.operators = operators
        self.hands = hands
        self.offers = offers
        self.timers = timers
        self.accepted: set[RequestId] = set()
        self.broken = 0
        """Defects the test has injected itself, and expects to be counted."""

    @property
    def schedule(self) -> Schedule:
        """The graph's Schedule."""
        return next(op for op in self.operators.values() if isinstance(op, Schedule))

    def waiting(self) -> list[RequestId]:
        """Who waits, in the strategy's order."""
        return [job.request.id for job in self.schedule.strategy]

    def codes(self, identity: str) -> list[str]:
        """Codes of the ends so far: none or one, if all is well."""
        return [end.code for end in self.hands.ends.get(RequestId(identity), [])]

    def check(self) -> None:
        """Compare the graph with our own account of it."""
        plane = self.plane
        if plane.broken != self.broken:
            raise IntegrityError(f"{plane.broken} operator calls failed, {self.broken} expected")
        plane.fleet.check_integrity()
        for operator in self.operators.values():
            operator.check_integrity()
        self._check_requests()
        self._check_load()
        self._check_offers()

    def check_empty(self) -> None:
        """Everything has ended and has left nothing behind."""
        plane = self.plane
        left = {
            "jobs": plane.jobs,
            "running": plane.running,
            "reservations": plane.fleet.reservations,
            "timers": list(self.timers.pending()),
            "queue": self.waiting(),
        }
        for what, found in left.items():
            if found:
                raise IntegrityError(f"{what} are left behind: {found}")
        for identity in sorted(self.accepted):
            if len(self.codes(identity)) != 1:
                raise IntegrityError(f"{identity!r} ended as {self.codes(identity)}")

    def _check_requests(self) -> None:
        waiting = set(self.waiting())
        running = {job.request.id for job in self.plane.running.values()}
        ended = set(self.hands.ends)
        for one, other, names in (
            (waiting, running, "waits and runs"),
            (waiting, ended, "waits and has ended"),
            (running, ended, "runs and has ended"),
        ):
            if one & other:
                raise IntegrityError(f"{sorted(one & other)} {names}")
        if waiting | running | ended != self.accepted:
            missing = self.accepted ^ (waiting | running | ended)
            raise IntegrityError(f"accepted differs from waiting, running and ended: {missing}")
        if set(self.plane.jobs) != waiting | running:
            raise IntegrityError("jobs are not those that wait or run")
        for identity, ends in self.hands.ends.items():
            if len(ends) != 1:
                raise IntegrityError(f"{identity!r} ended {len(ends)} times")

    def _check_load(self) -> None:
        fleet = self.plane.fleet
        nodes = [(h.node, h.job.request.max_tokens) for h in self.hands.held.values()]
        for job in self.plane.jobs.values():
            if job.then is not None:  # reserved ahead: the second node of a plan
                nodes.append((job.then, job.request.max_tokens))
        expected = {node.id for node, _ in nodes}
        if set(fleet.reservations) != expected:
            wrong = set(fleet.reservations) ^ expected
            raise IntegrityError(f"reservations are not what workers hold: {wrong}")
        running = [0] * len(fleet.ids)
        tokens = [0] * len(fleet.ids)
        for node, most in nodes:
            row = fleet.rows[WorkerId(node.worker)]
            running[row] += 1
            tokens[row] += node.n_tokens + (1 if node.kind == "prefill" else most - node.offset)
        if fleet.running[: len(running)].tolist() != running:
            raise IntegrityError(f"the fleet counts other nodes than {running}")
        if fleet.tokens[: len(tokens)].tolist() != tokens:
            raise IntegrityError(f"the fleet counts other tokens than {tokens}")

    def _check_offers(self) -> None:
        if self.offers.twice:
            raise IntegrityError(f"offered twice within one epoch: {self.offers.twice}")
        if self.offers.unfair:
            raise IntegrityError(f"out of order: {self.offers.unfair}")
        for job in self.schedule.strategy:
            if self.plane.fleet.with_room(job.needs).size:
                raise IntegrityError(f"{job.request.id!r} waits while there is room for it")
            if not self.plane.fleet.may_serve(job.needs):
                raise IntegrityError(f"{job.request.id!r} waits for what nobody can give")
