#!/usr/bin/env bash
# Train on a Cloud TPU slice through queued resources: asks for it, installs jtl on every worker, runs, and asks again when it is preempted.
#
#   launch/tpu_vm.sh [--dry-run] --name=NAME --zone=ZONE --type=v5litepod-256 [--runtime=v2-alpha-tpuv5-lite] [--project=ID] [--spot] \
#     [--source=PACKAGE] [--keep] [--attempts=N] -- train --config=FILE --workdir=gs://BUCKET/DIR
#
# Everything behind -- is a command of jtl; the run directory must be a bucket, which outlives the slice. --source is what pip installs on the
# workers, such as git+https://... (default: jtl). The slice is deleted at the end, unless --keep. With --dry-run every command is printed
# and none is run.
#
# Where jtl ends with another status than 0 or 2 (a user's mistake), the slice is taken for preempted: it is deleted, asked for again, and the
# run goes on where its last checkpoint stands, up to --attempts times (default 20).
set -euo pipefail

name='' zone='' type='' runtime=v2-alpha-tpuv5-lite project='' spot='' source=jtl keep='' attempts=20 dry=''
while [[ $# -gt 0 && $1 != -- ]]; do
  case $1 in
    --dry-run) dry=1 ;;
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --runtime=*) runtime=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --spot) spot=1 ;;
    --source=*) source=${1#*=} ;;
    --keep) keep=1 ;;
    --attempts=*) attempts=${1#*=} ;;
    --help | -h) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) echo "tpu_vm.sh: there is no argument $1. See --help." >&2; exit 2 ;;
  esac
  shift
done
if [[ -z $name || -z $zone || -z $type || $# -lt 2 ]]; then
  echo 'tpu_vm.sh: needs --name, --zone, --type, and a command of jtl behind --. See --help.' >&2
  exit 2
fi
[[ $attempts =~ ^[1-9][0-9]*$ ]] || { echo "tpu_vm.sh: --attempts is a number from 1, found $attempts." >&2; exit 2; }
shift
printf -v command ' %q' "$@"
where=(--zone="$zone" --quiet)
[[ -z $project ]] || where+=(--project="$project")

run() { # prints a command, and runs it unless this is a dry run
  printf '+'
  printf ' %q' "$@"
  printf '\n'
  [[ -n $dry ]] || "$@"
}

on_all_workers() {
  run gcloud compute tpus tpu-vm ssh "$name" "${where[@]}" --worker=all --command="$1"
}

ask() {
  local request=(gcloud compute tpus queued-resources create "$name" "${where[@]}" --node-id="$name" --accelerator-type="$type"
    --runtime-version="$runtime")
  [[ -z $spot ]] || request+=(--spot)
  run "${request[@]}"
  local state=''
  while true; do
    run gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format='value(state.state)'
    [[ -z $dry ]] || return 0
    state=$(gcloud compute tpus queued-resources describe "$name" "${where[@]}" --format='value(state.state)')
    case $state in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDED) echo "tpu_vm.sh: the request is $state." >&2; return 1 ;;
    esac
    sleep 30
  done
}

give_back() {
  run gcloud compute tpus queued-resources delete "$name" "${where[@]}" --force || true
}

printf -v install 'python3 -m venv ~/jtl-venv && ~/jtl-venv/bin/pip install -q %q "jax[tpu]"' "$source"
for ((attempt = 1; attempt <= attempts; attempt++)); do
  status=0
  if ask && on_all_workers "$install"; then
    on_all_workers "JTL_HOSTS=auto ~/jtl-venv/bin/jtl$command" || status=$?
  else
    status=255
  fi
  if [[ $status -eq 0 || $status -eq 2 ]]; then
    break
  fi
  echo "tpu_vm.sh: attempt $attempt of $attempts ended with status $status; the slice is asked for again." >&2
  give_back
done
[[ -n $keep ]] || give_back
exit "$status"
