#!/usr/bin/env bash
# Train on a TPU VM or pod slice of Google Cloud, and again when it is taken away.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/setup.sh
source launch/setup.sh
# shellcheck source=launch/arguments.sh
source launch/arguments.sh

usage() {
  cat <<'HELP'
usage: launch/tpu.sh --name NAME --zone ZONE --type TYPE --config FILE --workdir FOLDER
                     [--prepare COMMAND] [--spot] [--delete] [--version RUNTIME]
                     [--project P] [--starts N] [--dry-run]
                     [-- MORE ARGUMENTS OF blt-jax train]

Creates the TPU NAME unless it exists, copies the last commit of this checkout to all
its workers, installs it there and trains. When the TPU is taken away it is deleted and
created anew, and training goes on. The connection must last, so run this in tmux on a
machine that stays on; a broken one costs the steps since the last checkpoint.

FOLDER must be a mounted folder that all workers share, such as Filestore or a bucket
mounted with gcsfuse; gs:// is not a folder. A new TPU has nothing mounted, so --prepare
must do it. FILE is committed in the checkout, or on what is mounted.

  launch/tpu.sh --name blt --zone us-central2-b --type v4-32 --spot \
      --config configs/imagenet_lt_paper.py --workdir /mnt/share/runs/imagenet \
      --prepare 'mountpoint -q /mnt/share || {
        sudo apt-get -y install nfs-common; sudo mkdir -p /mnt/share
        sudo mount 10.0.0.2:/share /mnt/share; }'

  --prepare COMMAND   run on each worker before each start of training
  --spot              cheaper, may be taken away at any time; waits for a free one
  --delete            delete the TPU at the end, whether training finished or failed
  --version RUNTIME   the software of the TPU; follows from TYPE unless given
  --starts N          give up after N starts, a minute apart; 100 unless given
  --dry-run           print the commands of one start instead of running them
HELP
}

name='' zone='' type='' config='' workdir='' prepare='' version='' project=''
starts=100 spot=false delete=false
options='name zone type config workdir prepare version project starts'
switches='spot delete'
parse_arguments "$@"
need zone type
need_name name 40
need_number starts
[[ $workdir == /* ]] ||
  refuse "--workdir must be a folder that all workers mount, not '$workdir'"
need_program gcloud
[[ $config == /* || $dry_run == true ]] || git cat-file -e "HEAD:$config" 2>/dev/null ||
  fail "no config file $config in the last commit"

if [[ -z $version ]]; then
  case $type in
    v5litepod-*) version=v2-alpha-tpuv5-lite ;;
    v5p-*) version=v2-alpha-tpuv5 ;;
    v6e-*) version=v2-alpha-tpuv6e ;;
    *) version=tpu-ubuntu2204-base ;;
  esac
fi
where=(--quiet "--zone=$zone" ${project:+"--project=$project"})
kind=("--accelerator-type=$type" "--version=$version")
[[ $spot == false ]] || kind+=(--spot)
lost=255 # what ssh ends with when it cannot connect; gcloud makes it 1 at times

# Every start does all of this, whatever is done already. The lock waits for a run that
# a broken connection has left behind; once that has finished, ours has nothing to do.
on_worker=$(
  cat <<WORKER
set -euo pipefail
trap '((\$? != 1)) || exit 70' EXIT # 1 would look like a broken connection
mkdir -p blt_jax
tar -xzf $name.tar.gz -C blt_jax
cd blt_jax
${prepare:-true}
source launch/setup.sh
# The Python of Ubuntu 22.04, which the TPU software comes with, is too old.
if ! (find_python) >/dev/null 2>&1; then
  sudo apt-get -qq update
  sudo apt-get -qq -y -o DPkg::Lock::Timeout=300 install python3.11-venv
fi
set_up fast tpu
flock run.lock .venv/bin/blt-jax$(printf ' %q' "${train[@]}") --distributed
WORKER
)

tpu() {
  run gcloud compute tpus tpu-vm "$@" "${where[@]}"
}

look() {
  tpu describe "$name" '--format=value(state)'
}

create() {
  tpu create "$name" "${kind[@]}" && return
  # Room comes back, for spot TPUs and for what has run before; wrong names stay wrong.
  [[ $spot == true || $start -gt 1 ]] || fail "could not create $name; see above"
  return "$lost"
}

work() {
  tpu scp "runs/$name.tar.gz" "runs/$name.sh" "$name:" --worker=all || return "$lost"
  tpu ssh "$name" --worker=all "--command=bash $name.sh"
}

create_and_work() {
  case $(look 2>/dev/null || true) in
    READY) ;;
    '') create || return ;; # there is none
    PREEMPTED | TERMINATED)
      tpu delete "$name" || return "$lost"
      create || return
      ;;
    *) return "$lost" ;; # being repaired, say
  esac
  work
}

run mkdir -p runs
run git archive "--output=runs/$name.tar.gz" HEAD
if [[ $dry_run == true ]]; then
  look
  create
  work
  [[ $delete == false ]] || tpu delete "$name"
  printf '%s\n' "$on_worker"
  exit
fi
printf '%s\n' "$on_worker" >"runs/$name.sh"

trap 'exit 130' INT # gcloud turns Ctrl-C into an error, after which we would go on
for ((start = 1; start <= starts; start++)); do
  printf 'start %d of at most %d\n' "$start" "$starts"
  code=0
  create_and_work || code=$?
  ((code)) || break
  printf 'ended with code %d; looking at %s again in a minute\n' "$code" "$name" >&2
  sleep 60 # it takes a while to show that a TPU was taken away
  ((code == interrupted || code == lost || code == 1)) ||
    [[ $(look 2>/dev/null || true) != READY ]] || break
done
[[ $delete == false ]] || tpu delete "$name"
exit "$code"
