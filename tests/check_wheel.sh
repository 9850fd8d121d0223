#!/usr/bin/env bash
# Build the wheel, install it into a clean environment, and use it from elsewhere.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/fresh.sh
source tests/fresh.sh

case "${1:-}" in
  -h | --help)
    cat <<'HELP'
usage: tests/check_wheel.sh [--python PROGRAM]

Builds a source archive and the wheel out of it, looks at what is in the wheel,
installs it with constraints.txt into a new environment in a temporary folder, and
there, away from the checkout: asks for --help, trains a few steps on the digits, and
type-checks a script of a user with mypy --strict.
HELP
    exit 0
    ;;
esac
begin tests/check_wheel.sh "$@"

step "building on $("$python" --version)"
make_venv "$work/build"
"$work/build/bin/python" -m pip install --quiet --disable-pip-version-check build
"$work/build/bin/python" -m build --outdir "$work/dist" "$work/source" \
  >"$work/build.log" 2>&1 || {
  cat "$work/build.log"
  fail "the wheel was not built"
}
wheel=$(echo "$work"/dist/*.whl)
"$work/build/bin/python" tests/wheel_contents.py "$wheel"

step "installing"
make_venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  -c constraints.txt "$wheel[demo]" mypy
"$work/venv/bin/python" -m pip check

step "using it from elsewhere"
cp configs/digits_lt.py "$work/mine.py" # a wheel has no configs/
cd "$work"
PATH=$work/venv/bin:/usr/bin:/bin
blt-jax --help >/dev/null
blt-jax check --config=mine.py
blt-jax train --config=mine.py --smoke

step "type-checking a user's script"
cat >user.py <<'PYTHON'
import numpy as np
import blt_jax

labels = np.repeat([0, 1, 2], [100, 20, 5])
sampler = blt_jax.GammaBalancedSampler(labels, gamma=0.9, seed=0)
records: np.ndarray = sampler.take(0, 32)
classifier: blt_jax.Classifier = blt_jax.load("runs/mine")
images = classifier.normalise(np.zeros((4, 16, 16, 3), np.uint8))
hard: blt_jax.Hallucination = blt_jax.hallucinate(
    classifier.logits_fn, images, np.array([1, 2, 0, 1]), np.full(4, 0.2, np.float32)
)
counts: np.ndarray = blt_jax.confusion.confusion_counts(labels, labels, num_classes=3)
print(records, hard.reached, blt_jax.metrics.per_class_accuracy(counts))
PYTHON
mypy --strict user.py
sed 's/gamma=0.9/gamma="much"/' user.py >wrong.py
if mypy --strict wrong.py >/dev/null; then
  fail "a wrong type passed: the package's types do not reach its users"
fi
printf 'ok: %s on %s\n' "${wheel##*/}" "$("$python" --version)"
