from dataclasses import replace

import pytest
from builds import BUILDS, UnknownBuild, choose


def test_a_plain_linux_gets_the_cpu_build(linux):
    choice = choose(linux, {})
    assert (choice.build.name, choice.note) == ("cpu", "")


def test_a_gpu_gets_the_cuda_build(linux):
    assert choose(replace(linux, gpu="GPU 0: X"), {}).build.name == "cuda"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"system": "Darwin", "arch": "aarch64", "glibc": (0, 0)}, "Darwin on aarch64"),
        ({"arch": "ppc64le"}, "Linux on ppc64le"),
        ({"glibc": (2, 28)}, "this system has 2.28"),
        ({"glibc": (0, 0)}, "another C library"),
    ],
)
def test_where_vllm_does_not_install_the_demo_runs_on_sim_and_says_so(linux, change, reason):
    choice = choose(replace(linux, **change), {})
    assert choice.build.name == "sim"
    assert choice.note.startswith("engine=sim: ")
    assert reason in choice.note


@pytest.mark.parametrize("name", BUILDS)
def test_the_variable_decides(linux, name):
    assert choose(linux, {"SAGE_LLM_OPS_BUILD": name.upper()}).build.name == name


def test_an_unknown_build_is_refused_with_the_known_ones(linux):
    with pytest.raises(UnknownBuild, match="'gpu' is not a build; the builds are: cpu, cuda, sim"):
        choose(linux, {"SAGE_LLM_OPS_BUILD": "gpu"})
