#!/usr/bin/env bash
# Train on all GPUs of this machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/setup.sh
source launch/setup.sh
# shellcheck source=launch/arguments.sh
source launch/arguments.sh

usage() {
  cat <<'HELP'
usage: launch/gpu.sh --config FILE --workdir FOLDER [--dry-run]
                     [-- MORE ARGUMENTS OF blt-jax train]

Makes .venv (first time only) and trains on all GPUs of this machine. When training is
stopped by SIGTERM it saves, and is started again at once; at Ctrl-C it saves and ends.
Call this again to go on. Relative paths start at the top of the checkout.

  launch/gpu.sh --config configs/cifar10_lt.py --workdir runs/cifar10 -- \
      --config.sampler.gamma=1.0

  --dry-run   print the commands instead of running them
HELP
}

config='' workdir=''
options='config workdir' switches=''
parse_arguments "$@"

set_up fast
[[ -n $(accelerator_extra) ]] ||
  printf 'note: found no GPU; training on the CPU\n' >&2

# One process drives all GPUs of a machine, so there is nobody to join.
trap 'exit 130' INT # Ctrl-C makes training save and end as SIGTERM does; we would go on
while true; do
  code=0
  run .venv/bin/blt-jax "${train[@]}" || code=$?
  ((code == interrupted)) || exit "$code"
  printf 'stopped by SIGTERM; going on from what was saved\n'
done
