import os
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest

from unspool.errors import ConfigError
from unspool.kernels import isa

built = pytest.mark.skipif(not isa.instruction_sets(), reason="the native engine is not built")


@pytest.fixture
def restored() -> Iterator[None]:
    before = isa.instruction_set()
    yield
    if before:
        isa.force_instruction_set(before)


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)


@built
@pytest.mark.usefixtures("restored")
def test_every_instruction_set_here_can_be_forced():
    for name in isa.instruction_sets():
        isa.force_instruction_set(name)
        assert isa.instruction_set() == name


@built
def test_the_best_one_is_the_default():
    code = "from unspool.kernels import isa; assert isa.instruction_set() == isa.instruction_sets()[-1]"
    assert run(code, UNSPOOL_ISA="").returncode == 0


@built
def test_the_environment_chooses():
    name = isa.instruction_sets()[0]
    result = run("from unspool.kernels import isa; print(isa.instruction_set())", UNSPOOL_ISA=name)
    assert result.stdout.strip() == name


def test_an_unknown_one_is_refused():
    with pytest.raises(ConfigError, match="no instruction set 'sse9'"):
        isa.force_instruction_set("sse9")
    code = (
        "import torch, unspool; from unspool.cli import main; print(main(['bench', 'engine', '--list'])); "
        "unspool.Recurrent(unspool.LSTM(2, 2))(torch.zeros(1, 1, 2))"
    )
    result = run(code, UNSPOOL_ISA="sse9")
    first, *_, last = result.stderr.strip().splitlines()
    assert result.stdout.strip() == "2"
    assert first.startswith("unspool: UNSPOOL_ISA: no instruction set 'sse9'")
    assert last.startswith("unspool.errors.ConfigError: UNSPOOL_ISA: no instruction set 'sse9'")


@built
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_openmp_library_serves_torch_and_the_engine():
    code = (
        "import unspool.kernels.isa\n"
        "print(len({line.split()[-1] for line in open('/proc/self/maps') if 'libgomp' in line}))"
    )
    assert run(code).stdout.strip() == "1"


def test_without_the_engine_one_warning_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(isa, "_native", None)
    monkeypatch.setattr(isa, "_absent", "is not built")
    monkeypatch.setattr(isa, "_warned", False)
    assert isa.instruction_set() is None
    with pytest.warns(RuntimeWarning, match=r"not built: everything runs on the reference path.*C\+\+20 compiler"):
        isa.warn_absent()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        isa.warn_absent()
    with pytest.raises(ConfigError, match="not built"):
        isa.force_instruction_set("scalar")
