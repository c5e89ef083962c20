"""Every setting is read by a job: the reads are recorded while tiny jobs run."""
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from fibjax.config import base, load
from fibjax.errors import InputError

CONFIGS = Path(__file__).parents[1] / 'configs'
SECTIONS = {frozenset(section): name for name, section in base().items()
            if isinstance(section, ConfigDict)} | {frozenset(base()): ''}


class StopError(Exception):
  """Ends a job whose remaining stages read nothing new."""


@pytest.fixture
def reads(monkeypatch):
  """Dotted keys that modules of fibjax outside fibjax.config read, as they do.

  Copying a whole section, as dict(config.model) does, reads none of its keys.
  """
  found, copying = set(), set()

  def place():
    """Function and line that asks for a value or for the names of a section."""
    frame = sys._getframe(2)
    reader = frame.f_globals.get('__name__', '')
    if reader.startswith('fibjax.') and not reader.startswith('fibjax.config'):
      return frame.f_code, frame.f_lineno
    return None

  def record(name):
    original = getattr(ConfigDict, name)

    def read(section, key):
      here = place()
      if here is not None and here not in copying:
        section_name = SECTIONS[frozenset(names_of(section))]
        found.add(f'{section_name}.{key}'.removeprefix('.'))
      return original(section, key)
    monkeypatch.setattr(ConfigDict, name, read)

  names_of = ConfigDict.keys

  def keys(section):
    copying.add(place())
    return names_of(section)
  record('__getattr__')
  record('__getitem__')
  monkeypatch.setattr(ConfigDict, 'keys', keys)
  return found


def test_reads_are_recorded_but_not_copies(reads):
  code = """
def read(config): return config.train.batch, config['data']['root']
def copy(config): return dict(config.model)
"""
  module = {'__name__': 'fibjax.somewhere'}
  exec(code, module)
  config = base()
  assert module['copy'](config) == {key: config.model[key] for key in config.model}
  assert module['read'](config) == (config.train.batch, config.data.root)
  assert reads == {'model', 'train', 'train.batch', 'data', 'data.root'}


def names():
  """All settings but the name of the experiment, which only labels its config.json."""
  for key, value in base().items():
    if isinstance(value, ConfigDict):
      yield from (f'{key}.{name}' for name in value)
    elif key != 'name':
      yield key


SMALL = ('data.shape_zyx=8,96,96', 'data.regions_per_volume=6', 'model.n_z=1',
         'train.epochs=1', 'train.steps_per_epoch=1', 'train.val_windows=1',
         'train.augment=dihedral', 'analyse.mvoxel=0')


def stop(*_, **__):
  raise StopError


def run_until(monkeypatch, stage: str, job, *arguments):
  """Runs a job until it calls a stage."""
  with monkeypatch.context() as patch, pytest.raises(StopError):
    patch.setattr(stage, stop)
    job(*arguments)


@pytest.mark.long
def test_every_setting_is_read_by_some_job(reads, tmp_path, monkeypatch):
  from fibjax.pipeline import run
  from fibjax.studies import (
    compare_methods,
    ensemble,
    label_study,
    sweep,
    training_slices,
  )
  for source in ('data.source=volumes', 'data.source=flyem'):
    with pytest.raises(InputError):  # their files are missing
      run.train_only(load(str(CONFIGS / 'demo.py'), (source, 'data.root=nowhere')),
                     tmp_path / source, False)
  run_until(monkeypatch, 'fibjax.training.loop.train_members', run.train_only,
            load(f'{CONFIGS / "demo.py"}:tiny', ('model.name=unet',)),
            tmp_path / 'unet', False)
  run_until(monkeypatch, 'fibjax.pipeline.stages.score_volumes', run.run,
            load(f'{CONFIGS / "demo.py"}', (
                'data.shape_zyx=40,96,96', 'data.presets=HPC30', 'data.region_px=32',
                'data.regions_per_volume=6', 'train.crop_px=32', 'train.epochs=0')),
            tmp_path / 'shipped')
  run_until(monkeypatch, 'fibjax.training.loop.train_members', run.train_only,
            load(f'{CONFIGS / "pretrain.py"}:tiny'), tmp_path / 'random', False)
  run_until(monkeypatch, 'fibjax.studies.label_study._measure_apart',
            label_study.run_label_study, load(f'{CONFIGS / "labels.py"}:tiny'),
            tmp_path / 'labels')
  run_until(monkeypatch, 'fibjax.studies.compare_methods._measure_once',
            compare_methods.run_compare, load(f'{CONFIGS / "compare.py"}:tiny'),
            tmp_path / 'compare')
  # What a study reads of its trials it reads before the first of them.
  run_until(monkeypatch, 'fibjax.studies.training_slices._run_trial',
            training_slices.run_study, load(f'{CONFIGS / "membrane.py"}:tiny', (
                'data.shape_zyx=40,48,48', 'forest.features=F1',
                'postprocess.tune=none')), tmp_path / 'study')
  # A sweep that compares losses, then its ensemble: all stages of the main job. What
  # follows measures, without settings.
  config = load(f'{CONFIGS / "demo.py"}:ensemble_tiny', (*SMALL, 'sweep.losses=bce'))
  run_until(monkeypatch, 'fibjax.studies.sweep.load_member', sweep.run_sweep, config,
            tmp_path / 'ensemble')
  run_until(monkeypatch, 'fibjax.studies.ensemble.measure', ensemble.run_ensemble,
            config, tmp_path / 'ensemble')
  with pytest.raises(InputError, match='analyse.mvoxel'):
    run.analyse_again(tmp_path / 'ensemble')
  run_until(monkeypatch, 'fibjax.pipeline.measure.analyse_run', run.analyse_again,
            tmp_path / 'ensemble', 0.1)
  assert set(names()) - reads == set()
