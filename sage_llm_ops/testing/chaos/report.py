"""What happened, for people and for an exit code."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Report:
    """`violations` is empty where every promise was kept."""

    seed: int
    seconds: float
    faults: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By name, and by the worker that met it."""
    refused: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    completed: Counter[str] = field(default_factory=Counter)
    """By the worker that gave the last token."""
    reasons: dict[str, str] = field(default_factory=dict)
    """One sentence for each code of a failure."""
    restarts: int = 0
    violations: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """A table."""
        out = [f"chaos: {self.seconds:.0f} s, seed {self.seed}, {self.restarts} restarts", ""]
        out.append(f"{'faults':<24}{self.faults.total():>8}")
        for fault in sorted({fault for fault, _ in self.faults}):
            met = {who: n for (name, who), n in sorted(self.faults.items()) if name == fault}
            by = ", ".join(f"{who} {count}" for who, count in met.items())
            out.append(f"  {fault:<22}{sum(met.values()):>8}  {by}")
        for title, counts in (
            ("requests by end", self.ends),
            ("completed by worker", self.completed),
            ("refused at the door", self.refused),
        ):
            out.append(f"{title:<24}{counts.total():>8}")
            out += [f"  {name:<22}{count:>8}" for name, count in sorted(counts.items())]
        out += [f"  {code}, for example: {reason}" for code, reason in sorted(self.reasons.items())]
        out.append(f"{'violations':<24}{len(self.violations):>8}")
        out += [f"  {each}" for each in self.violations[:50]]
        return out
