from pathlib import Path

import pytest

from fibjax.config import from_dict, load, to_dict
from fibjax.errors import InputError
from fibjax.methods.registry import make_method
from fibjax.models import make_model

FILES = sorted((Path(__file__).parents[1] / 'configs').glob('*.py'))
DEMO = str(Path(__file__).parents[1] / 'configs' / 'demo.py')


@pytest.mark.parametrize('path', FILES, ids=lambda p: p.stem)
@pytest.mark.parametrize('variant', ['', 'tiny'])
def test_every_config_loads_and_survives_json(path, variant):
  config = load(f'{path}:{variant}')
  make_model(config.model)
  assert from_dict(to_dict(config)).to_json() == config.to_json()
  assert config.name == path.stem
  assert path.read_text().startswith('"""') and 'COMMAND' in path.read_text()


def test_overrides_of_every_type():
  config = load(DEMO, (
      'train.epochs=3', 'train.l2=1', 'data.volumes=a.zarr,b.zarr', 'name=x y',
      'data.shape_zyx=9,80,80', 'prepare.gradient=false', 'data.root=/a=b',
      'data.source=volumes'))
  assert config.train.epochs == 3
  assert config.train.l2 == 1.0 and isinstance(config.train.l2, float)
  assert config.data.volumes == tuple(str(Path(p).resolve())
                                      for p in ('a.zarr', 'b.zarr'))
  assert config.data.shape_zyx == (9, 80, 80)
  assert config.prepare.gradient is False
  assert config.data.root == '/a=b'
  assert config.name == 'x y'
  assert load(DEMO, ('data.source=volumes', 'data.volumes=2024')
                      ).data.volumes == (
      str(Path('2024').resolve()),)


@pytest.mark.parametrize('override, message', [
    ('train.epoch=3', r'unknown key.*epochs.*did you mean --config\.train\.epochs\?'),
    ('trian.epochs=3', r'unknown key.*train.*did you mean --config\.train\.epochs\?'),
    ('epochs=3', r'unknown key.*sweep, train.*mean --config\.train\.epochs\?'),
    ('train.epochs.x=3', 'unknown key'),
    ('xyzzy=3', 'unknown key.*check the spelling'),
    ('data.artefacts=mildd', "one of none, mild, real; did you mean 'mild'"),
    ('data.artefacts=xyzzy', r'one of none, mild, real\)'),
    ('train.epochs=many', 'expected int'),
    ('train.epochs=1e3', 'expected int'),
    ('train.epochs=true', 'expected int'),
    ('train.l2=x', 'expected float'),
    ('prepare.gradient=1', 'expected bool'),
    ('train=3', 'single setting'),
    ('train.epochs', 'KEY=VALUE'),
    ('train.epochs=0', 'train.epochs=0.*1 to'),
    ('split.fractions=1,2,3', 'add up to 1'),
    ('train.crop_px=17', 'multiple of 16'),
    ('postprocess.connectivity=8', 'connectivity=8'),
    ('split.fractions=a,b,c', 'split.fractions.*expected tuple'),
    ("data.shape_zyx='a',2,3", 'members of another type'),
    ('seed=-1', 'seed=-1'), ('seed=9999999999', 'seed='),
    ('postprocess.threshold=1', 'threshold=1'),
])
def test_bad_overrides_are_named(override, message):
  with pytest.raises(InputError, match=message):
    load(f'{DEMO}:tiny', (override,))  # which starts from random weights


@pytest.mark.parametrize('overrides, message', [
    (('model.padding=same',), "'patch' where model.padding"),
    (('model.name=unet', 'train.sampling=patch'), 'train.sampling.*model.name=unet'),
    (('model.name=unnet',), "one of .*; did you mean 'unet'")])
def test_a_method_refuses_settings_that_do_not_suit_it(overrides, message):
  with pytest.raises(InputError, match=message):
    make_method(load(DEMO, overrides))


def test_all_problems_come_in_one_message():
  with pytest.raises(InputError, match=r'train\.epochs=0.*train\.crop_px=3'):
    load(f'{DEMO}:tiny', ('train.crop_px=3', 'train.epochs=0'))


@pytest.mark.parametrize('text, message', [
    ('def get_config(variant="base"):\n  return 1 +', 'SyntaxError'),
    ('x = 1', 'get_config'),
    ('from fibjax.config import base\ndef get_config():\n  c = base()\n'
     '  c.train.nonsense = 1\n  return c', r'unknown key train\.nonsense'),
    ('from fibjax.config import base\ndef get_config():\n  c = base()\n'
     '  c.trian.epochs = 1\n  return c', 'AttributeError'),
    ('from fibjax.config import base\ndef get_config():\n  c = base()\n'
     '  c.train.epochs = 3.5\n  return c', 'TypeError'),
    ('from fibjax.config import base\ndef get_config():\n  c = base()\n'
     '  c.train.epoch = 1\n  return c', r"unknown key train\.epoch .*mean 'epochs'"),
    ('def get_config():\n  return 3', 'int.*ConfigDict'),
    ('from fibjax.config import base\ndef get_config():\n  c = base()\n'
     '  del c.train.epochs\n  return c', r'missing key train\.epochs'),
])
def test_broken_config_files_are_named(tmp_path, text, message):
  path = tmp_path / 'mine.py'
  path.write_text(text)
  with pytest.raises(InputError, match=message):
    load(str(path))


def test_missing_file_and_unknown_variant():
  with pytest.raises(InputError, match='Python file'):
    load('configs/nothing.py')
  for argument in (r'C:\nothing.py', r'C:\nothing.py:tiny'):  # a drive is no variant
    with pytest.raises(InputError, match=r"got 'C:\\\\nothing\.py'"):
      load(argument)
  with pytest.raises(InputError, match="'huge'.*base.*tiny"):
    load(f'{DEMO}:huge')
  with pytest.raises(InputError, match="'ensemblee'.*did you mean 'ensemble'"):
    load(f'{DEMO}:ensemblee')


def test_a_config_json_of_another_version_is_named():
  content = to_dict(load(DEMO))
  content['train']['old_key'] = {'a': 1}
  with pytest.raises(InputError, match=r'config\.json|old_key'):
    from_dict(content)
