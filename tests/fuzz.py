"""Coverage-guided fuzzing of readers and parsers: python -m tests.fuzz TARGET SECONDS.

Needs the extra `fuzz` (atheris). A target takes bytes; anything but success or an
InputError is a finding. Its input and traceback are written to FOLDER (third word,
default fuzz/TARGET), one for each place in the code, and the search continues; a crash,
a hang of 30 s or memory beyond 2 GB ends it, and libFuzzer writes the input. What was
found becomes a case of tests/zoo.
"""
import contextlib
import hashlib
import json
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

import atheris
import numpy as np

# Pure Python that is worth the slow-down; C libraries give no coverage anyway.
with atheris.instrument_imports(include=['fibjax', 'tifffile', 'mrcfile', 'csv',
                                         'json', 'ast', 'scipy.io']):
  import mrcfile  # noqa: F401
  import tifffile

  from fibjax.annotation import proposals, regions
  from fibjax.cli import data_verbs
  from fibjax.config import overrides, settings
  from fibjax.errors import InputError
  from fibjax.formats import (  # noqa: F401
    foreign_zarr,
    hdf5,
    label_images,
    mat,
    mat5,
    mrc,
    npy,
    png,
    raw,
    slice_names,
    stacks,
    tiff,
  )
  from fibjax.preparation import records, steps
  from fibjax.system import csv_files, json_files
  from fibjax.training import loss_expression
  from fibjax.volumes.volume import new_volume, open_volume, read_box, write_box

from tests import foreign_files
from tests.zoo.stacks import png_bytes

LIMIT_MB, LIMIT_S, MAX_BYTES = 2048, 30, 2**14
_SHAPE = (2, 5, 6)
_WORK = Path(tempfile.mkdtemp(prefix='fibjax_fuzz_'))


def _read(path, **options):
  with stacks.open_stack(path, **options) as stack:
    for z in range(min(3, stack.shape[0])):
      stack.read(z)


def _file(suffix, **options):
  """Bytes of an image file."""
  def target(data: bytes):
    path = _WORK / f'a{suffix}'
    path.write_bytes(data)
    _read(path, **options)
  return target


def _png(data: bytes):
  path = _WORK / 'a.png'
  path.write_bytes(data)
  label_images.read_masks(path)


def _sidecar(data: bytes):
  path = _WORK / 'a.raw'
  if not path.exists():
    path.write_bytes(bytes(2 * 5 * 6 * 2))
  path.with_name('a.raw.json').write_bytes(data)
  _read(path)


def _zarr(kind, names):
  """Bytes of one of the metadata files of a volume; the first byte chooses it."""
  def target(data: bytes):
    path = _WORK / f'{kind}.zarr'
    if not path.exists():
      _write_volume(path, kind)
    file = path / names[data[0] % len(names)] if data else path / names[0]
    good = file.read_bytes()
    try:
      file.write_bytes(data[1:])
      if kind == 'own':
        volume = open_volume(path)
        read_box(volume, (0, 0, 0), [min(n, 2) for n in volume.shape])
      else:
        _read(path)
    finally:
      file.write_bytes(good)
  return target


def _write_volume(path, kind):
  array = np.ones(_SHAPE, np.uint16)
  if kind == 'own':
    with new_volume(path, array.shape, array.dtype, (5, 1, 1), fill_value=None) as new:
      write_box(new, (0, 0, 0), array)
  else:
    foreign_files.write_zarr(path, array, kind)


def _override(data: bytes):
  config = settings.base()
  overrides.apply_override(config, data.decode('utf-8', 'surrogateescape'))
  settings.validate(config)


def _numbers(data: bytes):
  import argparse
  with contextlib.suppress(argparse.ArgumentTypeError):
    values = data_verbs.numbers(float, 3)(data.decode('utf-8', 'surrogateescape'))
    if not all(0 < value <= 1e9 for value in values):
      raise AssertionError(values)


def _table(read):
  def target(data: bytes):
    path = _WORK / 't.csv'
    path.write_bytes(data)
    read(path)
  return target


def _regions(path):
  regions._parse(csv_files.read_rows(path), 't')


def _json(data: bytes):
  content = json_files.parse_json('a', data)
  json.dumps(content, allow_nan=False).encode()


def _loss(data: bytes):
  loss_expression.make_loss(data.decode('utf-8', 'surrogateescape'))


def _steps(data: bytes):
  steps.steps_from(data.decode('utf-8', 'surrogateescape'))


def _record(data: bytes):
  records.check_record(json_files.parse_json('a', data), 2)


def _names(data: bytes):
  names = data.decode('utf-8', 'surrogateescape').split('\n')
  if any(names):  # a folder without slices is refused before
    slice_names.order_slices([name for name in names if name])


def _texts(*texts):
  return lambda: [text.encode() for text in texts]


def _files_of(*suffixes):
  """Good files of some suffixes, as bytes."""
  def seeds():
    contents = []
    for suffix in suffixes:
      for dtype in (np.uint8, np.uint16, np.float32):
        path = _WORK / f'seed{suffix}'
        foreign_files.WRITERS[suffix](path, np.ones(_SHAPE, dtype))
        contents.append(path.read_bytes())
        path.unlink()
    return contents
  return seeds


def _tiffs():
  contents = _files_of('.tif')()
  for options in ({'compression': 'zlib'}, {'compression': 'lzw'}, {'tile': (16, 16)},
                  {'ome': True}, {'bigtiff': True}, {'byteorder': '>'}):
    tifffile.imwrite(_WORK / 'seed.tif', np.ones(_SHAPE, np.uint8), **options,
                     photometric='minisblack')
    contents.append((_WORK / 'seed.tif').read_bytes())
  return contents


def _metadata(kind, names):
  def seeds():
    path = _WORK / f'{kind}.zarr'
    _write_volume(path, kind)
    return [bytes([k]) + (path / name).read_bytes() for k, name in enumerate(names)]
  return seeds


_OWN = ('zarr.json', '0/zarr.json')
_V4, _V5 = ('.zattrs', 's0/.zarray', '.zgroup'), ('zarr.json', 's0/zarr.json')
_CSV = _texts('volume,z,y,x,split\nfilm,1,2,3,train\n', '"a",b\n1,\n',
              'volume,z,y,x,region_px,context_px\nf,1,2,3,4,5\n')
_SIDECAR = ('{"shape": [2, 5, 6], "axes": "zyx", "dtype": "uint16", "byte_order": '
            '"little", "offset": 0, "voxel_size_zyx_nm": [50, 1e1, 10]}')
TARGETS = {  # name -> (function of bytes, () -> good inputs)
    'tif': (_file('.tif'), _tiffs),
    'png': (_png, lambda: [png_bytes(4, 4, bits, data=b'x') for bits in (1, 8, 16)]),
    'mrc': (_file('.mrc'), _files_of('.mrc')),
    'h5': (_file('.h5'), _files_of('.h5')),
    'mat': (_file('.mat', axes='yxz'), _files_of('.mat', '.z.mat', '.73.mat')),
    'npy': (_file('.npy'), _files_of('.npy')),
    'raw': (_sidecar, _texts(_SIDECAR, '{}')),
    'own': (_zarr('own', _OWN), _metadata('own', _OWN)),
    'zarr4': (_zarr('0.4', _V4), _metadata('0.4', _V4)),
    'zarr5': (_zarr('0.5', _V5), _metadata('0.5', _V5)),
    'config': (_override, _texts('train.epochs=3', 'split.fractions=(.6,.2,.2)',
                                 'sweep.sizes=33x1,33x3', 'train.l2=1e-3')),
    'flag': (_numbers, _texts('50,10,10', 'nan,1,1')),
    'csv': (_table(csv_files.read_columns), _CSV),
    'regions': (_table(_regions), _CSV),
    'places': (_table(proposals.load_places), _CSV),
    'json': (_json, _texts('{"a": [1, -2.5e3, true, null, "\\u00e9"]}', _SIDECAR)),
    'loss': (_loss, _texts('bce + 0.5*ramp(0.6, 1)*jaccard', 'fade(0, 1)*focal(2)')),
    'steps': (_steps, _texts('align:trend=linear:mask=false,gradient',
                             'destripe:levels=3')),
    'record': (_record, _texts(
        '{"input": {"shape": [2, 5, 6], "dtype": "uint8", "hash": "0"}, "steps": '
        '[{"name": "brightness", "parameters": {}, "estimated": {"level_z2": [[0, 1], '
        '[0, 1]], "reference": [0, 1]}}]}')),
    'names': (_names, _texts('s_001.tif\ns_002.tif', 'a2b.png\na10b.png'))}


def _place(error: BaseException) -> str:
  """Type of an error and the innermost line of the project."""
  frames = traceback.extract_tb(error.__traceback__)
  inner = [f'{Path(f.filename).name}:{f.lineno}' for f in frames if 'fibjax' in
           f.filename or 'tests' not in f.filename]
  return f'{type(error).__name__} at {inner[-1] if inner else "?"}'


def main() -> None:
  name, seconds = sys.argv[1], int(sys.argv[2])
  folder = Path(sys.argv[3] if len(sys.argv) > 3 else f'fuzz/{name}')
  target, seeds = TARGETS[name]
  corpus, places = folder / 'corpus', set()
  corpus.mkdir(parents=True, exist_ok=True)
  for content in seeds():
    (corpus / hashlib.sha1(content).hexdigest()).write_bytes(content)

  def test_one(data: bytes):
    try:
      target(data)
    except InputError as error:
      if not str(error).isprintable() or len(str(error)) > 4000:
        raise
    except Exception as error:
      place = _place(error)
      if place not in places:
        places.add(place)
        file = folder / f'finding{len(places)}'
        file.write_bytes(data)
        file.with_suffix('.txt').write_text(
            f'{place}\n{"".join(traceback.format_exception(error))[-4000:]}')
        print(f'finding {len(places)}: {place}', flush=True)

  atheris.Setup([sys.argv[0], str(corpus), f'-max_total_time={seconds}',
                 f'-timeout={LIMIT_S}', f'-rss_limit_mb={LIMIT_MB}',
                 f'-max_len={MAX_BYTES}', f'-artifact_prefix={folder}/',
                 '-print_final_stats=1', '-verbosity=0'], test_one)
  try:
    atheris.Fuzz()
  finally:
    shutil.rmtree(_WORK, ignore_errors=True)


if __name__ == '__main__':
  main()
