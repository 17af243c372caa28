"""Backends, and the golden vectors where they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from backends import BACKENDS, GOLDEN, SoftSw, on_gpu

from lacray.ops import operators, reference, soft_sw


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[SoftSw]:
    """soft_sw computed by one of its implementations; tensors on the CPU whatever it uses."""
    name = request.param
    if name == "reference":
        yield reference.soft_sw
    elif name == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no GPU here")
        yield on_gpu
    else:
        try:
            operators._use_instructions(name)
        except ValueError:
            pytest.skip(f"this processor has no {name}")
        yield soft_sw
        operators._use_instructions("plain")
        for widest in ("avx2", "avx512"):
            try:
                operators._use_instructions(widest)
            except ValueError:
                break


@pytest.fixture
def golden() -> Path:
    if not GOLDEN.is_dir():
        pytest.skip(f"golden vectors are not here ({GOLDEN})")
    return GOLDEN
