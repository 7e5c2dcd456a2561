"""The command line: `sage-llm-ops`.

`app.py` names the commands, one file holds each. A command's file is imported to draw the help, so
it imports what it works with inside its function.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. What is refused on purpose is one sentence on stderr, and exit code 2."""
    try:
        return _main(argv)
    except KeyboardInterrupt:  # outside of a command: typer answers one inside with 130 itself
        return 130


def _main(argv: Sequence[str] | None) -> int:
    from sage_llm_ops.cli.app import app
    from sage_llm_ops.cli.output import print_error
    from sage_llm_ops.types.errors import SageLlmOpsError

    try:
        app(args=argv, prog_name="sage-llm-ops")
    except SageLlmOpsError as error:
        print_error(error)
        return 2
    return 0
