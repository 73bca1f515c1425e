"""Sweeps in a browser: found in the list, followed, cancelled, resumed, retried, answered once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from browser import Browser
from faces import Web, web_server
from fractale.record.history_reader import read_history
from fractale.sweeps.record import SweepRecords
from fractale.sweeps.results import SweepView, view_of
from made_runs import MadeRuns

PLANS = {
    "measure": """
name: Measure nodes
inputs: {node: {type: integer, default: 1}}
steps:
  - {name: test, tool: test_node, max_attempts: 1, inputs: {node: "{{ inputs.node }}"}}
outputs: {seconds: "{{ steps.test.outputs.seconds }}"}
""",
    "hold-all": """
name: Hold each
inputs: {gate: none}
steps:
  - {name: hold, tool: hold, inputs: {gate: "{{ inputs.gate }}"}}
""",
    "write-all": """
name: Write the same
inputs: {seed: {type: integer, default: 1}}
steps:
  - {name: review, tool: write, approve: always, inputs: {path: same.out, text: the same}}
outputs: {lines: "{{ steps.review.outputs.lines }}"}
""",
}


@pytest.fixture(scope="module")
def web(made: MadeRuns) -> Iterator[Web]:
    for name, text in PLANS.items():
        (made.folder / "plans" / f"{name}.yaml").write_text(text)
    with web_server(made, "--no-browser") as web:
        yield web


def words_of(plan: str, sweep: str, *over: str) -> list[str]:
    axes = [word for axis in over for word in ("--over", axis)]
    return ["sweep", f"plans/{plan}.yaml", "-r", "tools.yaml", *axes, "--sweep-id", sweep]


def now(made: MadeRuns, sweep: str) -> SweepView:
    return view_of(SweepRecords(made.state_dir).find(sweep))


def test_a_sweep_is_found_read_and_its_failed_rows_are_retried(
    browser: Browser, web: Web, made: MadeRuns
):
    made.call(*words_of("measure", "measured", "node=0..5"), codes=(1,))
    browser.open(web.address)
    browser.named("measured", "a").click()
    browser.wait_for("2 of 6 rows failed")
    browser.wait_for("does not answer: no route to host")
    assert len(browser.all("figure.plot circle")) == 4
    assert not browser.faults()
    browser.screenshot("web-sweep", whole=True)
    browser.named("2 failed", "a").click()
    browser.until(lambda: len(browser.all("#sweep tbody th")) == 2, "only the failed rows")
    browser.named("retry 2 failed rows", "button").click()
    browser.wait_for("the failed rows begin again")
    browser.until(lambda: now(made, "measured").rows[5].attempt == 2, "the second attempt")
    browser.until(lambda: now(made, "measured").status == "failed", "its end")
    browser.wait_for("measured.2.2")
    browser.named("measured.2.2", "a").click()
    browser.named("sweep measured", "a").click()
    browser.wait_for("Results against inputs")


def test_a_sweep_is_followed_cancelled_and_resumed(browser: Browser, web: Web, made: MadeRuns):
    driver = made.start(*words_of("hold-all", "held", "gate=h1,h2,h3,h4"), "--max-parallel", "2")
    browser.until(lambda: (made.folder / "held-h1").exists(), "the first row")
    browser.open(web.address)
    browser.open(f"{web.url}/sweeps/held")
    browser.wait_for("0 of 4 rows done")
    made.open_gate("h1")
    browser.wait_for("1 of 4 rows done")
    browser.named("cancel …", "summary").click()
    browser.named("cancel sweep held", "button").click()
    stop = SweepRecords(made.state_dir).at("held").stop_request
    browser.until(stop.exists, "the request to stop")
    for gate in ("h2", "h3", "h4"):
        made.open_gate(gate)
    browser.wait_for("the sweep was cancelled", seconds=90)
    driver.communicate()
    assert now(made, "held").status == "stopped"
    assert not browser.faults()
    browser.named("resume", "button").click()
    browser.wait_for("the sweep continues in the background")
    browser.until(lambda: now(made, "held").status == "success", "its end", seconds=90)
    browser.wait_for("all 4 rows")


def test_one_answer_is_given_to_all_rows_that_ask_the_same(
    browser: Browser, web: Web, made: MadeRuns
):
    made.call(*words_of("write-all", "written", "seed=1..3"), codes=(4,))
    browser.open(web.address)
    browser.open(f"{web.url}/sweeps/written")
    browser.wait_for("3 rows ask: 0-2")
    assert len(browser.all("[data-question]")) == 1
    assert "same.out" in browser.text
    assert not browser.faults()
    browser.size(400, 800)
    assert not browser.sideways()
    browser.screenshot("web-sweep-narrow", whole=True)
    browser.size(1200, 900)
    browser.answer("y call", lambda: now(made, "written").status == "success")
    browser.wait_for("all 3 rows")
    assert (made.folder / "same.out").exists()
    for row in range(3):
        (asked,) = read_history(made.record(f"written.{row}")).questions
        assert asked.answer is True
