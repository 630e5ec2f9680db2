#!/usr/bin/env bash
# Two slices of 256 TPU v5e each, by xpk on GKE: CLUSTER=... IMAGE=... bash xpk.sh train.py
#
# JAX finds the hosts of all slices by itself. In train.py a mesh of three axes, (2, 256, 1), keeps
# FSDP within a slice.
set -euo pipefail

xpk workload create \
  --cluster "${CLUSTER:?the name of the cluster}" \
  --workload "${WORKLOAD:-artifex-keras}" \
  --tpu-type v5litepod-256 \
  --num-slices 2 \
  --max-restarts 3 \
  --docker-image "${IMAGE:?the image with train.py}" \
  --env KERAS_BACKEND=jax \
  --command "python3 $*"
