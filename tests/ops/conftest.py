"""Backends, and the golden vectors where they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from backends import BACKENDS, GOLDEN, SoftSw, on_gpu

import lacray.ops
from lacray.ops import backends

DIFFERENTIABLE = ("soft_sw", "soft_nw", "soft_dtw", "smooth_dtw")


@pytest.fixture(params=BACKENDS)
def ops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """lacray.ops, computed by one of its implementations; tensors on the CPU whatever it uses."""
    name = request.param
    functions = {key: getattr(lacray.ops, key) for key in lacray.ops.__all__}
    if name == "reference":
        monkeypatch.setattr(backends, "select", lambda kind: "reference")
        yield SimpleNamespace(name=name, **functions)
    elif name == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no GPU here")
        yield SimpleNamespace(name=name, **functions | {key: on_gpu(functions[key]) for key in DIFFERENTIABLE})
    else:
        try:
            backends.use_instructions(name)
        except ValueError:
            pytest.skip(f"this processor has no {name}")
        yield SimpleNamespace(name=name, **functions)
        backends.use_instructions("plain")
        for widest in ("avx2", "avx512"):
            try:
                backends.use_instructions(widest)
            except ValueError:
                break


@pytest.fixture
def backend(ops: SimpleNamespace) -> SoftSw:
    """soft_sw of `ops`."""
    return ops.soft_sw


@pytest.fixture
def golden() -> Path:
    if not GOLDEN.is_dir():
        pytest.skip(f"golden vectors are not here ({GOLDEN})")
    return GOLDEN
