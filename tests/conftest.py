"""What all tests share: one seed, two threads, the cells of the catalogue and one that a user might write."""

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def shared_data() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the folder of real data is absent")
    return SHARED
