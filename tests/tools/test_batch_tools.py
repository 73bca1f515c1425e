"""The shipped local tools: batch scripts, LAMMPS logs and files, on real files."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fractale.schedulers.flux import times as flux_times
from fractale.schedulers.lsf import times as lsf_times
from fractale.schedulers.pbs import times as pbs_times
from fractale.schedulers.slurm import times as slurm_times
from fractale.tools.batch import (
    check_directives,
    find_batch_scripts,
    read_batch_script,
    summarize_translations,
    take_over_directives,
    translate_batch_script,
    validate_batch_script,
)
from fractale.tools.files import read_text_file, write_text_file
from fractale.tools.lammps import read_lammps_log
from fractale.tools.validators import validate_jobspec

DATA = Path(__file__).parents[2] / "plans" / "data"
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
            (5, "hint"),
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
            "gpu_kind": "a100",
            "exclusive": True,
        }

    def test_pbs_resource_lists(self):
        read = read_batch_script(PBS)
        assert read["facts"]["chunks"] == [{"cores": 32, "count": 2, "gpus": 4, "tasks": 16}]
        assert read["totals"] == {"nodes": None, "tasks": 32, "cores": 64, "gpus": 8, "memory": 0}
        assert {
            "job_name": "vasp",
            "seconds": 5400,
            "queue": "workq",
            "account": "chem",
        }.items() <= (read["facts"].items())

    def test_lsf(self):
        read = read_batch_script(LSF)
        assert read["totals"]["nodes"] == 2
        wanted = {
            "job_name": "amber",
            "tasks": 40,
            "seconds": 5400,
            "tasks_per_node": 20,
            "output": "out.{{id}}",
        }
        assert wanted.items() <= read["facts"].items()

    def test_a_script_without_directives_says_so(self):
        with pytest.raises(ValueError, match="no #SBATCH"):
            read_batch_script("#!/bin/bash\necho hello\n")

    @pytest.mark.parametrize("line", ["nodes", "--ntaks=2", "--mem=4Gigs", "--time=soon"])
    def test_what_its_manager_refuses_is_told_with_its_line(self, line):
        (told,) = read_batch_script(f"#!/bin/bash\n#SBATCH {line}\nls\n")["invalid"]
        assert told.startswith(f"line 2: `{line}`: ")

    @pytest.mark.parametrize("line", ["--nice=7", "--core-spec=2"])
    def test_what_has_no_counterpart_is_kept_with_its_reason(self, line):
        read = read_batch_script(f"#!/bin/bash\n#SBATCH -J x\n#SBATCH {line}\nls\n")
        (told,) = read["without_counterpart"]
        assert told["problem"]
        assert read["invalid"] == []
        assert read["facts"] == {"job_name": "x"}

    def test_of_several_managers_the_first_counts_unless_one_is_named(self):
        script = "#!/bin/bash\n#PBS -N one\n#SBATCH -J two\nls\n"
        read = read_batch_script(script)
        assert (read["manager"], read["facts"]["job_name"]) == ("pbs", "one")
        assert read["remarks"]
        assert read_batch_script(script, "slurm")["manager"] == "slurm"


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
        header, _, body = answer["script"].partition("\n\n")
        assert header.splitlines()[0] == "#!/bin/bash"
        assert set(header.splitlines()[1:]) == {
            "#FLUX: --nodes=1",
            "#FLUX: --nslots=64",
            "#FLUX: --time-limit=100s",
            "#FLUX: --queue=pbatch",
            "#FLUX: --job-name=lammps",
            "#FLUX: --output=job.{{id}}.out",
            "#FLUX: --error=job.{{id}}.err",
        }
        assert body == "lmp -v x 8 -v y 8 -v z 8 -in in.reaxc.hns -nocite\n"
        assert [text.split(" (")[0] for text in answer["not_translated"]] == [
            "line 5: --hint=nomultithread",
            "line 7: --container-image=ghcr.io/converged-computing/lammps-reax:ubuntu22.04",
        ]
        assert answer["valid"] is True
        assert "errors" not in answer

    def test_the_credits_say_who_read_what(self):
        known = {"facts": {"tasks": 64}, "supplied_by": {"tasks": "model, try 2"}}
        told = translate_batch_script(SCRIPT, "flux", known)["credits"]
        assert "line 3: tasks = 64, read by model, try 2" in told
        assert "line 2: nodes = 1, read by the parser" in told

    def test_what_is_known_is_written_even_if_it_is_wrong_and_then_found(self):
        known = {"facts": {"tasks": 8}, "supplied_by": {"tasks": "somebody"}}
        answer = translate_batch_script(SCRIPT, "flux", known)
        found = validate_batch_script(answer["script"], SCRIPT, answer["losses"])
        assert "it asks for 8 tasks, the original for 64" in found["errors"]

    def test_what_is_known_must_be_something_that_a_script_says(self):
        with pytest.raises(ValueError, match="`color` is not a fact"):
            translate_batch_script(SCRIPT, "flux", {"facts": {"color": "red"}})

    @pytest.mark.parametrize("manager", ["flux", "slurm"])
    def test_slots_and_slots_per_host_make_hosts(self, manager):
        """Else the tasks of an LSF job would come to lie on any number of nodes."""
        assert "--nodes=2\n" in translate_batch_script(LSF, manager)["script"]

    def test_what_flux_lacks_is_written_for_slurm(self):
        pbs = PBS.replace("ngpus=4", "mem=4gb")
        answer = translate_batch_script(pbs, "slurm")
        assert answer["not_translated"] == []
        assert "--mem" in answer["script"]

    def test_a_script_of_that_manager_already_is_not_rewritten(self):
        """It would lose what only its manager knows."""
        with pytest.raises(ValueError, match="one of slurm already"):
            translate_batch_script(SCRIPT, "slurm")

    @pytest.mark.parametrize(
        "line", ["#SBATCH -n 1 -D sub", "#FLUX: -n1 --cwd=sub", "#BSUB -cwd sub"]
    )
    async def test_what_the_commands_say_is_told_too(self, line):
        """PBS has no option for the folder of a job."""
        script = f"#!/bin/bash\n{line}\n./solve\n"
        answer = translate_batch_script(script, "pbs")
        assert [each["what"] for each in answer["told"]] == ["workdir"]
        assert answer["not_translated"] == []
        said = await validate_jobspec(answer["script"], "pbs", script, answer["told"])
        assert said["valid"], said

    def test_a_name_that_lsf_needs_for_an_array_is_no_difference(self):
        script = "#!/bin/bash\n#SBATCH -n 1 --array=1-3\n./solve\n"
        answer = translate_batch_script(script, "lsf")
        assert validate_batch_script(answer["script"], script, answer["told"])["valid"]


class TestManyScripts:
    def test_a_pattern_finds_each_file_once_and_names_the_new_ones(self, tmp_path):
        for name in ("b/run.sbatch", "a/run.sbatch", "a/other.txt"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(SCRIPT)
        pattern = f"{tmp_path}/*/*.sbatch"
        found = find_batch_scripts([pattern, f"{tmp_path}/a/run.sbatch"], "pbs", f"{tmp_path}/out/")
        assert found["count"] == 2
        assert [each["file"] for each in found["scripts"]] == [
            f"{tmp_path}/a/run.sbatch",
            f"{tmp_path}/b/run.sbatch",
        ]
        assert [each["output"] for each in found["scripts"]] == [
            f"{tmp_path}/out/run.pbs.sh",
            f"{tmp_path}/out/run-2.pbs.sh",
        ]

    def test_one_script_goes_into_the_file_that_is_named(self, tmp_path):
        (tmp_path / "job.sh").write_text(SCRIPT)
        job = str(tmp_path / "job.sh")
        (one,) = find_batch_scripts(job, "flux", str(tmp_path / "new.sh"))["scripts"]
        assert one["output"] == str(tmp_path / "new.sh")
        (own,) = find_batch_scripts(job, "flux", "", "runs/x")["scripts"]
        assert own["output"] == "runs/x/job.flux.sh"
        with pytest.raises(ValueError, match="would overwrite"):
            find_batch_scripts(job, "flux", job)

    def test_a_list_of_the_command_line(self, tmp_path):
        for name in ("a.sh", "b.sh"):
            (tmp_path / name).write_text(SCRIPT)
        listed = f'["{tmp_path}/a.sh", "{tmp_path}/b.sh"]'
        assert find_batch_scripts(listed, "flux", f"{tmp_path}/o/")["count"] == 2

    def test_what_cannot_be(self, tmp_path):
        for name in ("a.sh", "b.sh"):
            (tmp_path / name).write_text(SCRIPT)
        with pytest.raises(ValueError, match="is not a directory, and 2 scripts"):
            find_batch_scripts(f"{tmp_path}/*.sh", "flux", f"{tmp_path}/one")
        with pytest.raises(ValueError, match="no file matches"):
            find_batch_scripts(f"{tmp_path}/*.job")

    def test_the_summary_has_a_line_each_and_one_for_all(self):
        scripts = [{"file": name, "output": f"{name}.new"} for name in ("a", "b")]
        done = {
            "jobspec": "x",
            "lost": ["line 2: --nice"],
            "notes": ["the ids are others"],
            "remains": [],
            "validated_by": "sbatch",
            "note": "",
            "file": "a.new",
        }
        said = summarize_translations(scripts, [done, {"error": "no size\nmore"}])
        assert said["summary"] == [
            "a → a.new: valid, 1 lost (sbatch)",
            "b: failed: no size",
            "1 of 2 translated, 1 with losses, 1 failed",
        ]
        assert (said["translated"], said["failed"]) == (1, 1)
        assert said["lost"] == "a: line 2: --nice"
        assert said["notes"] == "a: the ids are others"


class TestValidate:
    def test_a_true_translation(self):
        answer = translate_batch_script(SCRIPT)
        found = validate_batch_script(answer["script"], SCRIPT, answer["losses"])
        assert found["valid"] is True, found
        assert "errors" not in found

    @pytest.mark.parametrize(
        ("before", "after", "words"),
        [
            ("--nslots", "--nslot", "`--nslot=64`: "),
            ("100s", "1:40", "1:40"),
            ("#FLUX: --nodes=1\n", "#FLUX: --nodes=1\n#SBATCH --ntasks=64\n", "still in it"),
            ("-v x 8", "-v x 9", "is missing"),
            ("#FLUX: --queue=pbatch\n", "", "--partition=pbatch, is neither translated"),
            ("#FLUX: --queue", "#FLUX: --bank=a\n#FLUX: --queue", "account is set, but not in"),
            ("#!/bin/bash\n", "", "does not begin with #!"),
            ("-nocite", "-nocite\n#SBATCH --nodes=1", "still in it"),
        ],
    )
    def test_a_damaged_one(self, before, after, words):
        answer = translate_batch_script(SCRIPT)
        script = answer["script"]
        assert before in script
        damaged = script.replace(before, after, 1)
        found = validate_batch_script(damaged, SCRIPT, answer["losses"])
        assert found["valid"] is False
        assert any(words in error for error in found["errors"]), found["errors"]

    def test_a_translation_that_did_not_happen(self):
        assert validate_batch_script("#!/bin/bash\nlmp -in in.lj\n")["valid"] is False


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
        with pytest.raises(ValueError, match="not found"):
            read_text_file(str(tmp_path / "absent"))
        with pytest.raises(ValueError, match="not UTF-8"):
            read_text_file(str(tmp_path / "binary"))
        with pytest.raises(ValueError, match="at most"):
            read_text_file(str(tmp_path / "large"))
        with pytest.raises(ValueError, match="is a directory"):
            write_text_file(str(tmp_path), "x")
