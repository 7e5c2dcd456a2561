import lmdeploy_env
import pytest
from builds import LMDEPLOY, LOCKED
from stamp import Stamp


@pytest.mark.parametrize(
    ("build", "arch", "why"),
    [
        ("cpu", "x86_64", ""),
        ("cuda", "x86_64", "belongs to the CPU build"),
        ("sim", "x86_64", "belongs to the CPU build"),
        ("cpu", "aarch64", "has wheels for x86_64, this is aarch64"),
    ],
)
def test_where_it_is_made(build: str, arch: str, why: str) -> None:
    said = lmdeploy_env.unwanted(Stamp("key", build, "3.11.7", "/", "", ""), arch)
    assert why in said and bool(why) == bool(said)


def test_it_is_no_build_to_choose() -> None:
    """It stands beside `.venv`, never in its place."""
    from builds import BUILDS

    assert LMDEPLOY.name not in BUILDS and LOCKED[LMDEPLOY.name] is LMDEPLOY
