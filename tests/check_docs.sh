#!/usr/bin/env bash
# Build the documentation site; a warning is an error.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/fresh.sh
source tests/fresh.sh

case "${1:-}" in
  -h | --help)
    cat <<'HELP'
usage: tests/check_docs.sh [--python PROGRAM]

Installs this checkout with the extra docs into a new environment in a temporary
folder, and builds the site there. To read it while writing, in .venv:

  python -m pip install -c constraints.txt -e ".[docs]"
  mkdocs serve
HELP
    exit 0
    ;;
esac
begin tests/check_docs.sh "$@"

step "installing on $("$python" --version)"
make_venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
  -c constraints.txt "$work/source[docs]"

step "building"
cd "$work/source"
NO_MKDOCS_2_WARNING=1 "$work/venv/bin/mkdocs" build --strict --quiet --site-dir "$work/site"
# Nothing that a reader's browser would ask another host for.
if grep -rEo --include='*.html' \
  '<(script|img|iframe)[^>]*src="?https?://[^ ">]*|<link[^>]*stylesheet[^>]*href="?https?://[^ ">]*' \
  "$work/site"; then
  fail "the pages above load something from elsewhere"
fi
printf 'ok: %s pages\n' "$(find "$work/site" -name '*.html' | wc -l)"
