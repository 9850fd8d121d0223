#!/usr/bin/env bash
# Set up .venv, train with and without hallucination on the digits, show the table.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/setup.sh
source launch/setup.sh

case "${1:-}" in
  '') ;;
  --dry-run) dry_run=true ;;
  -h | --help)
    cat <<'HELP'
usage: launch/local.sh [--dry-run]

Makes .venv (first time only), trains on scikit-learn's handwritten digits made
long-tailed, once with hallucinated images and once without, and prints accuracy on
the test split. Call it again to go on after an interruption; what is finished is
not done twice.

  --dry-run   print the commands instead of running them
HELP
    exit 0
    ;;
  *) fail "unknown argument '$1'; see launch/local.sh --help" ;;
esac

config=configs/digits_lt.py
runs=runs/digits_lt

set_up demo,export,fast
run .venv/bin/blt-jax train --config=$config --workdir=$runs/blt
# The second arm differs in stage 2 only, so it takes stage 1 from the first.
run .venv/bin/blt-jax train --config=$config --workdir=$runs/balanced \
  --config.hallucination.enabled=False --config.stage1.checkpoint=$runs/blt/stage1
run .venv/bin/python -m blt_jax.reports.table $runs/balanced $runs/blt
run .venv/bin/blt-jax report $runs/blt --baseline=$runs/balanced --out=$runs/report.html

cat <<WHERE

Look at
  $runs/report.html                both runs on one page, for a browser
  $runs/blt/stage2/metrics.jsonl   losses, validation accuracy, images per second
  $runs/blt/config.json            every setting of the run
and draw what was hallucinated with
  .venv/bin/blt-jax hallucinate --checkpoint=$runs/blt --out=$runs/hallucinated.png
WHERE
