"""What is public, and that asking for the engine costs no more than PyTorch."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import unspool

FACES = [
    "unspool",
    "unspool_benchmarks",
    "unspool_lab",
    *(f"unspool.{r}" for r in ["cells", "diagnostics", "layers", "models", "nn", "search"]),
]


@pytest.mark.parametrize("name", FACES)
def test_all_public_names_exist_and_are_sorted(name):
    module = importlib.import_module(name)
    assert all(hasattr(module, public) for public in module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)


def test_the_root_names_the_engine():
    assert {"Recurrent", "LSTM", "GatedCell", "load", "zoneout", "CELLS", "UnspoolError"} <= set(unspool.__all__)


def test_importing_the_engine_imports_no_reader_trainer_or_plotter():
    unwanted = ["rich", "tokenizers", "safetensors", "matplotlib", "tensorboard", "unspool.training", "unspool.tasks"]
    code = f"import unspool, sys; print([m for m in {unwanted} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_module_says_what_it_is():
    for info in pkgutil.walk_packages(unspool.__path__, "unspool."):
        module = importlib.import_module(info.name)
        assert module.__doc__, info.name
