#!/usr/bin/env bash
# Train on nodes of a SLURM cluster, in one job that queues itself again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/setup.sh
source launch/setup.sh
# shellcheck source=launch/arguments.sh
source launch/arguments.sh

usage() {
  cat <<'HELP'
usage: launch/slurm.sh --config FILE --workdir FOLDER [--nodes N] [--gpus-per-node G]
                       [--cpus-per-gpu C] [--cuda 12|13] [--time HH:MM:SS]
                       [--partition P] [--account A] [--dry-run]
                       [-- MORE ARGUMENTS OF blt-jax train]

Makes .venv (first time only) and submits a job. Three minutes before its time limit
the job saves and queues itself again, under the same number and with the same log,
runs/slurm-NUMBER.log, until training has finished; scancel ends it. Run this on a
login node; the checkout and FOLDER must be on a file system that all nodes see.
Relative paths start at the top of the checkout.

  launch/slurm.sh --config configs/imagenet_lt_paper.py --workdir runs/imagenet \
      --nodes 2 --gpus-per-node 8 --time 24:00:00

  --nodes N           1 unless given
  --gpus-per-node G   1 unless given; also the number of processes on each node
  --cpus-per-gpu C    8 unless given; they decode the images
  --cuda 12|13        12 unless given; 13 needs driver 580 and compute capability 7.5
  --dry-run           print the commands and the job instead of running them

Other settings of sbatch can be given in its environment variables, as in SBATCH_QOS.
HELP
}

config='' workdir='' nodes=1 gpus_per_node=1 cpus_per_gpu=8 cuda=12
time='' partition='' account=''
options='config workdir nodes gpus-per-node cpus-per-gpu cuda time partition account'
switches=''
parse_arguments "$@"
need_number nodes gpus-per-node cpus-per-gpu
[[ $cuda == 1[23] ]] || refuse "--cuda must be 12 or 13, not '$cuda'"
[[ -f $config ]] || fail "no config file $config" # not to learn it from the queue
need_program sbatch

# JAX takes one GPU a task on SLURM, the one that has the task's number on its node. So
# there is a task for each GPU, and each must see all: no --gpus-per-task.
submit=(
  sbatch --job-name=blt-jax
  "--nodes=$nodes" "--gpus-per-node=$gpus_per_node"
  "--ntasks-per-node=$gpus_per_node" "--cpus-per-task=$cpus_per_gpu"
  --requeue --signal=TERM@180 --output=runs/slurm-%j.log --open-mode=append
  ${time:+"--time=$time"}
  ${partition:+"--partition=$partition"}
  ${account:+"--account=$account"}
)
# --wait and not --kill-on-bad-exit: the first process to leave with 75 must not get the
# others killed, whose code would then be srun's. The tasks get the SIGTERM and this
# script does not, so it lives to queue the job again; scancel ends both. srun has not
# taken --cpus-per-task over from sbatch since SLURM 22.05.
job=$(
  cat <<JOB
#!/usr/bin/env bash
set -euo pipefail
code=0
srun --kill-on-bad-exit=0 --wait=60 --cpus-per-task=$cpus_per_gpu --gpu-bind=none \\
  .venv/bin/blt-jax$(printf ' %q' "${train[@]}") --distributed || code=\$?
if ((code == $interrupted)); then
  exec scontrol requeue "\$SLURM_JOB_ID"
fi
exit "\$code"
JOB
)

# A login node may have no GPU to ask for its driver.
set_up fast "cuda$cuda"
run mkdir -p runs
run "${submit[@]}" <<<"$job"
[[ $dry_run == false ]] || printf '%s\n' "$job"
