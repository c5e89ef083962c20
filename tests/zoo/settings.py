"""Bad config files, settings and losses."""
from pathlib import Path

from tests.zoo.case import Case

DEMO = str(Path(__file__).parents[2] / 'configs' / 'demo.py')
_OVERRIDES = (
    'seed=nan', 'seed=-1', 'seed=1.5', 'seed=' + '9' * 400, 'seed=0x' + 'f' * 1900,
    'seed=' + '9' * 5000, 'seed=True', 'seed=[1]', 'seed=1j', 'seed=', 'seed', 'sed=1',
    'train=1', 'train.epochs.x=1', '=1', '.=1', 'train..epochs=1',
    'train.epochs=-1', 'train.epochs=inf', 'train.epochs=1e3', 'train.l2=nan',
    'train.l2=inf', 'train.l2=-inf', 'train.l2=1e400', 'train.l2=' + '9' * 400,
    'train.l2=2', 'train.momentum=1', 'train.log10_learning_rate=nan',
    'train.log10_learning_rate=400', 'train.border_sigma_px=0', 'train.batch=-1',
    'train.crop_px=63', 'train.optimizer=adma', 'train.schedule=', 'train.cycles=0',
    'train.weights=there_is_no_such_file.h5', 'split.fractions=(nan,0.5,0.5)',
    'split.fractions=(1e400,0,0)', 'split.fractions=(0.5,0.5)', 'split.fractions=1',
    'split.fractions=((0.6,0.2,0.2),)', 'split.mode=tabel', 'split.allow_overlap=maybe',
    'data.shape_zyx=(1,2)', 'data.shape_zyx=(0,1,1)', 'data.shape_zyx=(1,2,nan)',
    'data.shape_zyx=(9' + '9' * 30 + ',1,1)', 'data.source=films', 'data.seed=-1',
    'data.presets=HPC31', 'data.regions_per_volume=0', 'data.shine_through=nan',
    'compare.shine_through=(0.5,nan)', 'compare.shine_through=(inf,)',
    'model.name=vit', 'model.n_xy=34', 'model.n_z=2', 'model.padding=full',
    'postprocess.sigma_px=nan', 'postprocess.threshold=1e999',
    'postprocess.ndim=4', 'postprocess.connectivity=7', 'analyse.mvoxel=nan',
    'analyse.mvoxel=-1', 'prepare.scale=log', 'segment.mode=fast',
    'train.epochs=' + '(' * 500, 'train.epochs=' + '-' * 1500 + '1',
    'train.epochs=__import__("os").system("touch owned")', 'name=\x1b[2J',
    'name=' + 'a' * 5000, 'forest.min_leaves=(0,)', 'forest.min_leaves=(True,)',
    'sweep.members=0', 'data.volumes=there_is_no_such.ome.zarr')
_LOSSES = (
    '', ' ', 'bce +', 'bcee', 'bce + bce', '2', 'nan*bce', '1e400*bce', '-1*bce',
    'inf*bce', 'bce*jaccard', 'bce - jaccard', 'ramp(0.6)*bce', 'ramp(1, 0.5)*bce',
    'ramp(nan, 1)*bce', 'bce(1)', 'focal("2")', 'focal(-1)', 'focal(x=2)',
    '__import__("os").system("touch owned")', 'bce.__class__', '[bce]', 'lambda: bce',
    'bce if 1 else bce', '(' * 300 + 'bce' + ')' * 300, '+'.join(['bce'] * 3000),
    '-' * 1500 + '1*bce', '9' * 1900 + '*bce', '0x' + 'f' * 1900 + '*bce', 'bce\0',
    'bce\x1b[2J', 'b\u0441e', '1' + '*1' * 900 + '*bcx')
_FILES = {
    'is empty': '', 'has a mistake of syntax': 'def get_config(', 'is binary': '\0\1\2',
    'has no get_config': 'x = 1', 'raises': 'raise RuntimeError("a\\nb\\x1b[2J")',
    'exits': 'import sys\nsys.exit(0)',
    'imports what is not there': 'import nothing_there',
    'recurses': 'def get_config():\n  return get_config()',
    'runs out of memory': 'x = bytes(10**15)',
    'returns None': 'def get_config():\n  return None',
    'returns a dict': 'def get_config():\n  return {"seed": 1}',
    'has a message of a megabyte': 'raise ValueError("x" * 10**6)',
}
_CHANGES = {
    'nan': 'config.train.l2 = float("nan")',
    'inf in a tuple': 'config.split.fractions = (float("inf"), 0.0, 0.0)',
    'nan in a nested tuple': 'config.compare.shine_through = (0.5, (float("nan"),))',
    'a list for a tuple': 'config.split.fractions = [0.6, 0.2, 0.2]',
    'a new key': 'config.train.epoch = 3', 'a new section': 'config.trian = {}',
    'a key less': 'del config.train["epochs"]',
    'a section that is a number': 'del config["train"]\nconfig.train = 3',
    'an integer of 5000 digits': 'config.seed = 10**5000',
    'an integer for a number':
    'with config.ignore_type():\n    config.train.l2 = 10**400',
    'a path with NUL': 'config.data.volumes = ("a\\0b",)',
    'a path of no Unicode': 'config.data.volumes = ("a\\udcff",)',
    'a name of 10 MB': 'config.name = "a" * 10**7',
    'a million members': 'config.data.presets = ("HPC30",) * 10**6',
    'a function': 'with config.ignore_type():\n    config.seed = print',
}


def _run(*words):
  def make(folder):
    return ['run', f'--config={DEMO}', f'--workdir={folder / "w"}',
            *(f'--config.{word}' for word in words)]
  return make


def _file(text, name='config.py', variant=''):
  def make(folder):
    (folder / name).write_text(text)
    return ['run', f'--config={folder / name}{variant}', f'--workdir={folder / "w"}']
  return make


def _changed(change):
  return _file('from fibjax.config import base\n\n\n'
               'def get_config():\n  config = base()\n'
               + ''.join(f'  {line}\n' for line in change.split('\n'))
               + '  return config\n')


def _path(path):
  def make(folder):
    return ['run', f'--config={path.format(folder=folder)}',
            f'--workdir={folder / "w"}']
  return make


def cases():
  for k, override in enumerate(_OVERRIDES):
    yield Case(f'{override[:30]} {k}', _run(override))
  for k, loss in enumerate(_LOSSES):
    if '\0' not in loss:  # no word of a command has it
      yield Case(f'loss {loss[:20]!r} {k}', _run(f'train.loss={loss}'))
  yield Case('network deeper than its windows', _run('model.name=unet',
                                                     'model.depth=99'))
  yield Case('losses alike', _run("sweep.losses=bce,b ce", 'sweep.members=2'))
  for name, text in _FILES.items():
    yield Case(f'config that {name}', _file(text))
  for name, change in _CHANGES.items():
    yield Case(f'config with {name}', _changed(change))
  yield Case('config of another suffix', _file('', 'config.txt'))
  yield Case('config of an unknown variant', _path(DEMO + ':tinny'))
  yield Case('config of a variant of control characters', _path(DEMO + ':\x1b[2J'))
  yield Case('config that is a folder', _path('{folder}'))
  yield Case('config that is not there', _path('{folder}/nothing.py'))
  yield Case('config that is a device', _path('/dev/zero'))
  yield Case('config of a comparison', _path(DEMO.replace('demo', 'compare') + ':tiny'))
