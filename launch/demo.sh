#!/usr/bin/env bash
# Runs the main job on three simulated films; arguments are passed to `fibjax run`.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
exec .venv/bin/fibjax run --config=configs/demo.py --workdir=workdirs/demo "$@"
