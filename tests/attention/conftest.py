"""Fixtures of the attention tests."""

import pytest

# Layers are sums of a few hundred products of order one: some tens of eps.
TOLERANCE = {"float32": 2e-5, "float64": 1e-10}
KV_HEADS = {"MHA": 4, "GQA": 2, "MQA": 1}


@pytest.fixture(params=KV_HEADS)
def kv_heads(request):
    """K of the three systems; H is 4."""
    return KV_HEADS[request.param]


@pytest.fixture
def tolerance(precision):
    """Absolute tolerance in the precision of the test."""
    return TOLERANCE[precision]
