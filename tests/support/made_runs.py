"""Runs to look at, of each kind that people meet, made by `fractale run` itself.

`MadeRuns` is a folder with plans, a registry of tools and a state directory. Each kind of run is
made when it is asked for first, by processes of the command line, real jobs of the local scheduler
and a scripted model over HTTP. `hostile_run` is a record in which every field of every event is
text that would do harm if it were more than text; `many_runs` and `long_run` are for what takes
long.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import forked
from fractale.events import Event, EventLog
from fractale.private import write_private
from fractale.schedulers.folder import name_of
from fractale.store.outputs import FileOutputs
from fractale.store.run_record import RunRecord, RunRecords
from fractale.testing import ModelServer
from fractale.testing.model_server import ModelRequest, Reply

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0

REGISTRY = """
tools:
  - {path: lab.look, annotations: {readOnlyHint: true}}
  - {path: lab.test_node, annotations: {readOnlyHint: true}}
  - {path: lab.check, annotations: {readOnlyHint: true}}
  - {path: lab.hold, annotations: {readOnlyHint: true}}
  - {path: lab.plot, annotations: {readOnlyHint: true}}
  - {path: lab.harm, annotations: {readOnlyHint: true}}
  - {path: lab.write, annotations: {destructiveHint: true, idempotentHint: true}}
"""

PLANS = {
    "steps": """
name: Look twice
description: Looks at a text and at how long it is.
inputs: {text: {type: string, default: all is well, description: What to look at}}
steps:
  - {name: first, tool: look, description: look at it, inputs: {text: "{{ inputs.text }}"}}
  - {name: again, tool: look, inputs: {text: "seen {{ steps.first.outputs.words }} words"}}
outputs: {seen: "{{ steps.again.outputs.seen }}", words: "{{ steps.first.outputs.words }}"}
""",
    "back": """
name: Translate a batch script
inputs: {script: job.sbatch}
limits: {steps: 20}
steps:
  - name: transform
    type: agent
    description: write the directives
    instruction: >-
      TRANSFORM {{ inputs.script }};
      the last error: {{ steps.validate.error | default('none') }}
    allow_tools: false
  - name: validate
    description: check them
    tool: check
    inputs: {text: "{{ steps.transform.outputs.content }}"}
    rules: {success: [valid]}
    transitions: {failure: transform}
outputs: {jobspec: "{{ steps.transform.outputs.content }}"}
""",
    "failed-tool": """
name: Test one node
steps:
  - {name: look, tool: look}
  - {name: test, tool: test_node, inputs: {node: 5}, max_attempts: 1}
  - {name: after, tool: look}
""",
    "failed-job": """
name: Relax a melt
inputs: {time: 10m}
steps:
  - {name: prepare, tool: look}
  - name: relax
    description: run LAMMPS
    job:
      scheduler: local
      script: |
        i=0
        while [ $i -lt 60 ]; do i=$((i+1)); echo "Step ${i}00 Temp 1.44"; done
        echo "ERROR: Unknown pair style reax/c (src/force.cpp:275)"
        echo "Last command: pair_style reax/c NULL"
        exit 3
  - {name: read, tool: look}
""",
    "approval": """
name: Write a script
inputs: {path: melt.flux.sh}
steps:
  - {name: look, tool: look}
  - name: review
    tool: write
    approve: always
    inputs:
      path: "{{ inputs.path }}"
      text: |
        #!/bin/bash
        #FLUX: -N2
        flux run -n 8 lmp -in in.lj
  - {name: done, tool: look, inputs: {text: "{{ steps.review.outputs.lines }} lines"}}
outputs: {lines: "{{ steps.review.outputs.lines }}"}
""",
    "question": """
name: Ask for a size
steps:
  - name: pick
    ask: Which size should the box have?
    choices: [small, medium, large]
    default: small
  - {name: use, tool: look, inputs: {text: "the {{ steps.pick.outputs.answer }} box"}}
outputs: {used: "{{ steps.use.outputs.seen }}"}
""",
    "form": """
name: Ask for a job's size
steps:
  - name: size
    ask: How big is the job?
    form:
      type: object
      properties:
        nodes: {type: integer, minimum: 1, maximum: 64, title: Nodes}
        queue: {type: string, enum: [batch, debug]}
        note: {type: string}
      required: [nodes, queue]
  - {name: use, tool: look, inputs: {text: "{{ steps.size.outputs.nodes }} nodes"}}
outputs: {used: "{{ steps.use.outputs.seen }}"}
""",
    "foreach": """
name: Test all nodes
steps:
  - name: each
    description: test each node
    tool: test_node
    foreach: range(8)
    keep_going: true
    max_parallel: 2
    inputs: {node: "{{ item }}"}
  - {name: sum, tool: look, inputs: {text: "{{ steps.each.outputs | length }} nodes"}}
outputs: {nodes: "{{ steps.sum.outputs.seen }}"}
""",
    "drafted": """
name: Plan and do
steps:
  - name: made
    type: plan
    description: plan the work
    instruction: DRAFT two looks.
    tools: [look, check]
  - {name: last, tool: look, inputs: {text: "{{ steps.made.outcome }}"}}
""",
    "handlers": """
name: Serve and clean up
steps:
  - {name: serve, tool: look}
  - {name: solve, tool: test_node, inputs: {node: 8}, max_attempts: 1}
on_failure:
  - {name: tell, tool: look, inputs: {text: "{{ run.failed.step }}: {{ run.failed.error }}"}}
finally:
  - {name: stop, tool: look, inputs: {text: "ended as {{ run.outcome }}"}}
""",
    "images": """
name: Draw the melt
steps:
  - {name: draw, tool: plot}
  - {name: harm, tool: harm}
""",
    "table": """
name: Tune the melt
steps:
  - {name: tune, agent: tune}
outputs: {best: "{{ steps.tune.outputs.best }}"}
""",
    "jobs": """
name: Sweep the skin
steps:
  - name: sweep
    foreach: [0.1, 0.2, 0.3]
    keep_going: true
    job:
      scheduler: local
      script: |
        echo "skin {{ item }}"
        echo "loop_time=$(( {{ (item * 10) | int }} * 3 ))"
      outputs: {loop_time: 'loop_time=(.*)'}
""",
    "held": """
name: Follow a run
inputs: {gate: one}
steps:
  - {name: before, tool: look}
  - {name: wait, tool: hold, description: wait for a file, inputs: {gate: "{{ inputs.gate }}"}}
  - {name: after, tool: look, inputs: {text: "came after"}}
outputs: {seen: "{{ steps.after.outputs.seen }}"}
""",
    "held-job": """
name: Follow a job
steps:
  - name: melt
    job:
      scheduler: local
      script: |
        echo "Step 100"
        while [ ! -e go-job ]; do sleep 0.05; done
        echo "Step 200"
  - {name: after, tool: look}
""",
    "secret": """
name: Use a password
inputs: {word: {type: string, secret: true}, who: anna}
steps:
  - {name: use, tool: look, inputs: {text: "{{ inputs.word }} of {{ inputs.who }}"}}
""",
}
"""Plans by the name of the run that they are for."""

DRAFT = {"steps": [{"name": "one", "tool": "look", "inputs": {"text": "one"}}]}
BETTER = {
    "steps": [
        *DRAFT["steps"],
        {"name": "two", "tool": "check", "inputs": {"text": "{{ steps.one.outputs.seen }}"}},
    ]
}
FEEDBACK = "Check it, too."
SECRET = "hunter2-melt"


def model(request: ModelRequest) -> Reply:
    """The model: its answer depends only on what it is asked."""
    said = json.dumps(request.body)
    if "TRANSFORM" in said:
        wrong = "last error: none" in said
        text = "#FLUX: -N2 " + ("-c8" if wrong else "-n8")
        return Reply(text=text, input_tokens=410, output_tokens=45)
    if "plan_steps" in said and "Write the steps." not in said:
        return Reply(tool_calls=[("plan_steps", {"known": "There are two looks."})])
    if "Write the steps." in said:
        return Reply(data=BETTER if FEEDBACK in said else DRAFT)
    return Reply(text="There is nothing to find out.")


class MadeRuns:
    """A folder with plans and runs. Runs are named as their plans are.

    Args:
        folder: An empty directory.
        server: A model server with `model`, or another script.
    """

    def __init__(self, folder: Path, server: ModelServer) -> None:
        self.folder = folder
        self.state_dir = folder / ".fractale"
        (folder / "plans").mkdir(parents=True)
        shutil.copy(Path(__file__).with_name("lab.py"), folder)
        (folder / "tools.yaml").write_text(REGISTRY)
        for name, plan in PLANS.items():
            (folder / "plans" / f"{name}.yaml").write_text(plan.lstrip())
        script = ["#!/bin/bash", "#SBATCH -N 2", "#SBATCH -n 8", "#SBATCH --gres=gpu:2"]
        (folder / "job.sbatch").write_text("\n".join([*script, "srun lmp -in in.lj", ""]))
        known = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}
        known |= {"FRACTALE_POLL_SECONDS": "0.2", "FRACTALE_LOCAL_CORES": "99"}
        known |= {"FRACTALE_TRUST_PROJECT": "1"}
        known |= {"OPENAI_BASE_URL": server.openai_url, "OPENAI_API_KEY": "k-1234567890"}
        self.env: dict[str, str] = known | forked.measured()
        self._made: dict[str, str] = {}

    # -- commands

    def start(self, *words: str, **options: Any) -> forked.Process:
        """Start ``fractale WORDS`` in the folder."""
        env = {**self.env, **options.pop("env", {})}
        return forked.start(words, cwd=self.folder, env=env, **options)

    def call(self, *words: str, codes: Sequence[int] = (0,)) -> str:
        """Run a command to its end; returns what it prints on stdout."""
        process = self.start(*words)
        out, err = process.communicate()
        assert process.returncode in codes, f"{words}: {process.returncode}\n{out}\n{err}"
        return out

    def begin(self, plan: str, run_id: str, *words: str) -> forked.Process:
        """Start a run of one of the plans."""
        return self.start(*self.words_of(plan, run_id, *words))

    def words_of(self, plan: str, run_id: str, *words: str) -> list[str]:
        """The words of the command that runs one of the plans."""
        file = f"plans/{plan}.yaml"
        more = [*words, "--model", "openai:scripted", "-q", "--run-id", run_id]
        return ["run", file, "-r", "tools.yaml", *more]

    def make(self, plan: str, run_id: str, *words: str, code: int = 0) -> RunRecord:
        """Run one of the plans to its end; `code` is the exit code that it must have."""
        self.call(*self.words_of(plan, run_id, *words), codes=(code,))
        return self.record(run_id)

    # -- runs

    def record(self, run_id: str) -> RunRecord:
        """The record of a run that was made."""
        return RunRecords(self.state_dir).find(run_id)

    def run(self, name: str) -> RunRecord:
        """The record of a kind of run (`KINDS`), which is made if it is not there yet."""
        if name not in self._made:
            KINDS[name](self)
            self._made[name] = name
        return self.record(name)

    def all(self) -> dict[str, RunRecord]:
        """Every kind of run, made in parallel where they are single processes."""
        return {name: self.run(name) for name in KINDS}

    # -- runs that go on until a test says so

    @contextmanager
    def going(self, run_id: str, gate: str = "") -> Iterator[forked.Process]:
        """A run in the block that waits in its second step until `open_gate`."""
        gate = gate or run_id
        process = self.begin("held", run_id, "-i", f"gate={gate}")
        try:
            wait_for((self.folder / f"held-{gate}").exists, "the held step")
            yield process
        finally:
            self.open_gate(gate)
            process.communicate()

    def open_gate(self, gate: str) -> None:
        """Let a run of `going` continue."""
        (self.folder / f"go-{gate}").touch()


def wait_for(true: Callable[[], object], what: str) -> None:
    """Wait until something is so."""
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until, f"never came: {what}"
        time.sleep(0.02)


def _losses(made: MadeRuns) -> None:
    plan = str(ROOT / "plans" / "translate.yaml")
    registry = str(ROOT / "registries" / "jobspec.yaml")
    inputs = ["-i", "script=job.sbatch", "-i", "lossy=true"]
    made.call("run", plan, "-r", registry, *inputs, "--yes", "-q", "--run-id", "losses")


def _drafted(made: MadeRuns) -> None:
    made.make("drafted", "drafted", code=4)
    made.call("resume", "drafted", "-q", "--answer", f"made={FEEDBACK}", codes=(4,))
    made.call("resume", "drafted", "-q", "--answer", "made=accept")


def _fork(made: MadeRuns) -> None:
    made.run("parent")
    words = ["fork", "parent", "--at", "again", "--run-id", "fork"]
    before = RunRecords(made.state_dir).names()
    made.call(*words[:4], "--set", "steps.first.outputs.words=12", "-r", "tools.yaml", "-q")
    (made_id,) = RunRecords(made.state_dir).names() - before
    made.record(made_id).path.rename(made.state_dir / "runs" / "fork")
    _renamed(made.record("fork"), made_id)


def _renamed(record: RunRecord, old: str) -> None:
    """Give a copy of a record its own id in its events."""
    text = record.events.read_text(encoding="utf-8")
    write_private(record.events, text.replace(f'"run": "{old}"', f'"run": "{record.run_id}"'))


def _killed(made: MadeRuns) -> None:
    process = made.begin("held", "killed", "-i", "gate=killed")
    wait_for((made.folder / "held-killed").exists, "the held step")
    process.kill()
    process.communicate()
    made.open_gate("killed")


def _secret(made: MadeRuns) -> None:
    words = made.words_of("secret", "secret")
    process = made.start(*words, env={"FRACTALE_INPUT_WORD": SECRET})
    out, err = process.communicate()
    assert process.returncode == 0, out + err


KINDS: dict[str, Callable[[MadeRuns], object]] = {
    "steps": lambda made: made.make("steps", "steps"),
    "losses": _losses,
    "back": lambda made: made.make("back", "back"),
    "failed-tool": lambda made: made.make("failed-tool", "failed-tool", code=1),
    "failed-job": lambda made: made.make("failed-job", "failed-job", code=1),
    "approval": lambda made: made.make("approval", "approval", code=4),
    "question": lambda made: made.make("question", "question", code=4),
    "form": lambda made: made.make("form", "form", code=4),
    "foreach": lambda made: made.make("foreach", "foreach"),
    "drafted": _drafted,
    "review": lambda made: made.make("drafted", "review", code=4),
    "parent": lambda made: made.make("steps", "parent", "-i", "text=one two three"),
    "fork": _fork,
    "handlers": lambda made: made.make("handlers", "handlers", code=1),
    "images": lambda made: made.make("images", "images"),
    "table": lambda made: made.make("table", "table", "-a", "lab.TUNE"),
    "jobs": lambda made: made.make("jobs", "jobs"),
    "killed": _killed,
    "secret": _secret,
}
"""The kinds of runs that `MadeRuns.run` makes, each under its own name as id."""


@contextmanager
def made_runs(folder: Path) -> Iterator[MadeRuns]:
    """Runs in a folder; the model's server and what is still running end with the block."""
    with ModelServer(model) as server, forked.forking().ending():
        yield MadeRuns(folder, server)


# -- many runs, and long ones ---------------------------------------------------------------------

BEGIN = 1_795_392_000.0


def many_runs(state_dir: Path, samples: Sequence[RunRecord], count: int = 1000) -> list[str]:
    """Make runs of a state directory: copies of the heads and events of real runs.

    Args:
        samples: Real runs, which are copied in turns.
        count: How many copies; each begins a minute after the one before.

    Returns:
        Their ids, the latest first.
    """
    texts = [
        (each.run_id, each.read_head(), each.events.read_text(encoding="utf-8")) for each in samples
    ]
    runs, ids = state_dir / "runs", [f"m{number:04}" for number in range(count)]
    runs.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number, run_id in enumerate(ids):
        old, head, events = texts[number % len(texts)]
        (folder := runs / run_id).mkdir(mode=0o700)
        started = BEGIN + 60 * number
        (folder / "run.json").write_text(json.dumps({**head, "started": started}))
        (folder / "events.jsonl").write_text(
            events.replace(f'"run": "{old}"', f'"run": "{run_id}"')
        )
        os.utime(folder / "run.json", (started, started))
    return ids[::-1]


def long_run(made: MadeRuns, steps: int = 1000, run_id: str = "long") -> RunRecord:
    """A real run of that many steps, each of which calls a tool; an existing one stays."""
    if (known := RunRecords(made.state_dir).at(run_id)).head.exists():
        return known
    lines = [f"  - {{name: s{i}, tool: look, inputs: {{text: step {i}}}}}" for i in range(steps)]
    text = "\n".join(["name: A long plan", f"limits: {{steps: {steps + 1}}}", "steps:", *lines])
    (made.folder / "plans" / "long.yaml").write_text(f"{text}\n")
    return made.make("long", run_id)


# -- a run in which everything is hostile ----------------------------------------------------------

ESC, BEL, NUL = "\x1b", "\x07", "\0"
MARK = "pwned"
"""What a page's title or its ``window`` would have if any of the texts did something."""

HOSTILE: tuple[str, ...] = (
    f"<script>document.title='{MARK}';window.{MARK}=1</script>",
    f"\"'><img src=x onerror=\"document.title='{MARK}'\"><b onclick=alert(1)>bold</b>",
    f"<svg onload=\"document.title='{MARK}'\"></svg><style>*{{display:none}}</style>",
    f"</pre></details></template></script><script>document.title='{MARK}'</script>",
    f"javascript:document.title='{MARK}' data:text/html,<script>{MARK}</script>",
    f"<a href=\"javascript:document.title='{MARK}'\">x</a> [x](javascript:{MARK})",
    "http://elsewhere.example/steal <img src=http://elsewhere.example/x.png>",
    f"{{{{ 7 * 7 }}}} {{% include '/etc/passwd' %}} ${{{MARK}}} <% {MARK} %>",
    f"{ESC}[31mred{ESC}[0m {ESC}[2J{ESC}[H{ESC}]0;{MARK}{BEL} \r overwritten",
    f"{ESC}]8;;http://elsewhere.example/{ESC}\\link{ESC}]8;;{ESC}\\ {ESC}]52;c;cHduZWQ={BEL}",
    "\u202edesrever\u202c \u2066isolated\u2069 \u200f\u200b\ufeff abc\u0301",
    f"nul{NUL}nul \x7f\x80\x9b31m\x9c \ud7ff\ufffd\U000e0041",
    "[red]markup[/red] [@click=app.quit]quit[/] [link=http://elsewhere.example]x[/link]",
    "漢字 wide 🧪👩‍🔬 zero\u200dwidth " + "\u0336z\u0336a\u0336l\u0336g\u0336o\u0336" * 30,
    "`backticks` **bold** # heading\n- item\n\n\n| a | b |\n|---|---|\n```yaml\n---\n",
    '<form action="http://elsewhere.example"><input name=x></form><base href=//elsewhere.example>',
    '<meta http-equiv="refresh" content="0;url=http://elsewhere.example/"><!-- --> ]]> &amp; &#60;',
)
"""Texts that would do something if a face took them for more than text."""

ATTACKS = "\n".join(HOSTILE)
NOTICES = ("warning", "lost", "failed")
LONG_LINE = 10_000_000
"""Characters of the longest line of the hostile run."""


def hostile_run(state_dir: Path, run_id: str = "hostile", long_line: int = LONG_LINE) -> RunRecord:
    """Write the record of a failed run in which every field of every event is hostile.

    Only what fractale itself chooses (states, outcomes, kinds, numbers, times) is as it always is:
    that is what makes the events count. One that is there already stays.
    """
    if (known := RunRecords(state_dir).at(run_id)).head.exists():
        return known
    record = RunRecords(state_dir).new(run_id)
    outputs = FileOutputs(record.outputs)
    long = "A" * (long_line // 2) + HOSTILE[0] + "B" * (long_line // 2)
    head, entries = _hostile_head(outputs, long), _HostileEvents(outputs, long)
    record.write_head(head)
    write_private(record.plan, f"name: {json.dumps(HOSTILE[0])}\n# {HOSTILE[1]}\nsteps: []\n")
    log = EventLog(record.events)
    for number, (kind, data) in enumerate(entries.events()):
        log(Event(kind, run_id, data, BEGIN + number))  # type: ignore[arg-type]
    log.close()
    record.keep_draft("outer", f"# {ATTACKS.replace(NUL, '')}\nsteps: []\n")
    record.write_output("result", f"{ATTACKS}\n{long}")
    for number in range(3):
        (folder := record.jobs / name_of(f"job-{number}")).mkdir(parents=True)
        text = f"{ATTACKS}\n{long if number == 0 else ''}\n{ATTACKS}\n"
        (folder / "log").write_text(text, encoding="utf-8", errors="replace")
    return record


def by_hash() -> dict[str, str]:
    """The texts as names of tools, each with a hash."""
    return {text: f"{number:064x}" for number, text in enumerate(HOSTILE)}


def hostile_questions(state_dir: Path, run_id: str = "hostile-asks") -> RunRecord:
    """Write the record of a run that waits for answers to hostile questions, one of each kind."""
    if (known := RunRecords(state_dir).at(run_id)).head.exists():
        return known
    record = RunRecords(state_dir).new(run_id)
    outputs = FileOutputs(record.outputs)
    record.write_head(_hostile_head(outputs, "long"))
    write_private(record.plan, "name: asks\nsteps: []\n")
    made = _HostileEvents(outputs, "long")
    (_, begun), *_ = made.events()
    started = {"step": "asks", "attempt": 1, "type": "tool", "target": made.bad}
    asked = made.questions("asks")
    log = EventLog(record.events)
    entries: list[tuple[Any, dict[str, Any]]] = [("run_started", begun), ("step_started", started)]
    entries += [("waiting", {"step": "asks", "question": question}) for question in asked]
    *_, (_, end) = made.events()
    end = {**end, "status": "waiting", "outcome": None, "decided": None, "waiting": asked}
    for number, (kind, data) in enumerate([*entries, ("run_finished", end)]):
        log(Event(kind, run_id, data, BEGIN + number))
    log.close()
    return record


def _hostile_head(outputs: FileOutputs, long: str) -> dict[str, Any]:
    by_text = {text: text for text in HOSTILE}
    return {
        "version": 1,
        "plan": HOSTILE[0],
        "title": HOSTILE[1],
        "file": HOSTILE[6],
        "plan_hash": HOSTILE[2],
        "started": BEGIN,
        "inputs": {**by_text, "long": outputs.put(long), "number": 1e308},
        "versions": by_text,
        "tools": by_text,
        "model": HOSTILE[3],
        "parent": {"run": HOSTILE[4], "step": HOSTILE[5], "attempt": 1, "kept": list(HOSTILE)},
    }


class _HostileEvents:
    """Events of every kind, with every field of `fractale.events` that is free text hostile."""

    def __init__(self, outputs: FileOutputs, long: str) -> None:
        self._outputs = outputs
        self._long = long
        self._next = 0

    @property
    def bad(self) -> str:
        """The next of the texts."""
        self._next += 1
        return HOSTILE[self._next % len(HOSTILE)]

    @property
    def step(self) -> str:
        """A path that leads out of its plan; no step of a real plan may be named so."""
        return self.bad.replace("\n", " ")[:80]

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        steps = [{"name": text, "type": "tool", "target": text} for text in HOSTILE]
        yield (
            "run_started",
            {
                "plan": self.bad,
                "file": self.bad,
                "title": ATTACKS,
                "steps": steps,
                "model": self.bad,
                "resumed": False,
                "limits": {"steps": 10, "cost": 1.0, self.bad: self.bad},
                "bounds": {"max_attempts": 3},
                "parent": {"run": self.bad, "step": self.bad, "attempt": 1, "kept": [self.bad]},
                "versions": {text: text for text in HOSTILE},
            },
        )
        for text in HOSTILE:
            yield from self._step(text, f"job-{HOSTILE.index(text)}")
        yield from self._items()
        yield "warning", {"step": "", "code": self.bad, "message": ATTACKS}
        yield "log", {"step": self.bad, "level": "error", "message": self._long}
        yield from self._end()

    def _step(self, path: str, job: str) -> Iterator[tuple[str, dict[str, Any]]]:
        yield (
            "step_started",
            {
                "step": path,
                "attempt": 1,
                "type": "tool",
                "target": self.bad,
                "description": ATTACKS,
                "previous": self.bad,
            },
        )
        call = {"step": path, "tool": self.bad, "call": 1, "key": f"k-{self._next}"}
        arguments = {text: text for text in HOSTILE} | {"deep": [[{"<b>": self._long[:5000]}]]}
        yield "tool_started", {**call, "arguments": arguments, "agreed": self.bad}
        yield "tool_progress", {**call, "progress": 1, "total": 2, "message": self.bad}
        answer = {"is_error": True, "seconds": 0.1, "text": ATTACKS, "recorded": False}
        yield "tool_finished", {**call, **answer}
        asked = {"step": path, "model": self.bad, "call": 2, "key": f"m-{self._next}"}
        yield "model_started", {**asked, "agent": self.bad}
        yield "model_text", {"step": path, "text": ATTACKS}
        used = {"seconds": 0.2, "input_tokens": 10, "output_tokens": 5, "cost": 0.001}
        used |= {"text": ATTACKS, "recorded": False, "snapshot": self.bad}
        yield "model_finished", {**asked, **used}
        yield "log", {"step": path, "level": "warning", "message": ATTACKS}
        yield "warning", {"step": path, "code": self.bad, "message": ATTACKS}
        yield "job_state", self._job(path, job)
        due = {"began": {"wall": BEGIN, "boot": 1.0, "boot_id": self.bad}, "seconds": 5}
        due |= {"until": BEGIN + 5, "last": None}
        yield "timer", {"step": path, "reason": self.bad, "until": self.bad, "due": due}
        columns = {self.bad: self.bad, "number": 3.5, "<i>": 2, "javascript:x": [self.bad]}
        yield (
            "table",
            {"step": path, "title": self.bad, "rows": [columns, {**columns, "number": 4}]},
        )
        yield from self._questions(path)
        yield (
            "step_finished",
            {
                "step": path,
                "attempt": 1,
                "outcome": "failure",
                "event_name": self.bad,
                "decided_by": self.bad,
                "reason": ATTACKS,
                "error": ATTACKS,
                "code": self.bad,
                "seconds": 1.0,
                "tokens": 15,
                "next": self.bad,
                "notices": [
                    {"kind": kind, "message": self.bad} for kind in ("warning", "lost", "failed")
                ],
                "outputs": {self.bad: self.bad},
                "inputs_ref": {text: text for text in HOSTILE},
                "outputs_ref": {"long": self._outputs.put(self._long), self.bad: ATTACKS},
            },
        )

    def _job(self, path: str, key: str) -> dict[str, Any]:
        handle = {"scheduler": self.bad, "native_id": self.bad, "key": key}
        return {
            "step": path,
            "job": self.bad,
            "scheduler": self.bad,
            "state": "failed",
            "reason": self.bad,
            "line": ATTACKS,
            "nodes": list(HOSTILE),
            "submitted": BEGIN,
            "started": BEGIN + 1,
            "ended": BEGIN + 9,
            "over": True,
            "last_lines": list(HOSTILE),
            "handle": {**handle, "job_dir": f"/nowhere/{self.bad}"},
            "deadline": None,
            "patience": None,
            "timeout": None,
            "began": {"wall": BEGIN, "boot": 1.0, "boot_id": self.bad},
        }

    def _questions(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for question in self.questions(path):
            yield "waiting", {"step": path, "question": question}
            yield (
                "answered",
                {"step": path, "question": question, "answer": self.bad, "by": self.bad},
            )

    def questions(self, path: str) -> list[dict[str, Any]]:
        """One question of each kind."""
        arguments = {text: text for text in HOSTILE}
        origins = [{"argument": self.bad, "from": list(HOSTILE)}]
        call = {"server": self.bad, "tool": self.bad, "arguments": arguments}
        titled = {
            "type": "string",
            "title": self.bad,
            "description": ATTACKS,
            "enum": list(HOSTILE),
        }
        form = {"type": "object", "properties": {self.bad: titled, "n": {"type": "integer"}}}
        follow_up = dict.fromkeys(HOSTILE, self.bad)
        asked = {"text": ATTACKS, "default": None, "free": True}
        kinds: dict[str, dict[str, Any]] = {
            "approval": {**call, "definition": self.bad, "why": ATTACKS, "origins": origins},
            "in_doubt": call,
            "question": {**asked, "choices": list(HOSTILE), "follow_up": follow_up},
            "tool_changed": {"server": self.bad, "tools": by_hash(), "diff": ATTACKS},
            "review": {"plan": ATTACKS, "changes": ATTACKS, "round": 2},
            "elicitation": {"server": self.bad, "message": ATTACKS, "schema": form},
            "job_unknown": {**dict.fromkeys(("job", "scheduler", "reason", "folder"), self.bad)},
            "interrupt": {**call, "agent": self.bad, "value": {self.bad: ATTACKS}, "schema": form},
        }
        return [
            {"id": f"{name}-{self._next}", "kind": name, "step": path, **fields}
            for name, fields in kinds.items()
        ]

    def _items(self) -> Iterator[tuple[str, dict[str, Any]]]:
        block = {"step": "each", "attempt": 1, "type": "tool", "target": self.bad}
        yield "step_started", {**block, "description": self.bad, "previous": None}
        for index in range(3):
            item = {"step": "each", "index": index, "total": 3}
            yield "item_started", {**item, "element": None}
            yield (
                "item_finished",
                {
                    **item,
                    "outcome": "failure",
                    "error": ATTACKS,
                    "decided_by": self.bad,
                    "seconds": 0.5,
                    "inputs_ref": {self.bad: self.bad},
                    "outputs_ref": {self.bad: self.bad},
                },
            )
        ended = {"outcome": "failure", "event_name": "failure", "decided_by": self.bad}
        yield (
            "step_finished",
            {
                "step": "each",
                "attempt": 1,
                **ended,
                "reason": self.bad,
                "error": self.bad,
                "code": None,
                "seconds": 2.0,
                "tokens": 0,
                "next": "failed",
                "notices": [],
                "outputs": [self.bad],
            },
        )

    def _end(self) -> Iterator[tuple[str, dict[str, Any]]]:
        step = {"attempt": 1, "outcome": "failure", "event": self.bad, "decided_by": self.bad}
        job = {"step": self.bad, "job": self.bad, "scheduler": self.bad, "state": "failed"}
        failed = {**job, "reason": self.bad, "seconds": 8.0, "log": f"/nowhere/{self.bad}"}
        jobs = {"job_seconds": 8.0, "queue_seconds": 1.0}
        used = {"input_tokens": 170, "output_tokens": 85, "total_tokens": 255, "cost": 0.017}
        decided = {"step": HOSTILE[0], "by": self.bad, "reason": ATTACKS, "code": self.bad}
        yield (
            "run_finished",
            {
                "status": "failed",
                "outcome": "failure",
                "error": ATTACKS,
                "hint": ATTACKS,
                "decided": {**decided, "jobs": [{**failed, "last_lines": list(HOSTILE)}]},
                "steps": [{**step, "name": text, "error": text} for text in HOSTILE],
                "outputs": {text: text for text in HOSTILE},
                "usage": {**used, "seconds": 30.0, "elapsed": 40.0, **jobs},
                "record": f"/nowhere/{self.bad}",
                "next": [f"fractale show hostile {self.bad}"],
                "waiting": [],
                "output_files": {text: f"/nowhere/{text}" for text in HOSTILE},
                "notices": [
                    {"step": self.bad, "kind": kind, "message": ATTACKS}
                    for kind in ("warning", "lost")
                ],
                "left_out": list(HOSTILE),
                "finally_due": True,
            },
        )


def inert(text: str, allowed: Mapping[str, int] | None = None) -> list[str]:
    """The control characters in a text for a terminal, other than line ends; none is right."""
    kept = {"\n", "\t", *(allowed or {})}
    marks = {*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)}
    return sorted({repr(each) for each in text if ord(each) in marks and each not in kept})
