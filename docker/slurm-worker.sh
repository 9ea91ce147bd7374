#!/usr/bin/env bash
# Workers of mri-posterior as a Slurm job array: each task takes one GPU and works for the shared
# queue until its time is up. Submit as many as there are GPUs to spare; cancel any at any time:
#
#   export MRI_POSTERIOR_DATABASE=postgresql://mri@db.cluster/mri
#   export MRI_POSTERIOR_STORAGE=s3://archive/posterior        # or a folder that all nodes mount
#   sbatch --array=1-16 docker/slurm-worker.sh
#
# Credentials of the store (AWS_ACCESS_KEY_ID, …) and PGPASSFILE come with the environment.
#SBATCH --job-name=mri-posterior
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=24G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --output=mri-posterior-%A_%a.log
# SIGTERM half a minute before the end: the running step is finished, or done again elsewhere.
#SBATCH --signal=B:TERM@40
set -euo pipefail

scratch="${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/mri-posterior-${SLURM_JOB_ID:-local}"
mkdir -p "$scratch"
trap 'rm -rf "$scratch"' EXIT

# `exec` would lose the trap; the shell hands SIGTERM on and waits.
mri-posterior worker \
  --database "${MRI_POSTERIOR_DATABASE:?set it to postgresql://…}" \
  --storage "${MRI_POSTERIOR_STORAGE:?set it to s3://… or a shared folder}" \
  --data "$scratch" &
worker=$!
trap 'kill -TERM "$worker" 2>/dev/null || true' TERM INT
wait "$worker" || true
wait "$worker"
