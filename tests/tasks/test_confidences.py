"""Only numbers from 0 to 1 are confidences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelserver.tasks.confidences import confidences


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_rounding_took_out_is_clipped(dtype):
    """A thousandth either way, also one that came as float32."""
    values = np.array([-1e-3, 0, 0.25, 1, 1.001], np.float32).astype(dtype)
    assert confidences(values).tolist() == [0, 0, 0.25, 1, 1]


@pytest.mark.parametrize("bad", [1.0011, -0.0011, 87, 7.5, np.nan, np.inf, -np.inf])
def test_a_number_further_out_is_an_error(bad):
    """The error names it."""
    with pytest.raises(ValueError, match=f"one of its scores, {bad:g}, is no prob"):
        confidences(np.array([0.5, bad, 0.9], np.float32))
    with pytest.raises(ValueError, match="its one score, "):
        confidences(np.array([[bad]], np.float64))


@given(hnp.arrays(np.float32, st.integers(0, 9), elements=st.floats(width=32)))
def test_whatever_comes_nothing_outside_0_to_1_goes_on(values):
    """It is an error, or within."""
    try:
        found = confidences(values)
    except ValueError:
        assert not ((values >= 0) & (values <= 1)).all()
    else:
        assert ((found >= 0) & (found <= 1)).all()
        assert np.abs(found - values).max(initial=0) <= 0.00101
