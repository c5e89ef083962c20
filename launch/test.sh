#!/usr/bin/env bash
# Lint and tests; arguments go to pytest, e.g. launch/test.sh -k dense.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
.venv/bin/ruff check .
if [ $# -gt 0 ]; then
  exec .venv/bin/python -m pytest "$@"
fi
.venv/bin/python -m pytest -m 'long'
# Two processes: most of these tests compile small programs, on one core each.
exec .venv/bin/python -m pytest -m 'not long' -n 2 --dist loadfile
