#!/usr/bin/env bash
# Train on hosts of a Kubernetes cluster, as a JobSet.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=launch/setup.sh
source launch/setup.sh
# shellcheck source=launch/arguments.sh
source launch/arguments.sh

usage() {
  cat <<'HELP'
usage: launch/kubernetes.sh --name NAME --image IMAGE --config FILE --workdir FOLDER
                            --claim PVC [--hosts N] [--gpus G | --tpus T
                            --tpu-accelerator TYPE --tpu-topology AxB] [--namespace NS]
                            [--dry-run] [-- MORE ARGUMENTS OF blt-jax train]

Gives the cluster a JobSet (needs its controller, 0.6 or newer). IMAGE holds the
package, with blt-jax on PATH; FILE is a path in it. The volume of PVC is mounted at
/workspace, for FOLDER and for data; all hosts must be able to write to it at once.

When a host is taken away, training saves and all processes start again where they were,
as often as it takes; after other failures three times. Calling this again changes
nothing about a JobSet that exists; `kubectl delete jobset NAME` ends it.

  launch/kubernetes.sh --name blt --image registry.example/blt-jax:0.1 --claim runs \
      --config configs/imagenet_lt_paper.py --workdir /workspace/runs/imagenet \
      --hosts 2 --gpus 8 -- --config.data.root=/workspace/imagenet

  --hosts N                1 unless given
  --gpus G                 GPUs of each host, 1 unless given
  --tpus T                 TPU chips of each host, as in 4
  --tpu-accelerator TYPE   as in tpu-v5-lite-podslice
  --tpu-topology AxB       of all hosts together, as in 2x4
  --dry-run                print the JobSet instead of applying it
HELP
}

name='' image='' config='' workdir='' claim='' hosts=1 namespace=''
gpus='' tpus='' tpu_accelerator='' tpu_topology=''
options='name image config workdir claim hosts namespace gpus '
options+='tpus tpu-accelerator tpu-topology'
switches=''
parse_arguments "$@"
need image claim
need_number hosts
need_name name 40 # names of pods are longer, and end at 63
for object in "$claim" "${namespace:-default}"; do
  [[ $object =~ ^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$ ]] ||
    refuse "'$object' is no name of a Kubernetes object: a-z, 0-9, - and . inside"
done
[[ $workdir == /workspace/* ]] ||
  refuse "--workdir must be a folder in /workspace, not '$workdir'"
# A line break is folded even in quotes.
[[ "$image$tpu_accelerator${train[*]}" != *[[:cntrl:]]* ]] ||
  refuse 'an argument has a line break or another control character'

if [[ -z $tpus$tpu_accelerator$tpu_topology ]]; then
  gpus=${gpus:-1}
  need_number gpus
else
  [[ -z $gpus ]] || refuse '--gpus and the options for TPUs exclude each other'
  need_number tpus
  need tpu-accelerator
  [[ $tpu_topology =~ ^[1-9][0-9]*(x[1-9][0-9]*){1,2}$ ]] ||
    refuse "--tpu-topology must be like 2x4, not '$tpu_topology'"
  chips=$((${tpu_topology//x/*}))
  ((chips == hosts * tpus)) ||
    refuse "--tpu-topology $tpu_topology has $chips chips in all," \
      "--hosts $hosts with --tpus $tpus have $((hosts * tpus))"
fi
need_program kubectl

quoted() {
  local quote="'"
  printf "'%s'" "${1//$quote/$quote$quote}"
}

job_set() {
  local argument
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $(quoted "$name")
YAML
  [[ -z $namespace ]] || printf '  namespace: %s\n' "$(quoted "$namespace")"
  # Two node pools may have the same topology: all hosts have to be in one of them.
  [[ -z $tpus ]] || cat <<YAML
  annotations:
    alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool
YAML
  # Processes of JAX cannot join again, so nothing less than the whole set is restarted.
  cat <<YAML
spec:
  network:
    enableDNSHostnames: true
  failurePolicy:
    maxRestarts: 3
    rules:
    - name: interrupted
      action: RestartJobSetAndIgnoreMaxRestarts
      onJobFailureReasons: [PodFailurePolicy]
  replicatedJobs:
  - name: workers
    replicas: 1
    template:
      spec:
        completionMode: Indexed
        parallelism: $hosts
        completions: $hosts
        backoffLimit: 0
        podFailurePolicy:
          rules:
          - action: FailJob
            onPodConditions:
            - type: DisruptionTarget
              status: "True"
          - action: FailJob
            onExitCodes:
              containerName: train
              operator: In
              values: [$interrupted]
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: 180
YAML
  [[ -z $tpus ]] || cat <<YAML
            nodeSelector:
              cloud.google.com/gke-tpu-accelerator: $(quoted "$tpu_accelerator")
              cloud.google.com/gke-tpu-topology: $tpu_topology
YAML
  cat <<YAML
            containers:
            - name: train
              image: $(quoted "$image")
              command: [blt-jax]
              args:
YAML
  # Kubernetes puts variables in place of \$(NAME), and \$ in place of \$\$.
  for argument in "${train[@]}" --distributed; do
    printf '              - %s\n' "$(quoted "${argument//\$/\$\$}")"
  done
  # With TPUs JAX learns this from Google's own variables.
  [[ -n $tpus ]] || cat <<YAML
              env:
              - name: JAX_COORDINATOR_ADDRESS
                value: $name-workers-0-0.$name:8476
              - name: JAX_NUM_PROCESSES
                value: "$hosts"
              - name: JAX_PROCESS_ID
                valueFrom:
                  fieldRef:
                    fieldPath: metadata.annotations['batch.kubernetes.io/job-completion-index']
YAML
  cat <<YAML
              resources:
                limits:
                  ${gpus:+nvidia.com/gpu: $gpus}${tpus:+google.com/tpu: $tpus}
              volumeMounts:
              - name: workspace
                mountPath: /workspace
            volumes:
            - name: workspace
              persistentVolumeClaim:
                claimName: $(quoted "$claim")
YAML
}

if [[ $dry_run == true ]]; then
  job_set
else
  job_set | kubectl apply -f -
fi
