#!/usr/bin/env bash
# Four hosts of eight GPUs: sbatch slurm.sh train.py
#
# One task a host. `initialize()` in train.py reads from Slurm who it is. Before the time is over
# training ends with a checkpoint. A job that is preempted is put back into the queue, and when a
# process dies, all are started again, three times: both resume.
#SBATCH --job-name=artifex-keras
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --output=%x-%j.log
set -euo pipefail

ARTIFEX_KERAS_SECRET=$(python3 -c "import secrets; print(secrets.token_hex(32))")
export ARTIFEX_KERAS_SECRET
export KERAS_BACKEND=jax

for _ in 1 2 3 4; do
  srun --kill-on-bad-exit=1 python3 "$@" && exit
done
exit 1
