"""What a child process answers, a line of JSON each; or why it does not."""

from __future__ import annotations

import json
import subprocess
from typing import IO, Any


def ask(child: subprocess.Popen[str], log: IO[str], who: str, what: object) -> Any:
    """Send one line, and wait for the one that answers it."""
    assert child.stdin is not None
    print(what, file=child.stdin, flush=True)
    return answer(child, log, who)


def answer(child: subprocess.Popen[str], log: IO[str], who: str) -> Any:
    """The next line; where the child is gone, an error with the end of its log."""
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        code = child.wait()
        log.seek(0)
        tail = "".join(log.readlines()[-15:])
        raise RuntimeError(f"{who} ended with code {code}:\n{tail}")
    return json.loads(line)
