"""pytest plugin: the ``edgekd_gate`` fixture.

    def test_no_slower(edgekd_gate):
        edgekd_gate("bundles/released", "bundles/candidate", tolerance=0.05)

A regression fails the test. An inconclusive gate skips it with its reason, or fails it under
``--edgekd-strict``. Nothing is imported before the fixture is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from edgekd.bench.gate import GateResult
    from edgekd.preprocess import Row


class Gate(Protocol):
    """What the fixture is: call it with two bundles."""

    def __call__(
        self,
        baseline: str | Path,
        candidate: str | Path,
        *,
        tolerance: float = 0.05,
        profile: str | Path = "host",
        rows: Sequence[Row] | None = None,
        **plan: Any,
    ) -> GateResult: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("edgekd").addoption(
        "--edgekd-strict", action="store_true", help="An inconclusive gate fails its test."
    )


@pytest.fixture
def edgekd_gate(request: pytest.FixtureRequest) -> Gate:
    """Gate a candidate bundle against a baseline; returns the result unless it fails the test.

    ``rows`` default to the baseline's own golden rows; further settings are fields of
    :class:`edgekd.bench.sequential.Plan` (``metrics=("p50", "load")``, ``seed=1``).
    """

    def gate(
        baseline: str | Path,
        candidate: str | Path,
        *,
        tolerance: float = 0.05,
        profile: str | Path = "host",
        rows: Sequence[Row] | None = None,
        **plan: Any,
    ) -> GateResult:
        from edgekd import profiles
        from edgekd.bench import render
        from edgekd.bench.gate import gate as compare
        from edgekd.bench.sequential import Plan
        from edgekd.bundle import Bundle

        result = compare(
            Path(baseline),
            Path(candidate),
            profiles.load(profile, request.path.parent),
            Bundle.open(baseline).golden()[0] if rows is None else rows,
            Plan(tolerance=tolerance, **plan),
        )
        text = render.gate_markdown(result)
        if result.verdict == "regressed":
            pytest.fail(text, pytrace=False)
        if result.verdict == "inconclusive":
            if request.config.getoption("--edgekd-strict"):
                pytest.fail(text, pytrace=False)
            pytest.skip("; ".join(render.sentence(f) for f in result.outcome.findings))
        return result

    return gate
