"""`sage-llm-ops key`: an API key for the gateway, and what the configuration holds of it."""

from __future__ import annotations

from typing import Annotated

import typer

from sage_llm_ops.cli.output import Json, print_result


def key(
    name: Annotated[str, typer.Option(help="Whose key it is.")] = "default",
    role: Annotated[str, typer.Option(help="`user`, or `admin`, who may manage engines.")] = "user",
    json: Json = False,
) -> None:
    """Make a key. It is shown once; the configuration gets its hash."""
    from sage_llm_ops.config.gateway import ApiKey
    from sage_llm_ops.config.toml_writer import value_text
    from sage_llm_ops.service.gateway.auth import new_key

    made, digest = new_key()
    entry = ApiKey(name, digest, role)

    def text() -> str:
        fields = (("name", entry.name), ("sha256", entry.sha256), ("role", entry.role))
        lines = [f"{field} = {value_text(value, field)}" for field, value in fields]
        table = "[[services.llm_control_plane.gateway.api_keys]]"
        return "\n".join([f"key: {made}", "", "# into services.toml:", table, *lines])

    shown = {"key": made, "name": entry.name, "sha256": entry.sha256, "role": entry.role}
    print_result(shown, text, json=json)
