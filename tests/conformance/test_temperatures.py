"""Temperatures: neutral bit for bit, one gain for each query head."""

from __future__ import annotations

import pytest
import torch
from tests.conformance.made import drawn, made, shaken

from ablab.model import temperatures

Q = drawn("q", 2, 5, 4, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neutral_is_the_baseline_bit_for_bit(dtype: torch.dtype) -> None:
    q = Q.to(dtype)
    assert made(temperatures.slot, "constant")(q) is q
    got = made(temperatures.slot, "qk_gain", dtype=torch.float32, init=1.0)(q)
    assert torch.equal(got, q) and got.dtype == dtype


def test_qk_gain() -> None:
    lever = made(temperatures.slot, "qk_gain")
    (gain,) = lever.parameters()
    assert gain.tolist() == [1.5] * 4 and lever.role == "scalar"
    shaken(lever)
    got = lever(Q)
    for h in range(4):
        torch.testing.assert_close(got[:, :, h], Q[:, :, h] * gain[h], rtol=1e-15, atol=0)
    got.sum().backward()
    torch.testing.assert_close(gain.grad, Q.sum((0, 1, 3)))


def test_impossible_settings_are_refused() -> None:
    for init in (0.0, -1.0):
        with pytest.raises(ValueError) as raised:
            made(temperatures.slot, "qk_gain", init=init)
        assert str(raised.value) == f"init = {init:g} turns attention off or around; choose init > 0"
