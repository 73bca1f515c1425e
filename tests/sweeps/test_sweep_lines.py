"""What `fractale sweep show` prints, from views."""

from __future__ import annotations

import pytest

from fractale.render.sweep import bar, ended_line, live_line, one_row_lines, sweep_lines
from fractale.render.text import cells, narrowed, plain, writable
from fractale.sweeps.analysis import merit_of
from made_sweeps import HOSTILE, limit, row_view, view


def shown(of, width=80, **more) -> str:
    lines = sweep_lines(of, merit=merit_of(of), width=width, **more)
    return "\n".join(plain(line) for line in narrowed(lines, width))


def big(count: int):
    states = ["success", "failed", "waiting", "pending"]
    rows = [
        row_view(
            i,
            states[i % 4],
            inputs={
                "temperature": i * 10.5,
                "potential": f"potential-{i % 3}",
                "ranks": 2 ** (i % 5),
            },
            outputs={"energy": i * i * 0.1} if i % 4 == 0 else {},
            error=f"job {i} ended with exit code 3" if i % 4 == 1 else None,
            failed_at="relax" if i % 4 == 1 else "",
            asks=("review",) if i % 4 == 2 else (),
            used={"tokens": 1000.0, "node_hours": 0.25, "cost": 0.01},
            seconds=75.0,
        )
        for i in range(count)
    ]
    return view(
        rows,
        varied=("temperature", "potential", "ranks"),
        status="waiting",
        limits=(limit("node_hours", 5000, 2500, 30),),
        next=("fractale sweep answer s", "fractale sweep retry s --failed"),
    )


def test_the_first_screen_of_ten_thousand_rows_is_short_and_80_columns_wide():
    lines = shown(big(10_000)).split("\n")
    assert len(lines) < 90
    assert max(map(cells, lines)) <= 80
    assert "the first 20 of 10,000 rows; --limit 0 shows all" in lines


def test_verdict_counts_limits_groups_and_commands():
    text = shown(big(8))
    assert "waiting · 2 of 8 rows wait" in text
    assert "2 success · 2 failed · 2 waiting · 2 pending" in text
    assert "2,500 used · 30 reserved · 2,470 of 5,000 left" in text
    assert "2  `relax`: job 1 ended with exit code 3 (numbers differ)" in text
    assert "rows 1, 5" in text
    assert "2  asks at `review`" in text
    assert "next: fractale sweep answer s" in text


def test_the_merit_is_plotted_against_each_number_and_summed_up_for_texts():
    text = shown(big(40))
    assert "least     0 at row 0 (temperature=0, potential=potential-0, ranks=1)" in text
    assert "greatest  129.6 at row 36" in text
    assert "potential-1  1.6 to 78.4  (3 rows)" in text
    assert "energy against temperature" in text
    assert "> (temperature)" in text
    assert "energy against ranks" in text


def test_a_number_that_no_row_with_a_merit_varies_is_not_plotted():
    rows = [row_view(0, inputs={"x": 1}, outputs={"y": 5}), row_view(1, "failed", inputs={"x": 2})]
    text = shown(view(rows))
    assert "y of 1 row:" in text
    assert "y against x" not in text


def test_a_stream_without_unicode_has_all_but_the_plots():
    text = writable(shown(big(40), unicode=False), "ascii")
    assert "plots need a terminal that shows Unicode" in text
    assert "####...." in text
    assert "\\u" not in text


@pytest.mark.parametrize(
    ("status", "more", "words"),
    [
        ("success", {}, "success · all 2 rows"),
        ("running", {}, "running · 2 of 2 rows done"),
        ("queued", {}, "queued · its driver has not begun"),
        (
            "limit",
            {"reached": "tokens"},
            "stopped at a limit · `tokens` of the sweep",
        ),
        ("stopped", {"reason": "no worker can start"}, "reason  no worker can start"),
    ],
)
def test_the_verdict_of_each_status(status, more, words):
    assert words in shown(view([row_view(0), row_view(1)], status=status, **more))


def test_what_tools_and_models_said_is_inert():
    rows = [
        row_view(
            0, "failed", inputs={"x": HOSTILE}, error=HOSTILE, failed_at=HOSTILE, asks=(HOSTILE,)
        ),
        row_view(1, inputs={"x": HOSTILE}, outputs={HOSTILE: 1.5}),
    ]
    of = view(rows, plan=HOSTILE, reason=HOSTILE, executor=HOSTILE, merit=HOSTILE)
    texts = [
        shown(of),
        *(plain(line) for each in rows for line in one_row_lines(of, each)),
        *(plain(ended_line(of, each, HOSTILE)) for each in rows),
        live_line(of),
    ]
    for text in texts:
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "\u202e" not in text


def test_only_failed_rows_on_request():
    text = shown(big(8), only_failed=True)
    assert [line.split()[:2] for line in text.split("\n") if "relax" not in line][8:11]
    assert "asks at" not in text
    assert "next: fractale sweep answer s" in text
    assert "success   " not in text.split("ROW")[1]


def test_the_list_of_failed_rows_names_its_first_row_instead_of_itself():
    of = view(
        [row_view(0), row_view(1, "failed")],
        next=("fractale sweep show s --failed", "fractale sweep retry s --failed"),
    )
    assert "fractale sweep show s --failed" in shown(of)
    text = shown(of, only_failed=True)
    assert "next: fractale sweep show s 1\n" in text
    assert "fractale sweep retry s --failed" in text


def test_one_row_in_full():
    of = big(8)
    text = "\n".join(plain(line) for line in one_row_lines(of, of.rows[5]))
    assert "failed · row 5 of sweep s" in text
    assert "`relax`: job 5 ended with exit code 3" in text
    assert "52.5" in text
    assert "fractale sweep retry s --row 5" in text


@pytest.mark.parametrize(
    ("done", "total", "text"),
    [
        (0, 9, "░░░░░░░░"),
        (1, 9999, "▓░░░░░░░"),
        (9998, 9999, "▓▓▓▓▓▓▓░"),
        (9, 9, "▓▓▓▓▓▓▓▓"),
        (0, 0, "░░░░░░░░"),
    ],
)
def test_a_bar_is_full_only_at_the_end(done, total, text):
    assert bar(done, total) == text
