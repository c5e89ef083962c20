"""`fibjax bench`: measures groups of figures and keeps each as soon as it is finished.

The file of --out is written whole after every group, so that a benchmark that is
stopped resumes with the next one:

  {'measured_on': machine, versions and the hash of fibjax's source,
   'groups': {NAME: {'date': day, 'seconds': duration, 'figures': {FIGURE: number}}}}
"""
import datetime
import hashlib
import importlib.util
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax

from fibjax.bench.figures import GROUPS, PEERS
from fibjax.errors import InputError
from fibjax.system import files, progress, provenance

_SOURCE = Path(__file__).parents[1]


def main(out=None, only: str | None = None, peer: str = '',
         restart: bool = False) -> dict[str, float]:
  """Measures the figures, and prints them as one flat JSON object.

  Args:
    out: file for the figures, or None. Groups that it already has are not measured
      again, unless machine, versions or source have changed.
    only: comma-separated groups; None for all.
    peer: 'torch' to measure PyTorch beside the group 'dense'.
    restart: whether to discard what the file has.

  Returns:
    Figures by name.

  Raises:
    InputError: for an unknown group, a peer that is not installed, a bad out.
  """
  chosen = choose_groups(only, peer)
  measured_on = fingerprint()
  groups = {}
  if out:
    _check_out(out)
    groups = {} if restart else read_groups(out, measured_on)
    files.write_json(out, {'measured_on': measured_on, 'groups': groups},
                     checked=False)
  missing = [name for name in chosen if name not in groups]
  if len(missing) < len(chosen):
    progress.say(f'{out}: has {len(chosen) - len(missing)} of {len(chosen)} groups '
                 'already (--restart measures them again)')
  for i, name in enumerate(missing):
    progress.say(f'bench: {name}, group {i + 1} of {len(missing)}')
    start = time.monotonic()
    figures = chosen[name]()
    groups[name] = {'date': datetime.date.today().isoformat(),
                    'seconds': round(time.monotonic() - start, 1), 'figures': figures}
    if out:
      files.write_json(out, {'measured_on': measured_on, 'groups': groups},
                       checked=False)
  flat = {}
  for name in chosen:
    flat |= groups[name]['figures']
  print(json.dumps(flat, indent=2))
  return flat


def choose_groups(only: str | None, peer: str) -> dict[str, Callable[[], Mapping]]:
  """Functions by the name of their group, '-torch' appended where torch is measured.

  Raises:
    InputError: for an unknown group, or a peer that is not installed.
  """
  names = only.split(',') if only else list(GROUPS)
  unknown = sorted(set(names) - set(GROUPS))
  if unknown:
    raise InputError('--only', got=', '.join(unknown), expected=', '.join(GROUPS),
                     remedy='choose among these groups of figures')
  if peer and importlib.util.find_spec(peer) is None:
    raise InputError(f'--peer {peer}', got='a package that is not installed',
                     expected='it beside fibjax',
                     remedy=f'pip install -e .[{peer}]')
  with_peer = PEERS.get(peer, {})
  return {f'{name}-{peer}' if name in with_peer else name:
          with_peer.get(name, GROUPS[name]) for name in names}


def fingerprint() -> dict[str, object]:
  """What figures depend on: machine, versions, precision, and fibjax's source."""
  digest = hashlib.blake2b(digest_size=8)
  for path in sorted(_SOURCE.rglob('*.py')):
    digest.update(str(path.relative_to(_SOURCE)).encode() + path.read_bytes())
  devices = jax.devices()
  return {**provenance.versions(), 'cpu': _cpu_name(), 'cores': os.cpu_count(),
          'devices': f'{len(devices)} x {devices[0].device_kind}',
          'matmul_precision': jax.config.jax_default_matmul_precision,
          'source': digest.hexdigest()}


def _cpu_name() -> str:
  """Model of the CPU where Linux tells it, else the architecture."""
  try:
    lines = Path('/proc/cpuinfo').read_text(encoding='utf-8').splitlines()
  except OSError:
    lines = []
  models = (line.partition(':')[2].strip() for line in lines
            if line.startswith('model name'))
  return next(models, platform.processor() or platform.machine())


def _check_out(out) -> None:
  if Path(out).is_dir() or not Path(out).absolute().parent.is_dir():
    raise InputError('--out', got=str(out), expected='a file in an existing folder',
                     remedy='name another file')


def read_groups(out, measured_on: Mapping) -> dict[str, dict]:
  """Groups that a file has; {} without a file, or for figures of other conditions.

  Raises:
    InputError: for a file that is not one of `fibjax bench`.
  """
  if not Path(out).exists():
    return {}
  content = files.read_json(out)
  if not isinstance(content, dict) or set(content) != {'measured_on', 'groups'}:
    raise InputError('--out', got=f'{out}, which is no file of `fibjax bench`',
                     expected='a new file, or one to resume',
                     remedy='name another file, or add --restart to overwrite it')
  changes = sorted(provenance.differences(content['measured_on'], dict(measured_on)))
  if changes:
    progress.say(f'{out}: measuring everything again, since {"; ".join(changes)}')
    return {}
  return content['groups']
