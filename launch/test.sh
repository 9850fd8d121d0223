#!/usr/bin/env bash
# Set up .venv with the test tools and run the tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/setup.sh
source launch/setup.sh

case "${1:-}" in
  --dry-run)
    dry_run=true
    shift
    ;;
  -h | --help)
    cat <<'HELP'
usage: launch/test.sh [--dry-run] [PYTEST ARGUMENTS]

Makes .venv (first time only) and runs the tests, without the slow ones, in a process
for each core, at most four.

  launch/test.sh                          the quick tests
  launch/test.sh -m ""                    all tests
  launch/test.sh tests/test_table.py -v   some tests
  launch/test.sh -n 0 -x                  one after another, to the first that fails
  launch/test.sh --dry-run                print the commands instead of running them
HELP
    exit 0
    ;;
esac

set_up demo,fast,test
# Compilation takes most of the time and one core; a file's tests share what they compile.
run exec .venv/bin/python -m pytest -m "not slow" \
  -n auto --maxprocesses 4 --dist loadfile "$@"
