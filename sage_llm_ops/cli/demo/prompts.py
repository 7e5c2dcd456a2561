"""What the demo asks: 64 prompts in 8 groups, each group with one long beginning of its own."""

from __future__ import annotations

GROUPS, EACH = 8, 8
COUNT = GROUPS * EACH
TOKENS = 64
"""Of each answer: long enough to kill a worker in the middle of one."""
SAMPLING = {"max_tokens": TOKENS, "min_tokens": TOKENS, "temperature": 0.0, "ignore_eos": True}
"""Greedy, and always the full length: what is repeated must come out the same."""

_ROLES = (
    "a librarian who knows every shelf",
    "an engineer who explains with small examples",
    "a cook who never wastes water",
    "a judge who gives reasons first",
    "a gardener who thinks in seasons",
    "a pilot who reads the checklist aloud",
    "a teacher who answers with a question",
    "a chemist who measures everything twice",
)
_RULES = (
    "Answer only what was asked, in one short story, and say how long each step may take. "
    "Use the words that people know, find the first cause, and write down what happened after it. "
    "If you do not know, say who could know, and what they would do with that question."
)
_ASKED = (
    "why the queue is long",
    "where the time goes",
    "which worker was called first",
    "how a cache can be wrong",
    "what the model said",
    "who made the stream",
    "when to stop",
    "how many there are",
)


def prompts() -> list[str]:
    """All of them, neighbours from different groups: the scheduler gets them mixed."""
    return [f"{beginning(group)} Explain {asked}." for asked in _ASKED for group in range(GROUPS)]


def beginning(group: int) -> str:
    """What the prompts of a group share: some hundred tokens, so several cache blocks."""
    return f"You are {_ROLES[group]}. {_RULES}"
