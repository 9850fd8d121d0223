# shellcheck shell=bash
# Sourced by the checks beside it, which stand at the top of the checkout.
#
#   begin NAME [--python PROGRAM]   $work, a temporary folder that goes with the script,
#                                   $work/source, a copy of this checkout without what
#                                   git ignores, and $python
#   make_venv FOLDER                a virtual environment of $python
#   step WORDS ...                  say what comes next

# shellcheck source=launch/setup.sh
source launch/setup.sh

step() { printf '== %s\n' "$*"; }

begin() {
  local name=$1
  shift
  python=''
  while (($#)); do
    case $1 in
      --python)
        python=${2:?--python needs a program}
        shift 2
        ;;
      *) fail "unknown argument '$1'; see $name --help" ;;
    esac
  done
  python=${python:-$(find_python)}
  new_enough "$python" || fail "$python is not Python 3.11 or newer"
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  mkdir "$work/source"
  git ls-files -z --cached --others --exclude-standard |
    tar --null --files-from=- --create | tar --extract --directory="$work/source"
}

make_venv() {
  "$python" -m venv "$1"
  "$1/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade pip
}
