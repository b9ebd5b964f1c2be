#!/usr/bin/env bash
# Train on GPUs of a SLURM cluster: one process a GPU, requeued when it is preempted or runs out of time.
#
#   launch/slurm.sh [--dry-run] [--nodes=N] [--gpus=N] [--cpus=N] [--time=HH:MM:SS] [--partition=NAME] [--account=NAME] [--setup=COMMAND] \
#     -- train --config=FILE --workdir=DIR
#
# Everything behind -- is a command of jtl; the run directory must lie where every node sees it. --gpus are those of a node (default 8), --cpus
# those of a process (default 8); --setup runs on each node before jtl, such as 'source ~/venv/bin/activate'. With --dry-run the batch script is
# printed and nothing is submitted.
#
# SLURM sends SIGTERM two minutes before the time is over, and when it preempts the job. Every process then finishes its step, the run is saved,
# and jtl ends with status 75, upon which the job requeues itself; it goes on where it stood.
set -euo pipefail

nodes=1 gpus=8 cpus=8 limit=24:00:00 partition='' account='' setup='' dry=''
while [[ $# -gt 0 && $1 != -- ]]; do
  case $1 in
    --dry-run) dry=1 ;;
    --nodes=*) nodes=${1#*=} ;;
    --gpus=*) gpus=${1#*=} ;;
    --cpus=*) cpus=${1#*=} ;;
    --time=*) limit=${1#*=} ;;
    --partition=*) partition=${1#*=} ;;
    --account=*) account=${1#*=} ;;
    --setup=*) setup=${1#*=} ;;
    --help | -h) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) echo "slurm.sh: there is no argument $1. See --help." >&2; exit 2 ;;
  esac
  shift
done
if [[ $# -lt 2 ]]; then
  echo 'slurm.sh: give a command of jtl behind --, such as: -- train --config=FILE --workdir=DIR' >&2
  exit 2
fi
shift
for number in "$nodes" "$gpus" "$cpus"; do
  [[ $number =~ ^[1-9][0-9]*$ ]] || { echo "slurm.sh: --nodes, --gpus and --cpus are numbers from 1, found $number." >&2; exit 2; }
done
printf -v command ' %q' "$@"

script=$(
  cat << END
#!/usr/bin/env bash
#SBATCH --job-name=jtl
#SBATCH --nodes=$nodes
#SBATCH --ntasks-per-node=$gpus
#SBATCH --gpus-per-node=$gpus
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=$cpus
#SBATCH --time=$limit
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
#SBATCH --output=jtl-%j.log
${partition:+#SBATCH --partition=$partition
}${account:+#SBATCH --account=$account
}
set -uo pipefail
export JTL_HOSTS=auto
${setup:+$setup
}srun --kill-on-bad-exit=1 --wait=150 jtl$command
status=\$?
if [[ \$status -eq 75 ]]; then
  scontrol requeue "\$SLURM_JOB_ID"
fi
exit "\$status"
END
)
if [[ -n $dry ]]; then
  printf '%s\n' "$script"
else
  printf '%s\n' "$script" | sbatch
fi
