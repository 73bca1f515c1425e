"""Job arrays: one submission, and of each element what it did; a foreach over jobs is one, too.

The arrays are real: elements run as plain processes of the local queue.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import forked
from fractale.errors import JobError, PlanError
from fractale.jobs import Jobs
from fractale.plan.build import parse_plan
from fractale.plan.check import check_plan
from fractale.plan.dump import dump_plan
from fractale.schedulers.job import Element
from fractale.schedulers.request import Array
from job_parts import Site, local_site, until
from stand_in_site import stand_in


@pytest.fixture
def here(tmp_path: Path) -> Site:
    """Plain processes, so many at a time as the machine has cores."""
    return local_site(tmp_path)


def many(folder: Path, cores: int) -> Site:
    """Plain processes, with more cores than there are."""
    site = local_site(folder)
    site.jobs = Jobs(folder / "jobs", site.environment, "local", cores=cores)
    return site


# One submission


async def test_each_element_runs_once_with_its_index_and_leaves_its_own_end_and_log(here):
    script = "echo got $FRACTALE_INDEX; echo $FRACTALE_INDEX >> ran"
    handle = await here.jobs.submit(here.spec(script, array=Array.parse("1-7:3,9")), key="a")
    status = await here.ended(handle)
    assert (status.state, status.exit_code) == ("completed", 0)
    assert status.reason == "4 of 4 completed"
    assert status.counts == {"completed": 4}
    assert sorted((here.folder / "ran").read_text().split()) == ["1", "4", "7", "9"]
    found = await here.jobs.elements(handle)
    assert list(found) == [1, 4, 7, 9]
    assert {each.state for each in found.values()} == {"completed"}
    assert (handle.job_dir / "elements" / "7" / "log").read_text() == "got 7\n"
    assert await here.log(handle) == "".join(f"[{i}] got {i}\n" for i in (1, 4, 7, 9))
    again = await here.jobs.submit(here.spec(script, array=Array.parse("1-7:3,9")), key="a")
    assert again == handle


async def test_the_reason_counts_the_elements_and_names_those_that_did_not_do_their_work(here):
    script = "case $FRACTALE_INDEX in 2) exit 3;; 4) kill -9 $$;; 5) sleep 60;; esac"
    handle = await here.jobs.submit(here.spec(script, array=Array.parse("1-6"), time=2.0), key="a")
    status = await here.ended(handle)
    assert status.reason == "3 of 6 completed, 2 failed, 1 timed out: elements 2, 4, 5"
    assert status.state == "failed"
    found = await here.jobs.elements(handle)
    assert [each.state for each in found.values()] == [
        *("completed", "failed", "completed", "failed", "timeout", "completed")
    ]
    assert found[2].exit_code == 3
    assert "SIGKILL" in found[4].reason
    assert "hit its time limit of 2 s" in found[5].reason


async def test_elements_may_run_different_things_in_one_submission(here):
    elements = {
        1: Element(folder=here.folder, command=("sh", "-c", "echo a $X $Y"), env={"X": "it's"}),
        2: Element(folder=here.folder, script="#!/bin/sh\necho b; exit 4\n"),
        3: Element(folder=here.folder.parent, script="#!/bin/sh\npwd\n"),
    }
    spec = here.spec("exit 9", array=Array.parse("1-3"), elements=elements, env={"Y": "2"})
    handle = await here.jobs.submit(spec, key="a")
    status = await here.ended(handle)
    assert status.reason == "2 of 3 completed, 1 failed: element 2"
    logs = [(handle.job_dir / "elements" / str(i) / "log").read_text() for i in (1, 2, 3)]
    assert logs == ["a it's 2\n", "b\n", f"{here.folder.parent}\n"]


async def test_no_more_elements_run_at_a_time_than_may_and_others_pass_them(tmp_path):
    site = many(tmp_path, 4)
    gate = "while [ ! -e open ]; do sleep 0.05; done"
    array = await site.jobs.submit(site.spec(gate, array=Array.parse("1-6%2")), key="a")
    await until(lambda: len(list(array.job_dir.glob("elements/*/started"))) == 2)
    status = await site.run("true", key="b")
    assert status.state == "completed"
    assert len(list(array.job_dir.glob("elements/*/started"))) == 2
    now = await site.jobs.status(array)
    assert now.state == "running"
    assert now.counts == {"running": 2, "pending": 4}
    (site.folder / "open").touch()
    assert (await site.ended(array)).reason == "6 of 6 completed"


async def test_an_array_takes_its_cores_for_each_element_and_in_order(tmp_path):
    site = many(tmp_path, 2)
    script = "echo $FRACTALE_INDEX >> began; sleep 0.2"
    handle = await site.jobs.submit(site.spec(script, array=Array.parse("1-4"), tasks=2), key="a")
    await site.ended(handle)
    assert (site.folder / "began").read_text().split() == ["1", "2", "3", "4"]


async def test_a_cancelled_array_ends_what_runs_and_begins_nothing_more(tmp_path):
    site = many(tmp_path, 2)
    handle = await site.jobs.submit(site.spec("sleep 60", array=Array.parse("1-5")), key="a")
    await until(lambda: len(list(handle.job_dir.glob("elements/*/started"))) == 2)
    status = await site.jobs.cancel(handle)
    assert status.state == "cancelled"
    assert status.reason == "0 of 5 completed, 5 cancelled: elements 1, 2, 3, 4, 5"
    assert len(list(handle.job_dir.glob("elements/*/started"))) == 2


async def test_a_lost_queue_loses_no_element_and_repeats_none(tmp_path):
    site = many(tmp_path, 2)
    script = "echo $FRACTALE_INDEX >> ran; sleep 0.3"
    handle = await site.jobs.submit(site.spec(script, array=Array.parse("1-8")), key="a")
    await until(lambda: len(list(handle.job_dir.glob("elements/*/ended.*"))) >= 2)
    for path in (tmp_path / "jobs" / ".local").rglob("[0-9]*"):
        path.unlink(missing_ok=True)
    status = await site.ended(handle)
    assert status.reason == "8 of 8 completed"
    assert sorted((site.folder / "ran").read_text().split()) == [str(i) for i in range(1, 9)]


# The directives of a script, on a machine without a scheduler


@pytest.mark.parametrize(
    "directive",
    ["#SBATCH -a1-3", "#SBATCH --arr=1-3", "#PBS -J1-3", "#PBS -t 1-3", '#BSUB -J "x[1-3]"'],
)
async def test_an_array_of_the_script_counts_in_any_spelling(here, directive):
    script = f"{directive}\necho $FRACTALE_INDEX >> ran"
    status = await here.run(script)
    assert status.reason == "3 of 3 completed"
    assert sorted(text(here.folder / "ran").split()) == ["1", "2", "3"]


@pytest.mark.parametrize(
    "directive",
    ["#SBATCH -a 1-x", "#SBATCH --array", "#PBS -J 3-1", '#BSUB -J "x[0-3]"', "#PBS -J 1,5"],
)
async def test_an_array_that_cannot_be_read_is_not_run_as_one_job(here, directive):
    with pytest.raises(JobError, match=r"line \d+ of the script, .* array that cannot be read"):
        await here.run(f"{directive}\ntrue")
    assert (await here.run(f"{directive}\ntrue", array=Array.parse("2-3"))).state == "completed"


async def test_the_array_of_the_job_itself_counts_more(here):
    status = await here.run("#SBATCH --array=1-9\ntrue", array=Array.parse("2-3"))
    assert status.reason == "2 of 2 completed"


async def test_the_time_limit_of_the_script_counts(here):
    status = await here.run("#PBS -l walltime=2\nsleep 60")
    assert status.state == "timeout"


@pytest.mark.parametrize(
    ("directives", "refusal"),
    [
        ("#SBATCH -N2", "asks for 2 nodes; without a scheduler there is only one"),
        ("#BSUB -w 'ended(12)'", "waits for other jobs"),
        ("#SBATCH -n1\n#SBATCH hetjob\n#SBATCH -n2", "`hetjob`, makes several jobs of one"),
        ("#SBATCH --wait", "line 2 of the script, `--wait`, makes the submission wait"),
        ("#PBS -W block=true", "makes the submission wait for the job"),
        ("#SBATCH --begin=tomorrow", "asks for a begin time"),
    ],
)
async def test_what_this_machine_cannot_give_is_refused(here, directives, refusal):
    with pytest.raises(JobError, match=re.escape(refusal)):
        await here.run(f"{directives}\ntrue")


async def test_what_of_a_script_does_not_count_is_told(here):
    status = await here.run("#SBATCH -p gpu -t 5 --mail-type=END\ntrue")
    assert status.state == "completed"
    assert status.notices == (
        "line 2: `-p gpu` does not count for a local job: it has no effect without a scheduler",
        "line 2: `--mail-type=END` does not count for a local job: it has no effect without a "
        "scheduler",
    )


# Schedulers with arrays of their own, as their stand-ins have them


@pytest.mark.parametrize(
    ("scheduler", "directive"), [("pbs", "#PBS -J1-3"), ("lsf", '#BSUB -J "x[1-3]"')]
)
async def test_a_scheduler_gets_an_array_as_one_job(tmp_path, scheduler, directive):
    site = stand_in(tmp_path, scheduler)
    script = "echo $FRACTALE_INDEX >> ran; exit $((FRACTALE_INDEX == 3 ? 4 : 0))"
    spec = site.spec(script, array=Array.parse("1-6%2"))
    handle = await site.jobs.submit(spec, key="a")
    status = await site.ended(handle)
    assert status.reason == "5 of 6 completed, 1 failed: element 3"
    assert sorted(text(site.folder / "ran").split()) == list("123456")
    status = await site.run(f"{directive}\necho $FRACTALE_INDEX >> ran", key="b")
    assert status.reason == "3 of 3 completed"
    jobs = [path for path in (tmp_path / "state").glob("*.json") if "_" not in path.stem]
    assert len(jobs) == 2


@pytest.mark.parametrize("scheduler", ["pbs", "lsf"])
async def test_an_array_of_a_scheduler_is_cancelled_as_a_whole(tmp_path, scheduler):
    site = stand_in(tmp_path, scheduler)
    script = "[ $FRACTALE_INDEX = 1 ] || sleep 60"
    handle = await site.jobs.submit(site.spec(script, array=Array.parse("1-3")), key="a")
    await site.until(handle, lambda status: status.counts == {"completed": 1, "running": 2})
    status = await site.jobs.cancel(handle)
    assert status.reason == "1 of 3 completed, 2 cancelled: elements 2, 3"


# In a plan


@pytest.fixture
def settings(settings, tmp_path, monkeypatch):
    """Jobs work in a folder of their own, with the machine's own programs."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return replace(settings, environment={"PATH": os.environ["PATH"]}, local_cores=99)


def text(path: str | Path) -> str:
    return Path(path).read_text()


def submissions(settings) -> int:
    """How many jobs or arrays went out."""
    return sum(int(path.read_text()) for path in settings.state_dir.glob("local/*/last"))


async def test_a_step_with_an_array_gives_the_outputs_of_its_elements_in_order(run_plan, settings):
    seen = await run_plan(
        """
        name: p
        steps:
          - name: scan
            job:
              scheduler: local
              array: 3-9:3%2
              script: |
                #!/bin/sh
                echo "value {{ index }}0 of $FRACTALE_INDEX"
              outputs: {value: 'value (\\d+)'}
        outputs: {values: "{{ steps.scan.outputs }}"}
        """,
        keep=True,
    )
    assert seen.result.status == "success", seen.result.error
    found = seen.result.outputs["values"]
    assert [each["index"] for each in found] == [3, 6, 9]
    assert [each["value"] for each in found] == [30, 60, 90]
    assert [each["state"] for each in found] == ["completed"] * 3
    assert [each["exit_code"] for each in found] == [0, 0, 0]
    assert [each["log"] for each in found] == [f"value {i}0 of {i}\n" for i in (3, 6, 9)]
    assert len({each["job_id"].partition("[")[0] for each in found}) == 1
    assert all(text(each["log_file"]) == each["log"] for each in found)
    assert submissions(settings) == 1


FAILING = """
    name: p
    steps:
      - name: scan
        {more}
        job:
          scheduler: local
          array: 1-4
          command: [sh, -c, 'echo {{{{ index }}}}; exit $((FRACTALE_INDEX == 3 ? 5 : 0))']
    outputs: {{scan: "{{{{ steps.scan.outputs }}}}"}}
    """


async def test_an_array_fails_if_an_element_fails_and_says_which(run_plan):
    seen = await run_plan(FAILING.format(more="approve: never"))
    assert seen.result.status == "failed"
    assert "3 of 4 completed, 1 failed: element 3; first: job q1[3] ended with exit code 5" in (
        seen.result.error
    )


async def test_an_array_that_keeps_going_is_a_success_that_says_what_failed(run_plan):
    seen = await run_plan(FAILING.format(more="keep_going: true"))
    assert seen.result.status == "success"
    assert [each["exit_code"] for each in seen.result.outputs["scan"]] == [0, 0, 5, 0]
    finished = seen.of("step_finished")[-1]
    assert "3 of 4 completed, 1 failed: element 3" in finished["notices"][0]["message"]


async def test_only_the_elements_that_failed_run_again(run_plan, settings):
    seen = await run_plan("""
        name: p
        steps:
          - name: scan
            max_attempts: 3
            transitions: {failure: scan}
            job:
              scheduler: local
              array: 1-5
              script: |
                #!/bin/sh
                echo $FRACTALE_INDEX >> ran
                [ $(grep -c $FRACTALE_INDEX ran) -ge 2 ] || [ $((FRACTALE_INDEX % 2)) = 1 ]
        outputs: {scan: "{{ steps.scan.outputs }}"}
        """)
    assert seen.result.status == "success", seen.result.error
    assert sorted(text("ran").split()) == ["1", "2", "2", "3", "4", "4", "5"]
    assert [each["index"] for each in seen.result.outputs["scan"]] == [1, 2, 3, 4, 5]
    assert submissions(settings) == 2


AGAIN = """
    name: p
    steps:
      - name: scan
        max_attempts: 3
        transitions: {{failure: scan}}
        job:
          scheduler: local
          array: {array}
          time: "{{{{ 30 * attempts }}}}"
          script: |
            #!/bin/sh
            # {comment}
            echo $FRACTALE_INDEX >> ran
            [ $(grep -c $FRACTALE_INDEX ran) -ge {times} ] || [ $((FRACTALE_INDEX % 2)) = 1 ]
    outputs: {{scan: "{{{{ steps.scan.outputs }}}}"}}
    """


@pytest.mark.parametrize(
    ("comment", "array", "times"),
    [
        ("try {{ attempts }}", "1-5", 2),
        ("try {{ attempts }}", "1-5", 3),
        ("after {{ steps.scan.attempts | default(0) }}", "1-5", 3),
        ("{{ index }} of try {{ attempts }}", "1-{{ 3 + attempts }}", 2),
    ],
)
async def test_what_differs_by_the_attempt_alone_is_the_same_job(run_plan, comment, array, times):
    seen = await run_plan(AGAIN.format(array=array, comment=comment, times=times))
    assert seen.result.status == "success", seen.result.error
    ran = text("ran").split()
    assert [ran.count(each) for each in "13"] == [1, 1]
    assert [ran.count(each) for each in "24"] == [times, times]
    kept = [each["message"] for each in seen.of("warning") if each["code"] == "array-kept"]
    assert kept[0] == (
        "elements 1, 3, 5: kept from attempt 1, not run again"
        if array == "1-5"
        else "elements 1, 3: kept from attempt 1, not run again"
    )
    assert f"kept from attempt {times - 1})" in seen.of("step_finished")[-1]["reason"]


async def test_a_job_whose_inputs_changed_runs_all_of_its_elements_again(run_plan):
    seen = await run_plan(r"""
        name: p
        steps:
          - name: mend
            max_attempts: 3
            job:
              scheduler: local
              command: [sh, -c, "echo v >> mended; echo v=$(wc -l < mended)"]
              outputs: {v: 'v=(\d)'}
          - name: scan
            max_attempts: 3
            transitions: {failure: mend}
            job:
              scheduler: local
              array: 1-3
              script: |
                #!/bin/sh
                # {{ steps.mend.outputs.v }} {{ attempts }}
                echo $FRACTALE_INDEX >> ran
                [ $(grep -c $FRACTALE_INDEX ran) -ge 2 ] || [ $((FRACTALE_INDEX % 2)) = 1 ]
        """)
    assert seen.result.status == "success", seen.result.error
    assert sorted(text("ran").split()) == ["1", "1", "2", "2", "3", "3"]
    again = [each["message"] for each in seen.of("warning") if each["code"] == "array-again"]
    assert again == ["the job is not that of attempt 1: all elements run again"]


async def test_rules_and_figures_are_of_each_element(run_plan):
    seen = await run_plan("""
        name: p
        steps:
          - name: scan
            keep_going: true
            rules: {failure: [v > 2]}
            job:
              scheduler: local
              array: 1-3
              command: [echo, 'v={{ index }}']
              outputs: {v: 'v=(\\d)'}
        outputs: {scan: "{{ steps.scan.outputs }}"}
        """)
    assert seen.result.status == "success"
    assert ["error" in each for each in seen.result.outputs["scan"]] == [False, False, True]


async def test_the_events_count_the_jobs_of_an_array_by_state(run_plan):
    seen = await run_plan(FAILING.format(more="keep_going: true"))
    assert seen.of("job_state")[-1]["jobs"] == {"completed": 3, "failed": 1}


# A foreach over jobs


async def test_a_foreach_over_jobs_is_one_submission(run_plan, settings):
    seen = await run_plan("""
        name: p
        steps:
          - name: each
            foreach: {x: [1, 2, 3], y: ["it's", b c]}
            job:
              scheduler: local
              env: {Y: "{{ item.y }}"}
              command: [sh, -c, 'echo $0-$Y; pwd', "{{ item.x }}"]
              outputs: {v: '(\\d)-'}
        outputs: {each: "{{ steps.each.outputs }}"}
        """)
    assert seen.result.status == "success", seen.result.error
    found = seen.result.outputs["each"]
    assert [each["v"] for each in found] == [1, 1, 2, 2, 3, 3]
    assert found[5]["log"] == f"3-b c\n{Path.cwd()}\n"
    assert submissions(settings) == 1


async def test_items_that_ask_for_other_resources_are_arrays_of_their_own(run_plan, settings):
    seen = await run_plan("""
        name: p
        steps:
          - name: each
            foreach: {n: [1, 2], x: [1, 2, 3]}
            job:
              scheduler: local
              tasks: "{{ item.n }}"
              command: [sh, -c, 'echo ${FRACTALE_JOB_TASKS}{{ item.x }}']
        outputs: {each: "{{ steps.each.outputs }}"}
        """)
    assert [each["log"] for each in seen.result.outputs["each"]] == [
        *("11\n", "12\n", "13\n", "21\n", "22\n", "23\n")
    ]
    assert submissions(settings) == 2


async def test_max_parallel_bounds_an_array_and_an_item_that_is_no_job_fails_alone(run_plan):
    seen = await run_plan("""
        name: p
        steps:
          - name: each
            foreach: [1, 2, 3, 4, 5, 6]
            max_parallel: 2
            job:
              scheduler: local
              command:
                - sh
                - -c
                - 'mkdir here.$$; set -- here.*; echo $#; sleep 0.5; rmdir here.$$'
              outputs: {n: '(\\d+)'}
        outputs: {most: "{{ steps.each.outputs | map(attribute='n') | max }}"}
        """)
    assert seen.result.status == "success", seen.result.error
    assert seen.result.outputs["most"] <= 2


async def test_many_items_are_one_submission(run_plan, settings):
    seen = await run_plan("""
        name: p
        steps:
          - name: each
            foreach: range(60) | list
            job: {scheduler: local, command: [sh, -c, "exit $(({{ item }} == 7))"]}
            keep_going: true
        outputs: {each: "{{ steps.each.outputs | length }}"}
        """)
    assert seen.result.status == "success", seen.result.error
    assert submissions(settings) == 1
    assert seen.of("step_finished")[-1]["notices"][0]["message"].startswith("1 of 60 items failed")


# What validate says


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        ("job: {script: x, array: 5-1-2}", "wrong-type `array` must be indices such as `1-100`"),
        ("job: {script: x, array: 1-0}", "bad-value `array: 1-0` has a part without an index"),
        ("job: {script: x, array: '1-4,9-7'}", "bad-value `array: 1-4,9-7` has a part without"),
        ("job: {script: x, array: 1-20000}", "has 20,000 elements, and a step has at most 10,000"),
        ("job: {script: x, array: '1-9000,9001-10002'}", "has 10,002 elements, and a step has"),
        ("job: {script: x, array: 0-999999999:1}", "has 1,000,000,000 elements"),
        ("job: {script: x, array: 1-4%0}", "wrong-type `array` must be indices"),
        ("foreach: [1]\njob: {script: x, array: 1-4}", "misplaced-key a step has `array` or"),
        ("job: {script: '{{ index }}'}", "undefined `index` is not defined"),
        ("job: {script: x, array: '1-{{ index }}'}", "undefined `index` is not defined"),
        (
            "tool: t\nkeep_going: true",
            "misplaced-key `keep_going` needs `foreach`, `parallel` or `job`",
        ),
        ("job: {script: x, time: 1:30}", "wrong-type `1:30` is hours and minutes (`1:30:00`), or"),
    ],
)
def test_what_is_wrong_with_an_array_is_found_before_the_run(step, problem):
    text = "name: p\nsteps:\n  - name: a\n" + "".join(f"    {line}\n" for line in step.splitlines())
    try:
        found = check_plan(parse_plan(text, "p.yaml"))
    except PlanError as error:
        found = error.problems
    assert problem in "\n".join(f"{each.code} {each.message}" for each in found)


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("1:00:00", 3600), ("2-00:00:00", 172_800), ("1-12", 129_600), ("30m", 1800), ("90", 90)],
)
def test_times_are_read_as_schedulers_write_them(time, seconds):
    text = f"name: p\nsteps:\n  - {{name: a, job: {{script: x, time: {time}}}}}\n"
    assert parse_plan(text).steps[0].job.time == seconds


def test_an_array_in_a_plan_may_use_its_index_and_is_written_as_it_was_read():
    text = """
name: p
steps:
  - name: a
    keep_going: true
    job: {array: "1-{{ inputs.n }}%2", command: [x, "{{ index }}"]}
inputs: {n: 4}
"""
    plan = parse_plan(text)
    assert check_plan(plan) == []
    assert parse_plan(dump_plan(plan)) == plan


# A run that goes on


def test_a_lost_job_is_looked_at_again_before_anybody_is_asked(tmp_path):
    vanish = 'kill -9 $(sed -n "s/^id=//p" "$FRACTALE_JOB_DIR/minder") $PPID; kill -9 $$'
    job = {"scheduler": "local", "command": ["sh", "-c", vanish]}
    plan = {"name": "p", "steps": [{"name": "a", "job": job}]}
    (tmp_path / "p.yaml").write_text(json.dumps(plan))

    def call(*words: str) -> dict[str, Any]:
        env = {**os.environ, "HOME": str(tmp_path)}
        ran = forked.run([*words, "--json"], cwd=tmp_path, env=env)
        return json.loads(ran.stdout.splitlines()[-1])

    assert [each["kind"] for each in call("run", "p.yaml")["waiting"]] == ["job_unknown"]
    assert call("resume", "-1")["status"] == "waiting"
    (folder,) = tmp_path.glob(".fractale/runs/*/jobs/fr*")
    (folder / ".ending").rename(folder / "ended.0")  # as a file system that was slow shows it
    assert call("resume", "-1")["status"] == "success"
