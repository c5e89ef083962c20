#!/usr/bin/env bash
# Runs the linter and all tests; arguments are passed to pytest instead of running all,
# e.g. launch/test.sh -k dense.
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
.venv/bin/ruff check .
if [ $# -gt 0 ]; then
  exec .venv/bin/python -m pytest "$@"
fi
# Two processes, since most tests compile small programs on a single core.
.venv/bin/python -m pytest -m 'long' -n 2 --dist loadfile
exec .venv/bin/python -m pytest -m 'not long' -n 2 --dist loadfile
