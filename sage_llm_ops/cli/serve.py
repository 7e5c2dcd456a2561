"""`sage-llm-ops serve`: the OpenAI-compatible gateway over the engines of a services.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sage_llm_ops.cli.output import Json, print_result


def serve(
    config: Annotated[Path, typer.Option(help="A services.toml.")] = Path("configs/services.toml"),
    service: Annotated[
        str | None, typer.Option(help="Which service, where the file has several.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Default: the file's, or 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Default: the file's, or 8889. 0: any.")
    ] = None,
    json: Json = False,
) -> None:
    """Serve OpenAI's API until SIGTERM or Ctrl-C; what is in flight then ends first."""
    import dataclasses

    from sage_llm_ops.config import load_services
    from sage_llm_ops.core import ControlPlaneManager
    from sage_llm_ops.core.defaults import NAMES
    from sage_llm_ops.types.errors import CapabilityError

    try:
        from sage_llm_ops.service.gateway.server import serve as run
    except ImportError as error:
        raise CapabilityError(
            f"the gateway needs {error.name!r}: pip install 'sage-llm-ops[gateway]'"
        ) from None
    found = load_services(config, known=NAMES).service(service)
    door = found.gateway
    door = dataclasses.replace(
        door, host=door.host if host is None else host, port=door.port if port is None else port
    )
    manager = ControlPlaneManager.from_config(config, found.name)
    engines = list(manager.control.instances)
    names = ", ".join(engines) or "no engine"

    def ready(url: str) -> None:
        print_result(
            {"url": f"{url}/v1", "engines": engines}, lambda: f"ready: {url}/v1", json=json
        )

    run(
        manager.control,
        door,
        listening=lambda url: typer.echo(f"listening on {url}; starting {names}", err=True),
        ready=ready,
    )
