# shellcheck shell=bash
# Sourced after setup.sh by the scripts that start `blt-jax train` somewhere.
#
#   parse_arguments "$@"     `--some-name VALUE` sets some_name, for the names in
#                            $options; `--name` makes those in $switches true; $train
#                            becomes the arguments of blt-jax, with all that follows --
#   need NAME ...            fail unless these options have a value
#   need_number NAME ...     ... a whole number from 1
#   need_name NAME LENGTH    ... a name as Google Cloud and Kubernetes take it
#   need_program NAME        fail unless it is on PATH, except when nothing is run
#
# shellcheck disable=SC2034,SC2154 # variables are shared with the script that sources

# What blt-jax ends with when it was asked to stop and has saved: call it again.
interrupted=75

parse_arguments() {
  local option variable
  while (($#)); do
    case $1 in
      --)
        shift
        break
        ;;
      --dry-run)
        dry_run=true
        shift
        continue
        ;;
      -h | --help)
        usage
        exit 0
        ;;
      --*=*) set -- "${1%%=*}" "${1#*=}" "${@:2}" ;;
    esac
    option=${1#--}
    variable=${option//-/_}
    [[ $1 =~ ^--[a-z-]+$ ]] || refuse "unknown argument '$1'"
    if [[ " $switches " == *" $option "* ]]; then
      printf -v "$variable" true
      shift
    elif [[ " $options " == *" $option "* ]]; then
      (($# > 1)) || refuse "$1 needs a value"
      printf -v "$variable" '%s' "$2"
      shift 2
    else
      refuse "unknown argument '$1'"
    fi
  done
  need config workdir
  train=(train "--config=$config" "--workdir=$workdir" "$@")
}

refuse() {
  fail "$*; see launch/${0##*/} --help"
}

need() {
  local option variable
  for option in "$@"; do
    variable=${option//-/_}
    [[ -n ${!variable} ]] || refuse "--$option is missing"
  done
}

need_number() {
  local option variable
  need "$@"
  for option in "$@"; do
    variable=${option//-/_}
    [[ ${!variable} =~ ^[1-9][0-9]*$ ]] ||
      refuse "--$option must be a whole number from 1, not '${!variable}'"
  done
}

need_name() {
  local value=${!1}
  need "$1"
  [[ $value =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ && ${#value} -le $2 ]] ||
    refuse "--$1 must be up to $2 of a-z, 0-9 and -, a letter first, not '$value'"
}

need_program() {
  [[ $dry_run == true ]] || command -v "$1" >/dev/null ||
    fail "found no $1 on PATH; --dry-run works without it"
}
