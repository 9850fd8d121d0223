#!/usr/bin/env bash
# Install the lowest or the newest versions that pyproject.toml allows, and test them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/fresh.sh
source tests/fresh.sh

case "${1:-}" in
  lowest | newest) bound=$1 ;;
  -h | --help)
    cat <<'HELP'
usage: tests/check_bounds.sh lowest|newest [--python PROGRAM]

Installs this checkout with the extras fast and test into a new environment in a
temporary folder, and runs the tests that touch every dependency.

  lowest   each dependency in the lowest version that pyproject.toml allows; use the
           oldest Python: tests/check_bounds.sh lowest --python python3.11
  newest   each in the newest version there is, without constraints.txt
HELP
    exit 0
    ;;
  *) fail "say lowest or newest; see tests/check_bounds.sh --help" ;;
esac
shift
begin tests/check_bounds.sh "$@"

step "$bound versions on $("$python" --version)"
make_venv "$work/venv"
if [[ $bound == lowest ]]; then
  "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
  "$work/venv/bin/uv" pip compile --quiet --resolution lowest-direct \
    --python "$work/venv/bin/python" --extra fast --extra test \
    --output-file "$work/bounds.txt" pyproject.toml
else
  touch "$work/bounds.txt"
fi
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  -c "$work/bounds.txt" "$work/source[fast,test]"
"$work/venv/bin/python" -m pip check

step "versions"
"$work/venv/bin/python" -m pip list --disable-pip-version-check --format=freeze |
  grep -E -i '^(absl-py|array.record|flax|grain|hypothesis|jax|jaxlib|matplotlib|ml.collections|numpy|optax|orbax-checkpoint|pillow|pytest|safetensors|simplejpeg|tensorflow-datasets)=='

step "tests"
# The installed package is tested: the copy of it in the sources is out of the way.
cd "$work/source"
rm -r blt_jax
"$work/venv/bin/python" -m pytest -q -m "not slow" -p no:cacheprovider \
  tests/test_array_files.py tests/test_ascent.py tests/test_checkpoint.py \
  tests/test_configs.py tests/test_decode.py tests/test_figures.py \
  tests/test_heads.py tests/test_optimizer.py tests/test_pipeline.py \
  tests/test_records.py tests/test_resnet.py tests/test_step.py tests/test_tfds.py \
  tests/test_run.py
printf 'ok: %s versions on %s\n' "$bound" "$("$python" --version)"
