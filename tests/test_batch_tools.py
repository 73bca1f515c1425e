"""The shipped local tools: batch scripts, LAMMPS logs and files, on real files."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fractale.schedulers.flux import times as flux_times
from fractale.schedulers.lsf import times as lsf_times
from fractale.schedulers.pbs import times as pbs_times
from fractale.schedulers.slurm import times as slurm_times
from fractale.tools.batch import (
    check_directives,
    read_batch_script,
    take_over_directives,
    translate_batch_script,
    validate_batch_script,
)
from fractale.tools.files import read_text_file, write_text_file
from fractale.tools.lammps import read_lammps_log

DATA = Path(__file__).parent.parent / "plans" / "data"
SCRIPT = (DATA / "lammps-reaxff.sbatch").read_text()
LOG = (DATA / "lammps-lj.log").read_text()
ASKED = ["nodes", "ntasks", "time", "partition", "job-name"]
RIGHT = {
    "nodes": 1,
    "ntasks": 64,
    "time": "00:01:40",
    "partition": "pbatch",
    "job-name": "lammps",
}

PBS = """#!/bin/bash
#PBS -N vasp
#PBS -l select=2:ncpus=32:mpiprocs=16:ngpus=4
#PBS -l walltime=1:30:00
#PBS -q workq -A chem
cd $PBS_O_WORKDIR
mpirun vasp_std
"""
LSF = """#!/bin/bash
#BSUB -J amber
#BSUB -n 40
#BSUB -W 1:30
#BSUB -R "span[ptile=20]"
#BSUB -o out.%J
pmemd.MPI -O
"""
SLURM_SHORT = """#!/bin/bash
#SBATCH -N 2 -n8   # two options and a comment
#SBATCH -t 2-12
#SBATCH -J md --gres=gpu:a100:4

#SBATCH --exclusive
srun -n 8 gmx mdrun
#SBATCH --nodes=9
echo $SLURM_JOB_ID
"""


class TestRead:
    def test_facts_of_the_shipped_script(self):
        read = read_batch_script(SCRIPT)
        assert read["manager"] == "slurm"
        assert read["facts"] == {
            "nodes": 1,
            "tasks": 64,
            "seconds": 100,
            "queue": "pbatch",
            "output": "job.{{id}}.out",
            "error": "job.{{id}}.err",
            "job_name": "lammps",
        }
        assert [(d["line"], d["option"]) for d in read["without_counterpart"]] == [
            (5, "cpu-bind"),
            (7, "container-image"),
        ]

    def test_short_options_comments_and_the_end_of_the_header(self):
        read = read_batch_script(SLURM_SHORT)
        assert read["facts"] == {
            "nodes": 2,
            "tasks": 8,
            "seconds": 2 * 86400 + 12 * 3600,
            "job_name": "md",
            "gpus_per_node": 4,
            "exclusive": True,
        }

    def test_pbs_resource_lists(self):
        facts = read_batch_script(PBS)["facts"]
        assert facts == {
            "job_name": "vasp",
            "nodes": 2,
            "cores_per_node": 32,
            "tasks_per_node": 16,
            "gpus_per_node": 4,
            "seconds": 5400,
            "queue": "workq",
            "account": "chem",
        }

    def test_lsf(self):
        facts = read_batch_script(LSF)["facts"]
        assert facts == {
            "job_name": "amber",
            "tasks": 40,
            "seconds": 5400,
            "tasks_per_node": 20,
            "output": "out.{{id}}",
        }

    @pytest.mark.parametrize(
        ("script", "words"),
        [
            ("#!/bin/bash\necho hello\n", "no #SBATCH"),
            ("#!/bin/bash\n#SBATCH -N 1\n#PBS -N x\nls\n", "slurm and pbs"),
            ("#!/bin/bash\n#SBATCH nodes\nls\n", "line 2: `nodes` is not an option"),
            ('#!/bin/bash\n#SBATCH --job-name="x\nls\n', "line 2: No closing quotation"),
        ],
    )
    def test_what_cannot_be_read_says_why(self, script, words):
        with pytest.raises(ValueError, match=words):
            read_batch_script(script)

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("--nodes=2-4", "`2-4` is not one whole number"),
            ("--output=out.%N", "`%N` in a file name has no counterpart"),
            ("--gres=fpga:1", "`fpga:1` has no counterpart"),
            ("--time=soon", "`soon` is not a time"),
            ("--exclusive=user", "`=user` has no counterpart"),
        ],
    )
    def test_a_value_without_counterpart_is_kept_with_its_reason(self, line, words):
        read = read_batch_script(f"#!/bin/bash\n#SBATCH -J x\n#SBATCH {line}\nls\n")
        assert [words in d["problem"] for d in read["without_counterpart"]] == [True]
        assert list(read["facts"]) == ["job_name"]


class TestDurations:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [("90", 5400), ("1:30", 90), ("00:01:40", 100), ("2-12", 216000), ("1-02:03", 93780)],
    )
    def test_slurm(self, text, seconds):
        assert slurm_times.read_time(text) == seconds

    @pytest.mark.parametrize(
        ("text", "seconds"), [("5", 300), ("90s", 90), ("1.5h", 5400), ("2d", 172800)]
    )
    def test_flux(self, text, seconds):
        assert flux_times.read_time(text) == seconds

    @pytest.mark.parametrize(
        ("read", "text"),
        [
            (slurm_times.read_time, "1:2:3:4"),
            (flux_times.read_time, "1:30"),
            (pbs_times.read_time, "1h"),
            (lsf_times.read_time, "1:2:3"),
        ],
    )
    def test_other_forms_are_refused(self, read, text):
        with pytest.raises(ValueError, match=r"is not a time such as"):
            read(text)

    @given(st.integers(1, 10**7))
    def test_what_is_written_is_read_back(self, seconds):
        assert slurm_times.read_time(slurm_times.write_time(seconds)) == seconds
        assert flux_times.read_time(flux_times.write_time(seconds)) == seconds


class TestCheck:
    def test_right_claims_are_valid_and_become_facts(self):
        checked = check_directives(SCRIPT, RIGHT, ASKED, "model, try 1")
        assert checked["valid"] is True
        assert checked["missing"] == []
        assert "error" not in checked
        assert checked["facts"]["seconds"] == 100
        assert set(checked["supplied_by"].values()) == {"model, try 1"}

    def test_a_wrong_claim_is_answered_with_the_line_that_contradicts_it(self):
        checked = check_directives(SCRIPT, {**RIGHT, "ntasks": 1, "job-name": "lammps-reax"})
        assert checked["valid"] is False
        assert checked["missing"] == ["ntasks", "job-name"]
        assert checked["error"] == (
            "line 3 says ntasks is 64, not 1, line 10 says job-name is lammps, not lammps-reax"
        )

    @pytest.mark.parametrize("time", ["00:01:40", "0:1:40", 100])
    def test_the_same_time_in_another_form_is_right(self, time):
        assert check_directives(SCRIPT, {"time": time})["valid"]

    @pytest.mark.parametrize(
        "claim",
        [{"time": "3600"}, {"time": "about a minute"}, {"nodes": "one"}, {"queue": "debug"}],
    )
    def test_other_values_are_wrong(self, claim):
        assert not check_directives(SCRIPT, claim)["valid"]

    def test_options_are_found_by_long_short_and_neutral_name(self):
        claims = {"n": 64, "tasks": 64, "ntasks": 64, "job_name": "lammps"}
        assert check_directives(SCRIPT, claims)["valid"]

    def test_what_was_right_stays_right(self):
        first = check_directives(SCRIPT, {**RIGHT, "ntasks": 1}, ASKED, "try 1")
        second = check_directives(SCRIPT, {"nodes": 7, "ntasks": 64}, ASKED, "try 2", first)
        assert second["valid"] is True
        assert second["supplied_by"]["nodes"] == "try 1"
        assert second["supplied_by"]["tasks"] == "try 2"

    def test_silence_is_not_valid(self):
        checked = check_directives(SCRIPT, {}, ASKED)
        assert checked["missing"] == ASKED
        assert checked["error"].startswith("line 2 says nodes is 1, ")

    def test_a_claim_about_an_option_that_is_not_there(self):
        assert check_directives(SCRIPT, {"account": "chem"})["error"] == (
            "no line says what account is"
        )
        assert check_directives(SCRIPT, {"account": None})["valid"]

    def test_the_parser_takes_over_what_is_missing_and_says_so(self):
        checked = check_directives(SCRIPT, {**RIGHT, "ntasks": 1}, ASKED, "model")
        taken = take_over_directives(SCRIPT, checked["missing"], checked, "parser")
        assert taken["taken_over"] == ["tasks"]
        assert taken["facts"]["tasks"] == 64
        assert taken["supplied_by"] == {
            "nodes": "model",
            "tasks": "parser",
            "seconds": "model",
            "queue": "model",
            "job_name": "model",
        }


class TestTranslate:
    def test_slurm_to_flux(self):
        answer = translate_batch_script(SCRIPT)
        assert answer["script"] == (
            "#!/bin/bash\n"
            "#FLUX: --nodes=1\n"
            "#FLUX: --nslots=64\n"
            "#FLUX: --time-limit=100s\n"
            "#FLUX: --queue=pbatch\n"
            "#FLUX: --job-name=lammps\n"
            "#FLUX: --output=job.{{id}}.out\n"
            "#FLUX: --error=job.{{id}}.err\n"
            "\n"
            "lmp -v x 8 -v y 8 -v z 8 -in in.reaxc.hns -nocite\n"
        )
        assert [text.split(" (")[0] for text in answer["not_translated"]] == [
            "line 5: --cpu-bind=cores",
            "line 7: --container-image=ghcr.io/converged-computing/lammps-reax:ubuntu22.04",
        ]

    def test_the_credits_say_who_read_what(self):
        known = {"facts": {"tasks": 64}, "supplied_by": {"tasks": "model, try 2"}}
        told = translate_batch_script(SCRIPT, "flux", known)["credits"]
        assert "line 3: tasks = 64, read by model, try 2" in told
        assert "line 2: nodes = 1, read by the parser" in told

    def test_what_is_known_is_written_even_if_it_is_wrong_and_then_found(self):
        known = {"facts": {"tasks": 8}, "supplied_by": {"tasks": "somebody"}}
        script = translate_batch_script(SCRIPT, "flux", known)["script"]
        found = validate_batch_script(script, SCRIPT)
        assert found["errors"] == ["tasks is 8, but the original asks for 64"]

    def test_resources_per_node_become_slots(self):
        script = translate_batch_script(PBS)["script"]
        for directive in ("--nodes=2", "--nslots=32", "--cores-per-slot=2", "--bank=chem"):
            assert f"#FLUX: {directive}\n" in script

    def test_what_does_not_divide_is_told(self):
        assert (
            "gpus_per_node 4 (does not divide evenly over 32 tasks)"
            in (translate_batch_script(PBS)["not_translated"])
        )

    @pytest.mark.parametrize("manager", ["flux", "slurm"])
    def test_slots_and_slots_per_host_make_hosts(self, manager):
        """Else the tasks of an LSF job would come to lie on any number of nodes."""
        assert "--nodes=2\n" in translate_batch_script(LSF, manager)["script"]

    def test_what_flux_lacks_is_not_told_of_slurm(self):
        pbs = PBS.replace("ngpus=4", "mem=4gb")
        (told,) = translate_batch_script(pbs, "slurm")["not_translated"]
        assert told == "line 3: mem=4gb (has no counterpart that fractale knows)"

    def test_a_script_of_that_manager_already_is_not_rewritten(self):
        """It would lose what only its manager knows."""
        with pytest.raises(ValueError, match="one of slurm already"):
            translate_batch_script(SCRIPT, "slurm")

    def test_only_what_fractale_can_write(self):
        with pytest.raises(ValueError, match="not for `lsf`"):
            translate_batch_script(SCRIPT, "lsf")

    @given(
        nodes=st.integers(1, 9000),
        per_node=st.integers(1, 128),
        seconds=st.integers(60, 10**6),
        name=st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    )
    @settings(max_examples=50, deadline=None)
    def test_there_and_back_asks_for_the_same(self, nodes, per_node, seconds, name):
        slurm = (
            f"#!/bin/bash\n#SBATCH -N {nodes}\n#SBATCH -n {nodes * per_node}\n"
            f"#SBATCH -t {slurm_times.write_time(seconds)}\n#SBATCH -J {name}\n\nmake run\n"
        )
        flux = translate_batch_script(slurm, "flux")["script"]
        back = translate_batch_script(flux, "slurm")["script"]
        assert read_batch_script(back)["facts"] == read_batch_script(slurm)["facts"]


class TestValidate:
    def test_a_true_translation(self):
        found = validate_batch_script(translate_batch_script(SCRIPT)["script"], SCRIPT)
        assert found["valid"] is True
        assert "errors" not in found

    @pytest.mark.parametrize(
        ("before", "after", "words"),
        [
            ("--nslots", "--nslot", "no option --nslot=64; did you mean --nslots?"),
            ("100s", "1:40", "`1:40` is not a time"),
            ("#FLUX: --nodes=1\n", "#FLUX: --nodes=1\n#SBATCH --ntasks=64\n", "of slurm and flux"),
            ("-v x 8", "-v x 9", "not those of the original"),
            ("#FLUX: --queue=pbatch\n", "", "queue is not set, but the original asks for pbatch"),
            ("#FLUX: --queue", "#FLUX: --bank=a\n#FLUX: --queue", "account is set, but not in"),
            ("#!/bin/bash\n", "", "does not begin with #!"),
            ("lmp", "#SBATCH --nodes=1\nlmp", "slurm and flux"),
            ("-nocite", "-nocite\n#SBATCH --nodes=1", "still in the script"),
        ],
    )
    def test_a_damaged_one(self, before, after, words):
        script = translate_batch_script(SCRIPT)["script"]
        assert before in script
        found = validate_batch_script(script.replace(before, after, 1), SCRIPT)
        assert found["valid"] is False
        assert any(words in error for error in found["errors"])

    def test_a_translation_that_did_not_happen(self):
        assert validate_batch_script("#!/bin/bash\nlmp -in in.lj\n")["valid"] is False

    @pytest.mark.parametrize(
        ("directives", "words"),
        [
            ("--job-name=x", "flux batch needs one of them"),
            ("-N 4 -n 2", "--nodes=4 is more than --nslots=2"),
            ("-n 2 --exclusive", "--exclusive needs --nodes"),
        ],
    )
    def test_what_flux_batch_refuses(self, directives, words):
        found = validate_batch_script(f"#!/bin/sh\n#flux: {directives}\nls\n")
        assert any(words in error for error in found["errors"])

    def test_directives_of_flux_without_a_meaning_elsewhere_are_known(self):
        script = "#!/bin/sh\n#flux: -N1 -o cpu-affinity=per-task --setattr=user.a=1\nls\n"
        assert validate_batch_script(script)["valid"] is True

    @pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
    def test_broken_shell_syntax(self):
        found = validate_batch_script("#!/bin/bash\n#SBATCH -N 1\nif true; then\n")
        assert any("line 4" in error or "line 3" in error for error in found["errors"])

    def test_another_language_is_not_given_to_bash(self):
        script = "#!/usr/bin/env python3\n#flux: -N1\nif True: print('(')\n"
        assert validate_batch_script(script)["valid"] is True

    def test_commands_of_the_old_manager_are_pointed_out(self):
        script = translate_batch_script(SLURM_SHORT)["script"]
        warnings = validate_batch_script(script)["warnings"]
        assert any("srun" in text for text in warnings)
        assert any("SLURM_" in text for text in warnings)


class TestLammpsLog:
    def test_figures_of_the_shipped_log(self):
        read = read_lammps_log(LOG)
        (run,) = read["runs"]
        assert run["atoms"] == 32000
        assert run["steps"] == 100
        assert run["mpi_tasks"] == 2
        assert read["atom_steps_per_second"] == run["atom_steps_per_second"] == 5.744e6
        for line in run["evidence"]:
            number, text = line.split(": ", 1)
            assert LOG.splitlines()[int(number) - 1].strip() == text

    def test_a_log_without_a_rate_computes_it(self):
        lines = [line for line in LOG.splitlines() if not line.startswith("Performance")]
        (run,) = read_lammps_log("\n".join(lines))["runs"]
        assert run["atom_steps_per_second"] == pytest.approx(5.744e6, rel=1e-3)

    def test_two_runs_keep_their_own_figures(self):
        read = read_lammps_log(LOG + LOG.replace("2 MPI tasks", "4 MPI tasks"))
        assert [run["mpi_tasks"] for run in read["runs"]] == [2, 4]

    @pytest.mark.parametrize(
        ("before", "after", "words"),
        [
            ("Loop time", "Time", "no run in it has finished"),
            ("5.744 Matom", "9.744 Matom", "32000 atoms x 100 steps"),
            ("Total wall", "ERROR: Lost atoms\nTotal wall", "ERROR: Lost atoms"),
        ],
    )
    def test_a_torn_or_edited_log_is_refused(self, before, after, words):
        with pytest.raises(ValueError, match=words):
            read_lammps_log(LOG.replace(before, after))


class TestFiles:
    def test_write_then_read(self, tmp_path):
        path = str(tmp_path / "new" / "job.sh")
        assert write_text_file(path, "a\nb\n") == {"path": path, "lines": 2}
        assert read_text_file(path) == {"text": "a\nb\n", "lines": 2}

    def test_what_is_no_text_file(self, tmp_path):
        (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
        (tmp_path / "large").write_bytes(b"x" * (4 * 1024 * 1024 + 1))
        with pytest.raises(ValueError, match="there is no file"):
            read_text_file(str(tmp_path / "absent"))
        with pytest.raises(ValueError, match="not UTF-8"):
            read_text_file(str(tmp_path / "binary"))
        with pytest.raises(ValueError, match="at most"):
            read_text_file(str(tmp_path / "large"))
        with pytest.raises(ValueError, match="is a folder"):
            write_text_file(str(tmp_path), "x")
