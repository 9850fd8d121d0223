# shellcheck shell=bash
# Sourced by the scripts beside it, which stand at the top of the checkout.
#
#   set_up EXTRAS [ACCELERATOR]   .venv with this package and EXTRAS (comma-separated),
#                                 for ACCELERATOR or else for what this machine has
#   run COMMAND ...               run a command; only print it when dry_run is true

dry_run=false

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

run() {
  if [[ $dry_run == true ]]; then
    printf '+'
    printf ' %q' "$@"
    printf '\n'
  else
    "$@"
  fi
}

# A name on PATH may be a shim that cannot run, so try it instead of looking for it.
new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
  local candidate without_venv=''
  for candidate in python3.14 python3.13 python3.12 python3.11 python3; do
    new_enough "$candidate" || continue
    if "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
      printf '%s\n' "$candidate"
      return
    fi
    without_venv=$candidate
  done
  if [[ -n $without_venv ]]; then
    fail "$without_venv cannot make virtual environments: its modules venv and" \
      "ensurepip are missing. On Debian and Ubuntu: apt install python3-venv"
  fi
  fail "found no Python 3.11 or newer (tried python3.14 to python3.11 and python3)." \
    "Install one, or put its folder on PATH."
}

# Prints cuda13, cuda12, tpu or nothing. CUDA 13 needs driver 580 and compute
# capability 7.5, CUDA 12 needs driver 525.
accelerator_extra() {
  local driver capability
  if IFS=', ' read -r driver capability < <(nvidia-smi \
    --query-gpu=driver_version,compute_cap --format=csv,noheader 2>/dev/null) &&
    [[ $driver =~ ^([0-9]+)\. ]]; then
    driver=${BASH_REMATCH[1]}
    capability=${capability//[!0-9]/}
    if ((driver >= 580 && ${capability:-0} >= 75)); then
      printf 'cuda13\n'
    elif ((driver >= 525)); then
      printf 'cuda12\n'
    else
      printf 'note: NVIDIA driver %s is older than 525; using the CPU\n' "$driver" >&2
    fi
  elif compgen -G '/dev/accel[0-9]*' >/dev/null || [[ -n ${TPU_NAME:-} ]]; then
    printf 'tpu\n'
  fi
}

set_up() {
  local extras=$1 accelerator python stamp wanted
  accelerator=${2-$(accelerator_extra)}
  extras+=${accelerator:+,$accelerator}

  if ! new_enough .venv/bin/python ||
    ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    printf 'making .venv with %s\n' "$python"
    run "$python" -m venv --clear .venv
  fi

  # Installed already? The folder counts: an editable install points at it.
  stamp=.venv/installed-${extras//,/-}
  wanted="$PWD $(cat pyproject.toml constraints.txt | cksum)"
  if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
    printf 'installing blt-jax[%s] into .venv; this takes a minute or two\n' "$extras"
    run .venv/bin/python -m pip install --quiet --disable-pip-version-check \
      -c constraints.txt -e ".[$extras]"
    [[ $dry_run == true ]] || printf '%s\n' "$wanted" >"$stamp"
  fi
}
