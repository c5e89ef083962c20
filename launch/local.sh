#!/usr/bin/env bash
# Runs any fibjax command in the project's environment, in a single JAX process that
# uses all GPUs of this machine: members of a sweep or an ensemble are spread over them.
#   bash launch/local.sh sweep --config=configs/skarberg2021.py:sweep \
#     --config.data.root=DIR --workdir=workdirs/search
# Run the same command again to resume.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
exec .venv/bin/fibjax "$@"
