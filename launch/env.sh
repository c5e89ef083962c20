#!/usr/bin/env bash
# Creates the virtual environment .venv and installs fibjax in it, once; the other
# scripts source this one. FIBJAX_PYTHON names the interpreter (3.11 or newer),
# FIBJAX_EXTRAS further extras of setup.py, e.g. FIBJAX_EXTRAS=cuda12,view.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${FIBJAX_PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
  echo "launch: $python is $("$python" --version 2>&1), expected Python >= 3.11;" \
    "name another with FIBJAX_PYTHON=python3.12" >&2
  exit 2
fi
extras=dev${FIBJAX_EXTRAS:+,$FIBJAX_EXTRAS}
stamp=.venv/.fibjax-installed-$extras
if [ ! -e "$stamp" ] || [ setup.py -nt "$stamp" ]; then
  # venv installs pip last: an environment without it is incomplete.
  .venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
  .venv/bin/python -m pip install --quiet --editable ".[$extras]"
  touch "$stamp"
fi
