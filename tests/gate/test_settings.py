"""What counts of several thread settings, and what stands in the list of what was judged."""

from __future__ import annotations

from dataclasses import replace

from graphcompress.gate import Bars
from tests.support.fake_judge import FakeJudge, chosen, gate


def test_a_bar_below_one_is_for_every_setting() -> None:
    """Slower than the original is no end of measuring where that is allowed."""
    verdicts = {("q0", 1): "barely slower", ("q0", 2): "slower"}
    outcome = gate(FakeJudge(verdicts=verdicts), bars=Bars(min_speedup=0.9))
    assert chosen(outcome) == "simple" and outcome.judged[0].reason == "gate/slower"
    assert chosen(gate(FakeJudge(verdicts=verdicts), bars=Bars(min_speedup=0.4))) == "q0"


def test_the_slowest_setting_says_which_is_the_fastest() -> None:
    verdicts = {("q0", 2): "same", "simple": "noisy gain"}
    outcome = gate(FakeJudge(verdicts=verdicts), bars=Bars(min_speedup=1000))
    assert chosen(outcome) == "simple" and outcome.chosen.speedup == 1.4
    q0 = next(j for j in outcome.judged if chosen(replace(outcome, chosen=j)) == "q0")
    assert q0.speedup == 0.99


def test_the_original_is_among_what_was_judged_where_it_is_the_result() -> None:
    judge = FakeJudge(fails={"q0": "no kernel", "simple": "no kernel", "original/q0": "no kernel"})
    outcome = gate(judge)
    assert [j.reason for j in outcome.judged] == [*["gate/does-not-run"] * 3, ""]
    assert outcome.judged[-1] is outcome.chosen and outcome.chosen.comparison is not None and outcome.chosen.speedup == 1.0
