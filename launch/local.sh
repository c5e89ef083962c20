#!/usr/bin/env bash
# Any fibjax command in the project's environment, in one JAX process that uses all GPUs
# of this machine: the members of a sweep or an ensemble are spread over them, e.g.
#   bash launch/local.sh sweep --config=configs/skarberg2021.py:sweep \
#     --config.data.root=DIR --workdir=workdirs/search
# Run the same command again to resume.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
exec .venv/bin/fibjax "$@"
