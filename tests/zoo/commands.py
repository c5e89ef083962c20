"""Bad commands: verbs, flags and their values."""
import os
import zipfile

from tests.zoo.case import Case, film, literal

_NOT_NUMBERS = ('nan', 'inf', '-inf', '-1', '1e400', 'x', '', '9' * 5000, '1,2')
_NUMBERS = {  # flag -> the words before it
    '--mvoxel': ('analyse', '--workdir=w'),
    '--memory_gb': ('segment', '--workdir=w', '--volume=v', '--out=o'),
    '--max_slice_gb': ('inspect', 'a.tif'),
    '--count': ('regions', 'propose', 'v', '--out=o'),
    '--region_px': ('regions', 'export', 'p.csv', 'v', '--out=o'),
    '--seed': ('simulate', '--preset=HPC30', '--shape=9,64,64', '--out=o'),
    '--films': ('coverage', '--workdir=w', '--out=o'),
    '--workers': ('segment', '--workdir=w', '--volume=v', '--out=o'),
    '--geometry_scale': ('simulate', '--preset=HPC30', '--shape=9,64,64', '--out=o')}
_TRIPLES = {
    '--voxel_size_nm': ('import', 'a.tif', '--out=o'),
    '--shape': ('simulate', '--preset=HPC30', '--out=o')}
_NOT_TRIPLES = ('nan,1,1', '1,inf,1', '1,2', '1,2,3,4', '0,1,1', '-1,1,1', 'a,b,c', '',
                '1e300,1,1', '1;2;3')
_WORDS = {
    'no verb': (), 'unknown verb': ('rnu',),
    'verb of control characters': ('\x1b[2Jrun',),
    'verb of 100000 letters': ('r' * 100000,), 'verb of no Unicode': ('run\udcff',),
    'no workdir': ('run', '--config=c.py'), 'unknown flag': ('report', '--workdir=w',
                                                             '--fast'),
    'flag of control characters': ('report', '--workdir=w', '--\x1b]0;owned\x07'),
    'flag of two lines': ('report', '--workdir=w', '--a\nfibjax: all is well'),
    'flag of 100000 letters': ('report', '--workdir=w', '--' + 'a' * 100000),
    'flag of no Unicode': ('report', '--workdir=w', '--\udcff'),
    'setting without a config': ('report', '--workdir=w', '--config.seed=1'),
    'unknown preset': ('simulate', '--preset=HPC31', '--shape=9,64,64', '--out=o'),
    'preset of control characters': ('simulate', '--preset=\x1b[31m',
                                     '--shape=9,64,64', '--out=o'),
    'unknown artefacts': ('simulate', '--preset=HPC30', '--shape=9,64,64', '--out=o',
                          '--artefacts=wild'),
    'film larger than memory': ('simulate', '--preset=HPC30', '--out=o',
                                '--shape=100000,100000,100000'),
    'unknown mode': ('segment', '--workdir=w', '--volume=v', '--out=o', '--mode=fast'),
    'unknown peer': ('bench', '--peer=tf'),
    'unknown group of figures': ('bench', '--only=everything'),
    'workers and a scheduler': ('segment', '--workdir=w', '--volume=v', '--out=o',
                                '--workers=2', '--scheduler=tls://127.0.0.1:1'),
    'a million workers': ('segment', '--workdir=w', '--volume=v', '--out=o',
                          '--workers=1000000'),
    'no such path': ('inspect', 'nothing'),
    'path longer than any': ('inspect', 'a' * 5000),
    'path of long parts': ('import', '/'.join(['a' * 200] * 30), '--out=o'),
    'path of control characters': ('import', '\x1b[2J\x07.tif', '--out=o'),
    'path of no Unicode': ('import', 'a\udcff.tif', '--out=o'),
    'empty path': ('inspect', ''),
    'no such workdir, evaluate': ('evaluate', '--workdir=w'),
    'no such workdir, analyse': ('analyse', '--workdir=w'),
    'no such workdir, report': ('report', '--workdir=w'),
    'no such workdir, segment': ('segment', '--workdir=w', '--volume=v', '--out=o'),
    'no such workdir, coverage': ('coverage', '--workdir=w', '--out=o'),
    'no such volume, view': ('view', 'v'),
    'no such volume, export': ('export', 'v', '--out=a.tif'),
    'no such volume, prep': ('prep', 'v', '--out=o', '--steps=gradient'),
    'no such volume, propose': ('regions', 'propose', 'v', '--out=o'),
    'neither steps nor a record': ('prep', 'v', '--out=o'),
    'both steps and a record': ('prep', 'v', '--out=o', '--steps=gradient',
                                '--replay=r'),
    'no verb of regions': ('regions',), 'unknown verb of regions': ('regions', 'draw'),
    'unknown OME version': ('export', 'v', '--out=o.zarr', '--ome_version=0.6'),
}
_STEPS = ('', 'algin', 'gradient,align', 'gradient,gradient', 'align:trend=cubic',
          'align:trend', 'align:trend=linear:trend=linear', 'destripe:levels=nan',
          'align:nothing=1', 'brightness:window=inf', ',', 'align:\x1b[2J=1',
          'gradient:x=' + '9' * 5000)
_EXPORTS = {'existing file': 'there.tif', 'no suffix': 'film',
            'unknown suffix': 'a.doc', 'suffix of control characters': 'a.\x1b[2J',
            'folder of a file': 'there.tif/a.tif',
            'name longer than any': 'a' * 300 + '.tif'}


def _on_film(*words):
  def make(folder):
    return [word.format(film=film(folder)) if '{film}' in word else word
            for word in words]
  return make


def _export(name):
  def make(folder):
    (folder / 'there.tif').write_bytes(b'')
    return ['export', str(film(folder)), f'--out={folder / name}']
  return make


def _export_with(*words):
  return _on_film('export', '{film}', *words)


def _zip(folder):
  """A zip whose member leads out of the folder; only the published one is unpacked."""
  path = folder / 'a.zip'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('../../evil', b'x')
  return ['import', str(path), f'--out={folder / "out"}']


def _special(kind):
  """A pipe, a device, a loop of links or a broken one in place of a stack."""
  def make(folder):
    path = folder / 'a.tif'
    if kind == 'pipe':
      os.mkfifo(path)
    else:
      path.symlink_to({'device': '/dev/zero', 'loop': 'a.tif', 'broken': 'gone'}[kind])
    return ['inspect', str(path)]
  return make


def cases():
  for flag, words in _NUMBERS.items():
    for k, value in enumerate(_NOT_NUMBERS):
      yield Case(f'{flag}={value[:9]} {k}', literal(*words, f'{flag}={value}'))
  for flag, words in _TRIPLES.items():
    for value in _NOT_TRIPLES:
      yield Case(f'{flag}={value}', literal(*words, f'{flag}={value}'))
  for name, words in _WORDS.items():
    yield Case(name, literal(*words))
  for k, steps in enumerate(_STEPS):
    yield Case(f'steps {steps[:20]!r} {k}',
               _on_film('prep', '{film}', '--out=o.ome.zarr', f'--steps={steps}'))
  for name, out in _EXPORTS.items():
    yield Case(f'export to {name}', _export(out))
  yield Case('export of a named array to TIFF',
             _export_with('--out=a.tif', '--dataset=v'))
  yield Case('export under a name that MATLAB lacks',
             _export_with('--out=a.mat', '--dataset=1 2'))
  yield Case('export in unknown codes', _export_with('--out=a.tif', '--profile=word'))
  yield Case('export of grey values as labels',
             _export_with('--out=a.tif', '--profile=fiji'))
  for how in ('wild', 'uncertain'):  # scores are missing
    yield Case(f'propose {how}', _on_film(
        'regions', 'propose', '{film}', '--out=p.csv', f'--how={how}',
        '--region_px=32', '--context_px=48', '--context_slices=3'))
  yield Case('propose a region larger than the film', _on_film(
      'regions', 'propose', '{film}', '--out=p.csv', '--region_px=4000'))
  yield Case('propose a context smaller than the region', _on_film(
      'regions', 'propose', '{film}', '--out=p.csv', '--region_px=64',
      '--context_px=32', '--context_slices=3'))
  for kind in ('pipe', 'device', 'loop', 'broken'):
    yield Case(f'stack that is a {kind}', _special(kind))
  yield Case('zip whose member leads out', _zip)
