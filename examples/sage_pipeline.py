"""A SAGE application that asks a language model from one of its operators.

    python examples/sage_pipeline.py

    [high] Who keeps the time? (1) -> 12 tokens by w0
    [low] Who wrote the report? (1) -> 12 tokens by w1
    [low] Where is the cat? (3) -> 12, 12, 12 tokens by w0 and w1

The workers are simulated, so it runs anywhere and says noise. With `"engine": "vllm"` and a
`model_name` it is a real model, and nothing else changes.
"""

from __future__ import annotations

import threading

from sage.foundation import MapFunction, SinkFunction, SourceFunction
from sage.runtime import LocalEnvironment, StopSignal

from sage_llm_ops import ControlPlaneVLLMService

SERVICE = "llm_control_plane"
CONFIG = {
    "scheduling_policy": "priority",
    "instances": [
        {"instance_id": "w0", "engine": "sim"},
        {"instance_id": "w1", "engine": "sim"},
    ],
}
TICKETS = [
    ("high", ["Who keeps the time?"]),
    ("low", ["Who wrote the report?"]),
    ("low", ["Where is the cat?", "Where is the dog?", "Where is the door?"]),
]
finished = threading.Event()


class Tickets(SourceFunction):
    """A stream of questions."""

    def __init__(self) -> None:
        super().__init__()
        self._left = list(TICKETS)

    def execute(self) -> tuple[str, list[str]] | StopSignal:
        return self._left.pop(0) if self._left else StopSignal("no more tickets")


class Answer(MapFunction):
    """Asks the service. Not by `call_service`, which would take further tickets meanwhile."""

    def execute(self, ticket: tuple[str, list[str]]) -> str:
        priority, questions = ticket
        llm = self.ctx.get_service(SERVICE)
        answers = llm.generate(questions, priority=priority, max_tokens=12)
        tokens = ", ".join(str(answer["usage"]["completion_tokens"]) for answer in answers)
        by = " and ".join(sorted({answer["instance_id"] for answer in answers}))
        return f"[{priority}] {questions[0]} ({len(questions)}) -> {tokens} tokens by {by}"


class Print(SinkFunction):
    """Says it, and when it was the last."""

    said = 0

    def execute(self, line: str) -> None:
        print(line)
        Print.said += 1
        if Print.said == len(TICKETS):
            finished.set()


def main() -> None:
    """Submit, wait for the last ticket, close."""
    env = LocalEnvironment("tickets")
    env.set_console_log_level("ERROR")
    env.register_service(SERVICE, ControlPlaneVLLMService, CONFIG)
    env.from_source(Tickets, delay=0.0).map(Answer).sink(Print)
    env.submit()
    finished.wait(30)
    # SAGE stops no service of a streaming run, so the interpreter's exit will stop this one.
    env.close()


if __name__ == "__main__":
    main()
