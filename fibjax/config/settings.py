"""Experiment settings: one complete, validated ml_collections.ConfigDict.

`base()` lists every setting with its default, unit and source. An experiment file in
configs/ defines `get_config(variant)`, which changes some of them. `load` reads such a
file, applies overrides from the command line and checks everything at once. No default
is set anywhere else. `§1.7` refers to section 1.7 of fibjax/METHODS.md.
"""
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict
from ml_collections.config_dict import create

from fibjax.config import rules
from fibjax.config.overrides import apply_override
from fibjax.errors import InputError, did_you_mean, unknown


def base() -> ConfigDict:
  """Returns every setting with its default."""
  config = ConfigDict()
  config.name = 'base'
  config.seed = 0  # of a training run: initialisation, order, augmentation, dropout

  config.data = _data()
  config.split = create(
      mode='table',  # 'table': column of regions.csv | 'paper' | 'blocked' (§1.3)
      fractions=(0.6, 0.2, 0.2),  # train, val, test; by region, per volume
      allow_overlap=False,  # of splits in 'table': scores are then too good
  )
  config.prepare = create(
      # 'dtype': range of the data type | 'minmax_volume' (§1.2) | 'standard': by mean
      # and sd of each volume
      scale='dtype',
      gradient=True,  # remove the linear gradient along image rows (§1.2)
  )
  config.model = create(
      name='patch_cnn',  # one of METHODS (fibjax/methods/registry.py)
      n_z=3,  # slices seen: 1, 3, ... 15; the paper's up to 11
      # the sliding-window network
      n_xy=33,  # side of the neighbourhood, px: 33, 49, ... 241; paper: to 113
      padding='context',  # 'context' | 'same' (zeros, the published network)
      coarse=0,  # channels of a second, coarse path that sees 252 px; 0: none
      # U-Nets
      base=16,  # channels at full resolution; doubled at every halving of it
      depth=3,  # number of times the resolution is halved
      norm='group',  # 'group' | 'batch' | 'none' (models/layers.py)
      standardise=True,  # by mean and sd of the training images; published: False
  )
  config.forest = create(  # random forest (§2); train.voxel_fraction of voxels
      features='F1',  # 'F1': smoothed slices | 'F2': + derivatives | 'F3': + steps in z
      trees=100,
      min_leaves=(1, 5, 20, 50, 100),  # smallest leaf sizes, tried in turn
  )
  config.train = _train()
  config.sweep = _sweep()
  config.ensemble = create(
      top=8,  # members, over all sizes
      # 'top': of lowest validation BCE | 'greedy': best together, with replacement
      selection='top',
      weights='best',  # best epoch | 'average': of the last epochs (SWA) | 'snapshots'
      dihedral=False,  # average over the 8 symmetries of a square; 8 times the work
      growth=False,  # whether to report quality against the number and kind of members
  )
  config.compare = create(
      methods=(),  # values of model.name, for `fibjax compare`
      shine_through=(0.0, 0.5, 1.0),  # values of data.shine_through, a film for each
  )
  config.study = _study()
  config.segment = create(
      mode='auto',  # 'auto' | 'dense' | 'patch'
  )
  config.postprocess = _postprocess()
  config.analyse = create(
      mvoxel=4.0,  # size of the central box that is measured, million voxels; 0: none
      draws=24,  # plausible segmentations for intervals, at least 8; 0: no intervals
      confidence=0.9,  # of the intervals
      stokes_axes='',  # e.g. 'zyx': axes of the permeability, which takes minutes
  )
  return config


def _data() -> ConfigDict:
  return create(
      source='volumes',  # one of SOURCES (fibjax/datasets/collect.py)
      seed=0,  # of films, regions, splits and the choice of validation voxels
      # source = 'volumes'
      volumes=(),  # paths of volumes made by `fibjax import`
      regions=(),  # folders with regions.csv and masks.npy, any number
      # source = 'flyem', 'zenodo'
      root='',  # folder of the FlyEM files; the unpacked record 10.5281/zenodo.4317170
      # source = 'simulate': one film per preset (§7)
      presets=('HPC22', 'HPC30', 'HPC45'),
      shape_zyx=(16, 320, 320),  # voxels of each film
      geometries=(),  # files of real geometries (1 solid, others pore), one per preset
      geometry_scale=4,  # fine voxels per voxel of such a file
      artefacts='mild',  # 'none' | 'mild' | 'real'
      shine_through=1.0,  # factor on the brightness of pore-backs; 0: none visible
      experts=0,  # number of emulated annotators of a film's regions; 0: ground truth
      expert_sd_px=2.0,  # sd by which the outlines of each stray from the true ones
      expert_omission=0.5,  # probability that each misses a small pore
      # source = 'random': films of random materials
      films=12,
      # source = 'simulate', 'random'
      regions_per_volume=20,
      region_px=96,  # side of a simulated region
  )


def _train() -> ConfigDict:
  return create(
      films=0,  # random films per epoch that replace the training regions; 0: none
      unlabelled=0.0,  # weight of the loss on windows without labels (§8.2); 0: none
      # what labels them: '': a moving average of the weights | a model like `start`
      teacher='',
      teacher_decay=0.99,  # of that average, per step
      # weights to begin with: 'shipped', the name of a model that fibjax comes with, or
      # a folder of `fibjax share`
      start='',
      weights='',  # replaces training: 'archive' (published) or a Keras HDF5 file
      sampling='dense',  # 'dense': windows | 'patch': single voxels (§1.4)
      voxel_fraction=0.01,  # share of the labelled voxels that 'patch' uses (§1.4)
      batch=2,  # windows, or voxels for 'patch', per step
      crop_px=64,  # side of a window's labelled area; multiple of 16; 'dense' only
      steps_per_epoch=100,  # 'dense' only; an epoch of 'patch' is one pass
      val_windows=64,  # windows of crop_px in the validation set, 'dense' only
      mixed_batches=False,  # both phases in every batch; 'dense' only
      balance='classes',  # 'classes': 50/50 | 'natural': as annotated; 'dense' only
      epochs=20,  # 0: the weights of `start` as they are
      patience=0,  # stops after as many epochs without a lower validation BCE; 0: never
      keep='best',  # weights of a run: 'best' epoch | 'average' of the last ones (SWA)
      augment='dihedral',  # and intensity (§1.6) | 'full' | 'physical' (§3.5)
      optimizer='adam',  # 'adam' | 'sgd' (momentum as in Keras)
      momentum=0.9,  # of 'sgd'; b1 of 'adam'
      schedule='cosine',  # 'cosine' | 'steps' (published) | 'cycles' (snapshots)
      cycles=4,  # of 'cycles'; the weights at the end of each are kept
      log10_learning_rate=-3.0,  # of the first step
      decay_epochs=8,  # k of 'steps': divides the rate by 10^0.25 every k epochs
      loss='bce',  # e.g. 'bce + 0.5*ramp(0.6, 1)*jaccard' (training/losses.py)
      log='',  # metrics go to files, and: 'mlflow' (training/metrics_log.py)
      consensus='mean',  # of several annotators of a region: 'mean' | 'staple' (§8.1)
      border_weight=0.0,  # w0: voxels at the interface weigh 1 + w0; above -1
      border_sigma_px=5.0,  # decay of that weight with the distance to the interface
      label_smoothing_px=0.0,  # within it of an interface labels are soft (§8.5)
      l2=4.16e-6,  # c of the penalty c ||w||^2 on kernels
      dropout_dense=0.2,  # p_d, dense layers
      dropout_spatial=0.1,  # p_sd, whole feature maps
      intensity_mean_sd=0.048,  # a of the intensity augmentation (§1.6)
      intensity_deviation_sd=0.056,  # b
  )


def _sweep() -> ConfigDict:
  return create(
      sizes=(),  # n_xy x n_z, e.g. ('33x1', '33x3'); (): that of config.model
      members=8,  # of each size
      draw='seeds',  # 'seeds': only seeds differ | 'random': random search (§1.7)
      group=0,  # members trained together on a device; 0: as many as fit
      # expressions like train.loss, compared with the first, with settings of weights,
      # labels and batches: 'bce label_smoothing_px=2'; (): train.loss
      losses=(),
      weights='best',  # weights that losses are compared with: 'best' | 'average' (SWA)
      halving=(),  # epochs after which the worse half of a group stops
      # such epochs, of which to report what they would have found; without `halving`
      replay=(),
      replay_draws=32,  # members in each repetition of that
  )


def _study() -> ConfigDict:
  return create(
      # Label budgets, for `fibjax study`
      ways=(),  # 'NAME: KEY=VALUE ...', the settings of a way to train
      budgets=(),  # numbers of regions per volume for training and validation
      seeds=3,  # runs of each, every one with its own draw of regions
      # Training slices, for `fibjax study` (§3)
      counts=(),  # numbers of training slices
      placements=('initial', 'distributed'),  # | 'uncertain'
      test_slices=(47, 434, 598),
      painted=8,  # partly painted slices that train the forest
      painted_share=0.25,  # of the area of each
      correction=0.8,  # share of pore-backs that the emulated correction finds
      labels='',  # instead: a label volume corrected by hand
  )


def _postprocess() -> ConfigDict:
  return create(
      # 'miou': the published choice of sigma_px and threshold, on the validation
      # regions; 'porosity': without bias of the porosity, on training and validation
      # regions; 'none' (§1.10).
      tune='porosity',
      sigma_px=2.63,  # where tune is 'none' (published value)
      threshold=0.402,  # where tune is 'none' (published value)
      kernel='matlab',  # 'matlab' | 'scipy4sigma': cut off at 2 or 4 sigma (PP1)
      min_size_vox=100,  # removes smaller objects of either phase
      ndim=3,  # 3 | 2: objects in the volume or in each slice (PP4)
      connectivity=26,  # 26, 18, 6 in 3-D; 8, 4 in 2-D
  )


def load(argument: str, overrides: tuple[str, ...] = ()) -> ConfigDict:
  """Reads FILE[:VARIANT], applies KEY=VALUE overrides and validates.

  Args:
    argument: path of an experiment file, with an optional variant after a colon.
    overrides: e.g. ('train.epochs=3', 'data.root=/data').

  Returns:
    The locked config; its paths are absolute.

  Raises:
    InputError: for a missing file, an unknown variant or key, a value of another type
      or out of range; all bad values in one message.
  """
  path, _, variant = argument.rpartition(':')
  if not path or set(variant) & set('/\\'):  # no variant; 'C:' is a drive of Windows
    path, variant = argument, ''
  return change(_read_file(Path(path), variant), overrides)


def change(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
  """Changes settings of a copy, and validates it.

  Args:
    config: the experiment.
    overrides: KEY=VALUE texts.

  Returns:
    The locked copy; its paths are absolute.

  Raises:
    InputError: for an unknown key, a value of another type or out of range.
  """
  config = config.copy_and_resolve_references()
  for override in overrides:
    apply_override(config, override)
  validate(config)
  data = config.data
  for key in ('volumes', 'regions', 'geometries'):
    data[key] = tuple(str(Path(path).resolve()) for path in data[key])
  if data.root:
    data.root = str(Path(data.root).resolve())
  for key in ('start', 'teacher'):
    if config.train[key] and Path(config.train[key]).is_dir():  # else a model's name
      config.train[key] = str(Path(config.train[key]).resolve())
  if config.train.weights not in ('', 'archive'):
    config.train.weights = str(Path(config.train.weights).resolve())
  return config.lock()


def _read_file(path: Path, variant: str) -> ConfigDict:
  if not path.is_file() or path.suffix != '.py':
    raise InputError('--config', got=f'{str(path)!r}', expected='a Python file',
                     remedy='name an experiment file such as configs/demo.py')
  spec = importlib.util.spec_from_file_location(path.stem, path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    config = module.get_config(variant) if variant else module.get_config()
  except InputError:
    raise
  except (Exception, SystemExit) as error:  # whatever the user's own code raises
    raise InputError(str(path), got=f'{type(error).__name__}: {error}',
                     expected='a file with get_config(variant)',
                     remedy='compare with configs/demo.py') from None
  if not isinstance(config, ConfigDict):
    raise InputError(str(path), got=type(config).__name__,
                     expected='get_config to return a ConfigDict',
                     remedy='compare with configs/demo.py')
  return config


def unknown_variant(variant: str, known: tuple[str, ...]) -> InputError:
  """Builds the error that an experiment file raises for a variant it lacks."""
  return unknown('--config variant', variant, known, 'write FILE or FILE:VARIANT')


def validate(config: ConfigDict) -> None:
  """Checks keys and types against `base()`, ranges and combinations by the rules.

  Raises:
    InputError: naming every setting that is wrong.
  """
  problems = list(_schema_problems(config, base(), ''))
  if not problems:
    problems = [f'{key}={rules.shown(value)} (expected {expected})'
                for key, value, holds, expected in rules.rules(config)
                if not holds]
  if problems:
    raise InputError('config', got='; '.join(problems), expected='valid settings',
                     remedy='change them in the file or by --config.KEY=VALUE')


def _schema_problems(config, schema, prefix: str):
  for key in sorted(set(config) | set(schema)):
    if key not in schema:
      similar = did_you_mean(key, schema)
      yield f'unknown key {prefix}{key}' + (f' ({similar})' if similar else '')
    elif key not in config:
      yield f'missing key {prefix}{key}'
    elif isinstance(schema[key], ConfigDict):
      if isinstance(config[key], ConfigDict):
        yield from _schema_problems(config[key], schema[key], f'{prefix}{key}.')
      else:
        yield f'{prefix}{key}={rules.shown(config[key])} (expected a section)'
    elif expected := rules.wrong_value(config[key], schema[key],
                                       rules.MEMBER_TYPES.get(key)):
      yield f'{prefix}{key}={rules.shown(config[key])} (expected {expected})'


def check_section(name: str, changes: Mapping) -> ConfigDict:
  """Changes some settings of a section with its defaults, and validates it.

  Args:
    name: of the section, e.g. 'train'.
    changes: values by key.

  Returns:
    The whole section.

  Raises:
    InputError: for an unknown key, a value of another type or out of range.
  """
  config = base()
  section = config[name]
  for key, value in changes.items():
    if key not in section:
      raise unknown(f'setting of {name}', key, section)
    default = section[key]
    if type(default) is float and type(value) is int:
      value = float(value)
    if type(value) is not type(default):
      raise InputError(f'{name}.{key}', got=repr(value),
                       expected=type(default).__name__,
                       remedy=f'write it like {default!r}')
    section[key] = value
  validate(config)
  return section


def to_dict(config: ConfigDict) -> dict:
  """Plain JSON content of a config: nested dicts, lists for tuples."""
  return json.loads(config.to_json())


def from_dict(content: dict) -> ConfigDict:
  """Inverse of `to_dict`: tuples for lists; validated and locked."""
  config = base()
  try:
    _fill(config, content)
  except (AttributeError, KeyError, TypeError) as error:
    raise InputError('config.json', got=str(error), expected='settings of this version',
                     remedy='start again in another --workdir') from None
  validate(config)
  return config.lock()


def _fill(config: ConfigDict, content: dict) -> None:
  for key, value in content.items():
    if isinstance(value, dict):
      _fill(config[key], value)
    else:
      config[key] = tuple(value) if isinstance(value, list) else value
