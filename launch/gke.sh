#!/usr/bin/env bash
# Train on TPU slices of a GKE cluster: a JobSet, or the xpk command that makes one.
#
#   launch/gke.sh [--dry-run] [--xpk] --name=NAME --image=IMAGE --accelerator=tpu-v5-lite-podslice --topology=16x16 --hosts=64 [--chips=4] \
#     [--slices=1] [--restarts=20] [--cluster=NAME] [--type=v5litepod-256] -- train --config=FILE --workdir=gs://BUCKET/DIR
#
# Everything behind -- is a command of jtl; the run directory must be a bucket. --hosts are those of a slice, --chips those of a host. With
# several --slices set --config.mesh.dcn to their number. --image is built from launch/Dockerfile. With --dry-run the manifest (or xpk's command)
# is printed and nothing is sent. --xpk needs --cluster and --type.
#
# A pod that is evicted gets SIGTERM and two minutes, in which the run is saved; it ends with status 75, which fails the job, and the JobSet
# starts all pods again, up to --restarts times. A status of 2, a user's mistake, is not tried again.
set -euo pipefail

name='' image='' accelerator='' topology='' hosts='' chips=4 slices=1 restarts=20 cluster='' type='' xpk='' dry=''
while [[ $# -gt 0 && $1 != -- ]]; do
  case $1 in
    --dry-run) dry=1 ;;
    --xpk) xpk=1 ;;
    --name=*) name=${1#*=} ;;
    --image=*) image=${1#*=} ;;
    --accelerator=*) accelerator=${1#*=} ;;
    --topology=*) topology=${1#*=} ;;
    --hosts=*) hosts=${1#*=} ;;
    --chips=*) chips=${1#*=} ;;
    --slices=*) slices=${1#*=} ;;
    --restarts=*) restarts=${1#*=} ;;
    --cluster=*) cluster=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --help | -h) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) echo "gke.sh: there is no argument $1. See --help." >&2; exit 2 ;;
  esac
  shift
done
if [[ -z $name || -z $image || $# -lt 2 ]]; then
  echo 'gke.sh: needs --name, --image, and a command of jtl behind --. See --help.' >&2
  exit 2
fi
shift
printf -v command ' %q' "$@"

if [[ -n $xpk ]]; then
  [[ -n $cluster && -n $type ]] || { echo 'gke.sh: --xpk needs --cluster and --type.' >&2; exit 2; }
  request=(xpk workload create --cluster="$cluster" --workload="$name" --tpu-type="$type" --num-slices="$slices" --docker-image="$image"
    --max-restarts="$restarts" --env=JTL_HOSTS=auto --command="jtl$command")
  if [[ -n $dry ]]; then
    printf '%q ' "${request[@]}"
    printf '\n'
  else
    "${request[@]}"
  fi
  exit
fi

if [[ -z $accelerator || -z $topology || -z $hosts ]]; then
  echo 'gke.sh: a JobSet needs --accelerator, --topology and --hosts. See --help.' >&2
  exit 2
fi
arguments=''
for argument in "$@"; do
  arguments+="
              - '${argument//\'/\'\'}'"
done
manifest=$(
  cat << END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
spec:
  failurePolicy:
    maxRestarts: $restarts
    rules:
    - name: mistake
      action: FailJobSet
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: slice
    replicas: $slices
    template:
      spec:
        parallelism: $hosts
        completions: $hosts
        completionMode: Indexed
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onExitCodes:
              containerName: jtl
              operator: In
              values: [2]
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: 120
            hostNetwork: true
            dnsPolicy: ClusterFirstWithHostNet
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: $accelerator
              cloud.google.com/gke-tpu-topology: $topology
            containers:
            - name: jtl
              image: $image
              args:$arguments
              env:
              - name: JTL_HOSTS
                value: auto
              ports:
              - containerPort: 8471
              - containerPort: 8431
              resources:
                requests:
                  google.com/tpu: $chips
                limits:
                  google.com/tpu: $chips
END
)
if [[ -n $dry ]]; then
  printf '%s\n' "$manifest"
else
  printf '%s\n' "$manifest" | kubectl apply -f -
fi
