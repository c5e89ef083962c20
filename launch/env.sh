#!/usr/bin/env bash
# Makes the virtual environment .venv with fibjax in it, once; sourced by the others.
# FIBJAX_PYTHON chooses the interpreter (3.11 or newer), FIBJAX_EXTRAS the extras.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${FIBJAX_PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "launch: $python is $("$python" --version 2>&1), expected Python >= 3.11;" \
    "name another with FIBJAX_PYTHON=python3.12" >&2
  exit 2
fi
stamp=.venv/.fibjax-installed
if [ ! -e "$stamp" ] || [ setup.py -nt "$stamp" ]; then
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --editable ".[${FIBJAX_EXTRAS:-dev}]"
  touch "$stamp"
fi
