import lmdeploy_env
import pytest
from builds import LMDEPLOY, LOCKED
from stamp import Stamp


@pytest.mark.parametrize(("build", "wanted"), [("cpu", True), ("cuda", False), ("sim", False)])
def test_it_belongs_to_the_cpu_build(build: str, wanted: bool) -> None:
    assert lmdeploy_env.wanted_beside(Stamp("key", build, "3.11.7", "/", "", "")) == wanted


def test_it_is_no_build_to_choose() -> None:
    """It stands beside `.venv`, never in its place."""
    from builds import BUILDS

    assert LMDEPLOY.name not in BUILDS and LOCKED[LMDEPLOY.name] is LMDEPLOY
