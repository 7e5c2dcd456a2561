"""What the demo prints: a live bar on a terminal, whole lines in a log."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console

Tick = Callable[[int], None]


class Screen:
    """One console; nothing that is printed is wrapped or read as markup."""

    def __init__(self, *, aside: bool = False) -> None:
        """`aside`: to stderr, because stdout is for a program."""
        self.console = Console(highlight=False, stderr=aside)
        self.live = self.console.is_terminal

    def say(self, text: str = "", *, style: str | None = None, end: str = "\n") -> None:
        """One line, or a piece of one."""
        self.console.print(text, style=style, end=end, markup=False, soft_wrap=True)
        if end != "\n":
            self.console.file.flush()

    def act(self, number: int, title: str) -> None:
        """The head of an act."""
        self.say()
        self.say(f"{number}. {title}", style="bold")

    def result(self, sentence: str) -> None:
        """The sentence that closes an act."""
        self.say(f"✓ {sentence}", style="green")

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """For something that takes seconds and cannot say how far it is."""
        if not self.live:
            self.say(f"{what} ...")
            yield
            return
        with self.console.status(what):
            yield

    @contextlib.contextmanager
    def bar(self, total: int, what: str) -> Iterator[Tick]:
        """`tick(done)` as often as wanted; a log gets a line each quarter."""
        if not self.live:
            yield self._lines(total, what)
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (TextColumn("  {task.description}"), BarColumn(32), MofNCompleteColumn())
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(what, total=total)
            yield lambda done: progress.update(task, completed=done)

    def _lines(self, total: int, what: str) -> Tick:
        said = 0
        began = time.monotonic()

        def tick(done: int) -> None:
            nonlocal said
            quarter = 4 * done // total
            if quarter > said:
                said = quarter
                self.say(f"  {what}: {done} of {total} after {time.monotonic() - began:.1f} s")

        return tick
