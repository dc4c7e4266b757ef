"""The same gate as a test: ``pytest examples/ci`` with two bundles named in the environment."""

import os

import pytest


@pytest.mark.skipif("BASELINE" not in os.environ, reason="BASELINE and CANDIDATE name bundles")
def test_no_slower_and_no_larger(edgekd_gate):
    edgekd_gate(os.environ["BASELINE"], os.environ["CANDIDATE"], tolerance=0.05)
