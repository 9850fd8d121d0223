"""Launch scripts for GPUs, SLURM, TPUs and Kubernetes, run against stand-ins only."""

import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from checkout import ROOT, Checkout

TRAIN = ("--config", "configs/a.py", "--workdir", "runs/a b")
TPU = (
    *("launch/tpu.sh", "--name", "blt", "--zone", "us-east1-d", "--type", "v4-32"),
    *("--config", "configs/a.py", "--workdir", "/mnt/runs/a b"),
)
KUBERNETES = (
    *("launch/kubernetes.sh", "--name", "blt", "--image", "here/blt:1"),
    *(
        "--config",
        "configs/a.py",
        "--workdir",
        "/workspace/runs/it's",
        "--claim",
        "7.x",
    ),
)
COMPLETE = {
    "launch/gpu.sh": ("launch/gpu.sh", *TRAIN),
    "launch/slurm.sh": ("launch/slurm.sh", *TRAIN),
    "launch/tpu.sh": TPU,
    "launch/kubernetes.sh": KUBERNETES,
}
MORE = ("--", "--config.note=two words", "--config.seed=$((1))")

# Notes its call in a line, then does what the next line of its file in $ANSWERS says:
# exit code, text. For gcloud the verb is part of the name.
STAND_IN = """#!/usr/bin/env bash
name=${0##*/}
[[ $name != gcloud ]] || name=$4
{ printf '%s' "$name"; printf ' %q' "$@"; printf '\\n'; } >>"$CALLS"
case "$*" in
  *"-m venv"*)
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python
    cp "$0" .venv/bin/blt-jax
    ;;
  "apply -f -") cat >"$ANSWERS/stdin" ;;
esac
[[ $name != sbatch ]] || cat >"$ANSWERS/stdin"
[[ -s $ANSWERS/$name ]] || exit 0
{ read -r code text; rest=$(cat); } <"$ANSWERS/$name"
printf '%s' "${rest:+$rest
}" >"$ANSWERS/$name"
[[ -z $text ]] || printf '%s\\n' "$text"
exit "$code"
"""
# Two that start another program: srun its tasks (here one), flock what is locked.
SRUN = '#!/usr/bin/env bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n'
FLOCK = '#!/usr/bin/env bash\nshift\nexec "$@"\n'


class Site(Checkout):
    """A checkout whose programs answer as a test says."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.answers = folder / "answers"
        self.answers.mkdir()
        self.environment = {
            "PATH": str(self.programs),
            "CALLS": str(self.calls),
            "ANSWERS": str(self.answers),
        }
        self.add("python3.11", STAND_IN)
        (self.root / "configs").mkdir()
        (self.root / "configs" / "a.py").touch()

    def answer(self, name: str, *lines: object) -> None:
        (self.answers / name).write_text("".join(f"{line}\n" for line in lines))

    def launch(self, *command: str) -> subprocess.CompletedProcess[str]:
        return self.run(*command, ANSWERS=str(self.answers))

    def bash(self, script: str, folder: Path) -> subprocess.CompletedProcess[str]:
        """What a node does with the script it was sent."""
        self.calls.write_text("")
        return subprocess.run(
            ["bash", "-s"],
            input=script,
            env={**self.environment, "SLURM_JOB_ID": "7"},
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
        )

    def called(self, *names: str) -> list[str]:
        """The calls of these programs in order, as they were given."""
        lines = self.calls.read_text().splitlines()
        return [line for line in lines if line.split(" ", 1)[0] in names]

    def files(self) -> set[Path]:
        return set(self.root.parent.rglob("*")) - {self.calls}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def set_up_lines(extras: str) -> str:
    escaped = extras.replace(",", "\\,")
    return f"""\
making .venv with python3.11
+ python3.11 -m venv --clear .venv
installing blt-jax[{extras}] into .venv; this takes a minute or two
+ .venv/bin/python -m pip install --quiet --disable-pip-version-check \
-c constraints.txt -e .\\[{escaped}\\]
"""


GPU_DRY_RUN = f"""\
{set_up_lines("fast")}\
+ .venv/bin/blt-jax train --config=configs/a.py --workdir=runs/a\\ b \
--config.note=two\\ words --config.seed=\\$\\(\\(1\\)\\)
"""

SLURM_JOB = """\
#!/usr/bin/env bash
set -euo pipefail
code=0
srun --kill-on-bad-exit=0 --wait=60 --cpus-per-task=8 --gpu-bind=none \\
  .venv/bin/blt-jax train --config=configs/a.py --workdir=runs/a\\ b \
--config.note=two\\ words --config.seed=\\$\\(\\(1\\)\\) --distributed || code=$?
if ((code == 75)); then
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""
SLURM_DRY_RUN = f"""\
{set_up_lines("fast,cuda13")}\
+ mkdir -p runs
+ sbatch --job-name=blt-jax --nodes=2 --gpus-per-node=4 --ntasks-per-node=4 \
--cpus-per-task=8 --requeue --signal=TERM@180 --output=runs/slurm-%j.log \
--open-mode=append --time=24:00:00 --partition=gpu --account=us
{SLURM_JOB}"""

TPU_WORKER = """\
set -euo pipefail
trap '(($? != 1)) || exit 70' EXIT # 1 would look like a broken connection
mkdir -p blt_jax
tar -xzf blt.tar.gz -C blt_jax
cd blt_jax
mount_it
source launch/setup.sh
# The Python of Ubuntu 22.04, which the TPU software comes with, is too old.
if ! (find_python) >/dev/null 2>&1; then
  sudo apt-get -qq update
  sudo apt-get -qq -y -o DPkg::Lock::Timeout=300 install python3.11-venv
fi
set_up fast tpu
flock run.lock .venv/bin/blt-jax train --config=configs/a.py \
--workdir=/mnt/runs/a\\ b --config.note=two\\ words --config.seed=\\$\\(\\(1\\)\\) \
--distributed
"""
TPU_DRY_RUN = f"""\
+ mkdir -p runs
+ git archive --output=runs/blt.tar.gz HEAD
+ gcloud compute tpus tpu-vm describe blt --format=value\\(state\\) --quiet \
--zone=us-east1-d --project=us
+ gcloud compute tpus tpu-vm create blt --accelerator-type=v4-32 \
--version=tpu-ubuntu2204-base --spot --quiet --zone=us-east1-d --project=us
+ gcloud compute tpus tpu-vm scp runs/blt.tar.gz runs/blt.sh blt: --worker=all --quiet \
--zone=us-east1-d --project=us
+ gcloud compute tpus tpu-vm ssh blt --worker=all --command=bash\\ blt.sh --quiet \
--zone=us-east1-d --project=us
+ gcloud compute tpus tpu-vm delete blt --quiet --zone=us-east1-d --project=us
{TPU_WORKER}"""

JOB_SET = """\
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: 'blt'
spec:
  network:
    enableDNSHostnames: true
  failurePolicy:
    maxRestarts: 3
    rules:
    - name: interrupted
      action: RestartJobSetAndIgnoreMaxRestarts
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: workers
    replicas: 1
    template:
      spec:
        completionMode: Indexed
        parallelism: 2
        completions: 2
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onPodConditions:
            - type: DisruptionTarget
              status: "True"
          - action: FailJob
            onExitCodes:
              containerName: train
              operator: In
              values: [75]
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: 180
            containers:
            - name: train
              image: 'here/blt:1'
              command: [blt-jax]
              args:
              - 'train'
              - '--config=configs/a.py'
              - '--workdir=/workspace/runs/it''s'
              - '--config.note=two words'
              - '--config.seed=$$((1))'
              - '--distributed'
              env:
              - name: JAX_COORDINATOR_ADDRESS
                value: blt-workers-0-0.blt:8476
              - name: JAX_NUM_PROCESSES
                value: "2"
              - name: JAX_PROCESS_ID
                valueFrom:
                  fieldRef:
                    fieldPath: metadata.annotations\
['batch.kubernetes.io/job-completion-index']
              resources:
                limits:
                  nvidia.com/gpu: 8
              volumeMounts:
              - name: workspace
                mountPath: /workspace
            volumes:
            - name: workspace
              persistentVolumeClaim:
                claimName: '7.x'
"""

SLURM_OPTIONS = (
    *("--nodes", "2", "--gpus-per-node=4", "--time", "24:00:00", "--cuda", "13"),
    *("--partition", "gpu", "--account", "us"),
)
TPU_OPTIONS = ("--spot", "--delete", "--project", "us", "--prepare", "mount_it")
DRY_RUNS = {
    "launch/gpu.sh": ((), GPU_DRY_RUN),
    "launch/slurm.sh": (SLURM_OPTIONS, SLURM_DRY_RUN),
    "launch/tpu.sh": (TPU_OPTIONS, TPU_DRY_RUN),
    "launch/kubernetes.sh": (("--hosts", "2", "--gpus", "8"), JOB_SET),
}


@pytest.mark.parametrize("name", [*COMPLETE, "launch/arguments.sh"])
def test_scripts_parse(name: str) -> None:
    done = subprocess.run(
        ["bash", "-n", str(ROOT / name)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", COMPLETE)
def test_scripts_are_executable_and_stop_at_errors(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)
    assert "set -euo pipefail" in (ROOT / name).read_text()


@pytest.mark.parametrize("name", COMPLETE)
def test_help_tells_every_option_and_does_nothing(site: Site, name: str) -> None:
    done = site.launch(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {name} ")
    assert all(len(line) <= 88 for line in done.stdout.splitlines())
    assert site.calls.read_text() == ""
    text = (ROOT / name).read_text()
    lists = re.findall(r"\b(?:options|switches)\+?='(.*?)'", text)
    options = [option for found in lists for option in found.split()]
    assert len(options) >= 2
    assert [option for option in options if f"--{option}" not in done.stdout] == []


@pytest.mark.parametrize("name", COMPLETE)
def test_dry_run_tells_everything_and_does_nothing(site: Site, name: str) -> None:
    before = site.files()
    options, expected = DRY_RUNS[name]
    done = site.launch(*COMPLETE[name], *options, "--dry-run", *MORE)
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected
    assert "command not found" not in done.stderr
    assert site.files() == before
    assert all(" -c " in call for call in site.calls.read_text().splitlines())


@pytest.mark.parametrize(
    ("command", "message"),
    [
        *[((name,), "--config is missing") for name in COMPLETE],
        *[((name, "--config", "a.py"), "--workdir is missing") for name in COMPLETE],
        *[
            ((*COMPLETE[name], "--fast"), "unknown argument '--fast'")
            for name in COMPLETE
        ],
        (("launch/gpu.sh", "configs/a.py"), "unknown argument 'configs/a.py'"),
        (("launch/gpu.sh", "--config workdir"), "unknown argument '--config workdir'"),
        (("launch/gpu.sh", *TRAIN, "--config"), "--config needs a value"),
        (
            ("launch/slurm.sh", *TRAIN, "--nodes", "0"),
            "--nodes must be a whole number from 1, not '0'",
        ),
        (
            ("launch/slurm.sh", *TRAIN, "--cuda=11"),
            "--cuda must be 12 or 13, not '11'",
        ),
        ((*TPU, "--zone="), "--zone is missing"),
        (
            (*TPU, "--name", "7blt"),
            "--name must be up to 40 of a-z, 0-9 and -, a letter first, not '7blt'",
        ),
        (
            (*TPU, "--workdir", "gs://bucket/a"),
            "--workdir must be a folder that all workers mount, not 'gs://bucket/a'",
        ),
        (
            (*KUBERNETES, "--name", "b" * 41),
            "--name must be up to 40 of a-z, 0-9 and -, a letter first, not '"
            + "b" * 41
            + "'",
        ),
        ((*KUBERNETES, "--image", ""), "--image is missing"),
        (
            (*KUBERNETES, "--claim", "Runs"),
            "'Runs' is no name of a Kubernetes object: a-z, 0-9, - and . inside",
        ),
        (
            (*KUBERNETES, "--workdir", "runs/a"),
            "--workdir must be a folder in /workspace, not 'runs/a'",
        ),
        (
            (*KUBERNETES, "--", "--config.note=a\nb"),
            "an argument has a line break or another control character",
        ),
        (
            (*KUBERNETES, "--gpus", "8", "--tpus", "4"),
            "--gpus and the options for TPUs exclude each other",
        ),
        ((*KUBERNETES, "--tpus", "4"), "--tpu-accelerator is missing"),
        (
            (*KUBERNETES, "--tpus=4", "--tpu-accelerator=a", "--tpu-topology=2*4"),
            "--tpu-topology must be like 2x4, not '2*4'",
        ),
        (
            (*KUBERNETES, "--tpus=4", "--tpu-accelerator=a", "--tpu-topology=2x4"),
            "--tpu-topology 2x4 has 8 chips in all, --hosts 1 with --tpus 4 have 4",
        ),
    ],
)
def test_wrong_use_is_told_in_one_line(
    site: Site, command: tuple[str, ...], message: str
) -> None:
    done = site.launch(*command)
    assert done.returncode == 1
    assert done.stderr == f"error: {message}; see {command[0]} --help\n"
    assert (done.stdout, site.calls.read_text()) == ("", "")


@pytest.mark.parametrize(
    ("name", "program"),
    [("slurm", "sbatch"), ("tpu", "gcloud"), ("kubernetes", "kubectl")],
)
def test_what_is_missing_is_told_in_one_line(
    site: Site, name: str, program: str
) -> None:
    done = site.launch(*COMPLETE[f"launch/{name}.sh"])
    assert done.returncode == 1
    assert done.stderr == (
        f"error: found no {program} on PATH; --dry-run works without it\n"
    )


def test_a_missing_config_is_told_before_anything_is_queued(site: Site) -> None:
    site.add("sbatch", STAND_IN)
    site.add("gcloud", STAND_IN)
    site.add("git", "#!/usr/bin/env bash\nexit 128\n")
    done = site.launch("launch/slurm.sh", "--config", "b.py", "--workdir", "runs/b")
    assert done.stderr == "error: no config file b.py\n"
    done = site.launch(*TPU, "--config", "b.py")
    assert done.stderr == "error: no config file b.py in the last commit\n"
    assert site.called("sbatch", "create") == []


@pytest.mark.parametrize(
    ("codes", "calls", "code"),
    [((0,), 1, 0), ((75, 75, 0), 3, 0), ((2, 0), 1, 2), ((75, 130, 0), 2, 130)],
)
def test_gpu_goes_on_only_when_interrupted(
    site: Site, codes: tuple[int, ...], calls: int, code: int
) -> None:
    site.answer("blt-jax", *codes)
    done = site.launch("launch/gpu.sh", *TRAIN, *MORE)
    assert done.returncode == code
    assert "found no GPU" in done.stderr
    made = site.called("blt-jax")
    assert len(made) == calls
    for call in made:
        assert shlex.split(call)[1:] == [
            *("train", "--config=configs/a.py", "--workdir=runs/a b"),
            *MORE[1:],
        ]


# Ends as training does when it was asked to stop, by whichever signal; when it is
# started again it ends at once.
SAVES = """#!/usr/bin/env bash
case "$*" in
  *"-m venv"*)
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python
    cp "$0" .venv/bin/blt-jax
    ;;
esac
[[ $1 == train && ! -s $CALLS ]] || exit 0
trap 'exit 75' INT
echo train >>"$CALLS"
for ((i = 0; i < 300; i++)); do read -rt 0.1 <> <(:); done # there is no sleep
"""
# A job in the background ignores SIGINT, and so would all that it starts.
DEFAULT_SIGINT = (
    "import os, signal, sys\n"
    "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
    "os.execv(sys.argv[1], sys.argv[1:])\n"
)


def test_gpu_ends_at_ctrl_c(site: Site) -> None:
    site.add("python3.11", SAVES)
    site.calls.touch()
    script = str(site.root / "launch/gpu.sh")
    process = subprocess.Popen(
        [sys.executable, "-c", DEFAULT_SIGINT, script, *TRAIN],
        env=site.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C goes to a whole process group
    )
    try:
        for _ in range(300):
            if site.called("train"):
                break
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "going on" not in said


def test_slurm_submits_what_the_dry_run_tells(site: Site) -> None:
    # The login node has the newest driver; that says nothing about the others.
    site.add("nvidia-smi", "#!/usr/bin/env bash\necho '580.65.06, 9.0'\n")
    site.add("sbatch", STAND_IN)
    done = site.launch("launch/slurm.sh", *TRAIN, *MORE)
    assert done.returncode == 0, done.stderr
    assert (site.answers / "stdin").read_text() == SLURM_JOB
    assert site.noted("pip install")[0].endswith(r".\[fast\,cuda12\]")
    (call,) = site.called("sbatch")
    assert "--nodes=1 --gpus-per-node=1 --ntasks-per-node=1" in call
    assert "--time" not in call
    assert (site.root / "runs").is_dir()  # without it SLURM loses the log


@pytest.mark.parametrize(
    ("answer", "requeued", "code"), [(0, 0, 0), (75, 1, 0), (2, 0, 2), (137, 0, 137)]
)
def test_slurm_job_queues_itself_again_only_when_interrupted(
    site: Site, answer: int, requeued: int, code: int
) -> None:
    site.add("sbatch", STAND_IN)
    site.add("scontrol", STAND_IN)
    site.add("srun", SRUN)
    site.launch("launch/slurm.sh", *TRAIN, *MORE)
    site.answer("blt-jax", answer)
    done = site.bash((site.answers / "stdin").read_text(), site.root)
    assert (done.returncode, done.stderr) == (code, "")
    assert site.called("scontrol") == ["scontrol requeue 7"] * requeued
    (call,) = site.called("blt-jax")
    assert shlex.split(call)[1:] == [
        *("train", "--config=configs/a.py", "--workdir=runs/a b"),
        *MORE[1:],
        "--distributed",
    ]


def test_slurm_job_fails_where_it_may_not_queue_itself_again(site: Site) -> None:
    site.add("scontrol", STAND_IN)
    site.add("srun", "#!/usr/bin/env bash\nexit 75\n")
    site.answer("scontrol", "1 Requested operation is presently disabled")
    assert site.bash(SLURM_JOB, site.root).returncode == 1


VERBS = ("describe", "create", "delete", "scp", "ssh", "sleep")


def tpu(
    site: Site, *options: str, states: list[str], **answers: list[int]
) -> tuple[int, str, str]:
    """Exit code, the verbs of gcloud in order, and what stderr has to say."""
    for program in ("git", "gcloud", "sleep"):
        site.add(program, STAND_IN)
    # Of a TPU that is not there gcloud says nothing, and fails.
    site.answer("describe", *(f"0 {state}" if state else 1 for state in states))
    for verb, codes in answers.items():
        site.answer(verb, *codes)
    done = site.launch(*TPU, *options)
    calls = [call.split(" ", 1)[0] for call in site.called(*VERBS)]
    return done.returncode, " ".join(calls), done.stderr


@pytest.mark.parametrize(
    ("states", "answers", "code", "calls"),
    [
        # Made, or there already.
        ([""], {}, 0, "describe create scp ssh"),
        (["READY"], {}, 0, "describe scp ssh"),
        # Taken away, which breaks training, or the connection, or lets it save first.
        *[
            (
                ["READY", "PREEMPTED", "PREEMPTED"],
                {"ssh": [ended, 0]},
                0,
                "describe scp ssh sleep describe describe delete create scp ssh",
            )
            for ended in (70, 134)
        ],
        *[
            (
                ["READY", "PREEMPTED"],
                {"ssh": [ended, 0]},
                0,
                "describe scp ssh sleep describe delete create scp ssh",
            )
            for ended in (75, 255, 1)
        ],
        # A broken connection alone: the same TPU again.
        (
            ["READY", "READY"],
            {"scp": [1, 0]},
            0,
            "describe scp sleep describe scp ssh",
        ),
        # Under repair: wait. No room for a new one after that: wait as well.
        (
            ["READY", "REPAIRING", "TERMINATED", "", ""],
            {"ssh": [75, 0], "create": [1, 0]},
            0,
            "describe scp ssh sleep describe sleep describe delete create sleep "
            "describe create scp ssh",
        ),
        # Errors that stay: of training, and of the arguments of gcloud.
        (["READY", "READY"], {"ssh": [2, 0]}, 2, "describe scp ssh sleep describe"),
        (["READY", "READY"], {"ssh": [70, 0]}, 70, "describe scp ssh sleep describe"),
        ([""], {"create": [1, 0]}, 1, "describe create"),
    ],
)
def test_tpu_goes_on_when_it_was_taken_away(
    site: Site,
    states: list[str],
    answers: dict[str, list[int]],
    code: int,
    calls: str,
) -> None:
    assert tpu(site, states=states, **answers)[:2] == (code, calls)


def test_tpu_spot_waits_for_room(site: Site) -> None:
    code, calls, said = tpu(site, "--spot", states=["", ""], create=[1, 0])
    assert (code, calls) == (0, "describe create sleep describe create scp ssh")
    assert said == "ended with code 255; looking at blt again in a minute\n"
    assert "--spot" in site.called("create")[0]


def test_tpu_gives_up_after_a_number_of_starts(site: Site) -> None:
    code, calls, _ = tpu(site, "--starts", "3", states=["STOPPED"] * 3)
    assert (code, calls) == (255, "describe sleep describe sleep describe sleep")


@pytest.mark.parametrize("code", [0, 2])
def test_tpu_is_deleted_at_the_end_when_asked_to(site: Site, code: int) -> None:
    ended, calls, _ = tpu(site, "--delete", states=["READY"] * 2, ssh=[code])
    assert ended == code
    assert calls.endswith(" delete")


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("v3-8", "tpu-ubuntu2204-base"),
        ("v5litepod-8", "v2-alpha-tpuv5-lite"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v6e-8", "v2-alpha-tpuv6e"),
    ],
)
def test_tpu_software_follows_the_type(site: Site, kind: str, version: str) -> None:
    done = site.launch(*TPU, "--type", kind, "--dry-run")
    assert f"--accelerator-type={kind} --version={version} " in done.stdout


@pytest.mark.parametrize(("answer", "code"), [(0, 0), (1, 70), (2, 2), (75, 75)])
def test_tpu_worker_sets_up_and_trains(site: Site, answer: int, code: int) -> None:
    tpu(site, "--prepare", "mount_it", *MORE, states=["READY"])
    script = site.root / "runs" / "blt.sh"
    assert script.read_text() == TPU_WORKER
    for tool in ("tar", "gzip"):
        done = subprocess.run(["which", tool], capture_output=True, text=True)
        (site.programs / tool).symlink_to(done.stdout.strip())
    site.add("flock", FLOCK)
    site.add("mount_it", STAND_IN)
    worker = site.root.parent / "worker"
    worker.mkdir()
    with tarfile.open(worker / "blt.tar.gz", "w:gz") as archive:
        for name in ("launch", "pyproject.toml", "constraints.txt"):
            archive.add(site.root / name, name)
    site.answer("blt-jax", answer)
    done = site.bash(script.read_text(), worker)
    assert done.returncode == code, done.stderr
    assert len(site.called("mount_it")) == 1
    assert site.noted("pip install")[0].endswith(r".\[fast\,tpu\]")
    (call,) = site.called("blt-jax")
    assert shlex.split(call)[1:] == [
        *("train", "--config=configs/a.py", "--workdir=/mnt/runs/a b"),
        *MORE[1:],
        "--distributed",
    ]


def test_tpu_worker_does_not_train_on_a_set_up_that_failed(site: Site) -> None:
    site.add("mount_it", "#!/usr/bin/env bash\nexit 1\n")
    site.add("tar", STAND_IN)
    done = site.bash(TPU_WORKER, site.root.parent)
    assert done.returncode == 70
    assert site.called("blt-jax", "flock") == []


def test_kubernetes_applies_what_the_dry_run_tells(site: Site) -> None:
    site.add("kubectl", STAND_IN)
    done = site.launch(*KUBERNETES, "--hosts", "2", "--gpus", "8", *MORE)
    assert done.returncode == 0, done.stderr
    assert site.called("kubectl") == ["kubectl apply -f -"]
    assert (site.answers / "stdin").read_text() == JOB_SET

    site.answer("kubectl", 1)
    assert site.launch(*KUBERNETES).returncode == 1


def test_kubernetes_text_is_yaml_and_keeps_arguments(site: Site) -> None:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML to read the JobSet")
    odd = ("--config.a=it's: {", '--config.b=# "\\', "--config.c=$(HOME) $$", "é")
    done = site.launch(
        *(*KUBERNETES, "--name", "null", "--namespace", "on", "--claim", "1"),
        *("--hosts=4", "--tpus=4", "--tpu-accelerator=tpu-v5-lite-podslice"),
        *("--tpu-topology=4x4", "--dry-run", "--", *odd),
    )
    job_set = yaml.safe_load(done.stdout)
    assert job_set["metadata"] == {
        "name": "null",
        "namespace": "on",
        "annotations": {
            "alpha.jobset.sigs.k8s.io/exclusive-topology": (
                "cloud.google.com/gke-nodepool"
            )
        },
    }
    (workers,) = job_set["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    assert (job["parallelism"], job["completions"], workers["replicas"]) == (4, 4, 1)
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "1"}
    (container,) = pod["containers"]
    assert container["resources"] == {"limits": {"google.com/tpu": 4}}
    assert "env" not in container
    # Kubernetes makes $ of $$, and then leaves $(HOME) as it is.
    given = [argument.replace("$$", "$") for argument in container["args"]]
    assert given == [
        *("train", "--config=configs/a.py", "--workdir=/workspace/runs/it's"),
        *odd,
        "--distributed",
    ]


def test_kubernetes_restarts_all_processes_together(site: Site) -> None:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML to read the JobSet")
    spec = yaml.safe_load(JOB_SET)["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    on_condition, on_code = job["podFailurePolicy"]["rules"]
    assert on_condition["onPodConditions"] == [
        {"type": "DisruptionTarget", "status": "True"}
    ]
    assert on_code["onExitCodes"]["values"] == [75]
    assert on_code["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    assert {on_condition["action"], on_code["action"]} == {"FailJob"}
    (rule,) = spec["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    coordinator = pod["containers"][0]["env"][0]["value"]
    assert coordinator.startswith("blt-workers-0-0.blt:")
