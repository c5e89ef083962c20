"""Rules for the values of settings, alone and in combination."""
import itertools
import math
import re

from fibjax.errors import did_you_mean, printable

# Type of the entries of every setting that is a tuple.
MEMBER_TYPES = {
    'volumes': str, 'regions': str, 'presets': str, 'geometries': str, 'shape_zyx': int,
    'fractions': (int, float), 'sizes': str, 'losses': str, 'halving': int,
    'replay': int, 'min_leaves': int, 'methods': str, 'shine_through': (int, float),
    'ways': str, 'budgets': int, 'counts': int, 'placements': str, 'test_slices': int}

MAX_TEXT = 2000  # characters, or members of a tuple
_MAX_WHOLE = 2**53  # beyond it JSON and float64 lose digits
_NOT_TEXT = re.compile('[\0-\x1f\x7f-\x9f\ud800-\udfff]')


def wrong_value(value, default, member_type) -> str:
  """What was expected of a value by the type of its default; '' for a right one.

  Args:
    value: of a setting.
    default: of the same setting.
    member_type: of the entries of a tuple, as for isinstance; None for no tuple.
  """
  if type(value) is not type(default):
    return type(default).__name__
  if not isinstance(value, tuple):
    return _wrong_number_or_text(value)
  if len(value) > MAX_TEXT:
    return f'at most {MAX_TEXT} members'
  if not all(isinstance(member, member_type) and not isinstance(member, bool)
             for member in value):
    return 'members of another type'
  return next(filter(None, map(_wrong_number_or_text, value)), '')


def _wrong_number_or_text(value) -> str:
  if isinstance(value, float) and not math.isfinite(value):
    return 'a finite number'
  if isinstance(value, int) and abs(value) > _MAX_WHOLE:
    return f'at most {_MAX_WHOLE}'
  if isinstance(value, str) and (len(value) > MAX_TEXT or _NOT_TEXT.search(value)):
    return f'at most {MAX_TEXT} characters of text'
  return ''


def shown(value) -> str:
  """A value for a message; shortened, since several values share one."""
  try:
    return printable(repr(value), 200)
  except ValueError:  # Python refuses to write integers of thousands of digits
    return 'a value with an integer of thousands of digits'


def rules(config):
  """Yields (key, value, whether the rule holds, expectation) of every rule."""
  def one_of(section, key, known):
    value = config[section][key]
    expected = f'one of {", ".join(map(str, known))}'
    if similar := did_you_mean(value, map(str, known)):
      expected += f'; {similar}'
    return f'{section}.{key}', value, value in known, expected

  def within(section, key, low, high):
    value = config[section][key]
    return f'{section}.{key}', value, low <= value <= high, f'{low} to {high}'

  for part in (_data_rules, _training_rules, _forest_rules, _study_rules,
               _segmentation_rules):
    yield from part(config, one_of, within)


def _data_rules(config, one_of, within):
  data = config.data
  geometries = data.geometries
  yield ('data.geometries', geometries,
         not geometries or (len(geometries) == len(data.presets)
                            and data.source == 'simulate'),
         "none, or one for each of data.presets, with data.source='simulate'")
  yield within('data', 'geometry_scale', 1, 1000)
  yield one_of('data', 'artefacts', ('none', 'mild', 'real'))
  yield within('data', 'shine_through', 0, 10)
  yield ('compare.shine_through', config.compare.shine_through,
         min(config.compare.shine_through, default=-1) >= 0, 'numbers from 0')
  for key, seed in (('seed', config.seed), ('data.seed', data.seed)):
    yield key, seed, 0 <= seed < 2 ** 31, '0 to 2147483647'
  shape = data.shape_zyx
  yield ('data.shape_zyx', shape, len(shape) == 3 and min(shape) > 0,
         'three positive integers')
  yield within('data', 'regions_per_volume', 1, 100000)
  yield within('data', 'region_px', 1, 100000)
  yield one_of('split', 'mode', ('table', 'paper', 'blocked'))
  fractions = config.split.fractions
  yield ('split.fractions', fractions, len(fractions) == 3
         and all(f >= 0 for f in fractions) and abs(sum(fractions) - 1) < 1e-6,
         'three shares that add up to 1')
  yield one_of('prepare', 'scale', ('dtype', 'minmax_volume', 'standard'))


def _forest_rules(config, one_of, within):
  del one_of, within
  forest = config.forest
  yield ('forest.features', forest.features, forest.features in ('F1', 'F2', 'F3'),
         'one of F1, F2, F3')
  yield 'forest.trees', forest.trees, 1 <= forest.trees <= 10000, '1 to 10000'
  yield ('forest.min_leaves', forest.min_leaves,
         min(forest.min_leaves, default=0) > 0, 'positive integers')


def _study_rules(config, one_of, within):
  yield within('sweep', 'members', 1, 99999)
  yield one_of('sweep', 'draw', ('seeds', 'random'))
  yield one_of('sweep', 'weights', ('best', 'average'))
  bare = [loss.replace(' ', '') for loss in config.sweep.losses]
  yield ('sweep.losses', config.sweep.losses, len(set(bare)) == len(bare),
         'different expressions')
  yield within('sweep', 'group', 0, 99999)
  halving = config.sweep.halving
  yield ('sweep.halving', halving, all(0 < epoch < config.train.epochs
                                       for epoch in halving),
         'numbers of epochs before the last')
  replay = config.sweep.replay
  stops = (0, *replay, config.train.epochs)
  yield ('sweep.replay', replay, not replay or (not halving and all(
      low < high for low, high in itertools.pairwise(stops))),
         'rising numbers of epochs before the last, without sweep.halving')
  yield ('sweep.replay_draws', config.sweep.replay_draws,
         config.sweep.replay_draws >= 2
         and (not replay or config.sweep.replay_draws <= config.sweep.members),
         '2 to sweep.members')
  yield within('ensemble', 'top', 1, 99999)
  yield one_of('ensemble', 'selection', ('top', 'greedy'))
  yield one_of('ensemble', 'weights', ('best', 'average', 'snapshots'))
  yield ('ensemble.weights', config.ensemble.weights,
         config.ensemble.weights != 'snapshots' or config.train.schedule == 'cycles',
         "train.schedule='cycles' for snapshots")
  study = config.study
  yield ('study.budgets', study.budgets, min(study.budgets, default=2) >= 2,
         'numbers from 2: one region to train, one to validate')
  yield ('study.ways', study.ways, bool(study.ways) == bool(study.budgets)
         and not (study.ways and study.counts),
         'with study.budgets, without study.counts')
  yield within('study', 'seeds', 1, 1000)
  yield within('study', 'painted', 2, 10000)
  yield within('study', 'painted_share', 0.001, 1)
  yield within('study', 'correction', 0, 1)


def _segmentation_rules(config, one_of, within):
  yield one_of('segment', 'mode', ('auto', 'dense', 'patch'))
  yield one_of('postprocess', 'tune', ('miou', 'porosity', 'none'))
  yield within('postprocess', 'sigma_px', 0, 50)
  yield within('postprocess', 'threshold', 0, 0.9999)
  yield one_of('postprocess', 'kernel', ('matlab', 'scipy4sigma'))
  yield within('postprocess', 'min_size_vox', 0, 10 ** 9)
  yield within('analyse', 'mvoxel', 0, 10 ** 5)
  draws = config.analyse.draws
  yield 'analyse.draws', draws, draws == 0 or 8 <= draws <= 10000, '0, or 8 to 10000'
  yield within('analyse', 'confidence', 0.01, 0.999)
  axes = config.analyse.stokes_axes
  yield 'analyse.stokes_axes', axes, set(axes) <= set('zyx'), "some of 'zyx'"
  known = {2: (4, 8), 3: (6, 18, 26)}
  ndim = config.postprocess.ndim
  yield one_of('postprocess', 'ndim', (2, 3))
  if ndim in known:
    yield one_of('postprocess', 'connectivity', known[ndim])


def _training_rules(config, one_of, within):
  train = config.train
  yield within('model', 'coarse', 0, 1000)
  yield one_of('train', 'sampling', ('dense', 'patch'))
  yield 'train.voxel_fraction', train.voxel_fraction, 0 < train.voxel_fraction <= 1, (
      'above 0, at most 1')
  for key in ('batch', 'steps_per_epoch', 'val_windows', 'decay_epochs'):
    yield within('train', key, 1, 10 ** 7)
  yield within('train', 'epochs', 0 if train.start else 1, 10 ** 7)
  yield 'train.crop_px', train.crop_px, train.crop_px > 0 and train.crop_px % 16 == 0, (
      'a positive multiple of 16')
  yield within('train', 'films', 0, 10 ** 5)
  yield ('train.films', train.films, not train.films or train.sampling == 'dense',
         "0 unless train.sampling='dense'")
  yield within('data', 'films', 1, 10 ** 4)
  yield within('train', 'unlabelled', 0, 1000)
  yield ('train.unlabelled', train.unlabelled,
         not train.unlabelled or train.sampling == 'dense',
         "0 unless train.sampling='dense'")
  yield ('train.teacher', train.teacher, not train.teacher or train.unlabelled > 0,
         "'' without train.unlabelled")
  yield within('train', 'teacher_decay', 0, 0.99999)
  yield ('train.start', train.start, not (train.start and train.weights),
         "'' with train.weights")
  yield ('train.mixed_batches', train.mixed_batches,
         not train.mixed_batches or (train.sampling == 'dense' and not train.films),
         "False unless train.sampling='dense' and train.films=0")
  yield one_of('train', 'balance', ('classes', 'natural'))
  yield one_of('train', 'consensus', ('mean', 'staple'))
  yield one_of('train', 'augment', ('dihedral', 'full', 'physical'))
  yield within('train', 'patience', 0, 10 ** 7)
  yield within('data', 'experts', 0, 100)
  yield within('data', 'expert_sd_px', 0, 1000)
  yield within('data', 'expert_omission', 0, 1)
  yield one_of('train', 'keep', ('best', 'average'))
  yield one_of('train', 'optimizer', ('adam', 'sgd'))
  yield one_of('train', 'schedule', ('cosine', 'steps', 'cycles'))
  yield ('train.cycles', train.cycles, train.cycles > 0 and not (
      train.schedule == 'cycles' and train.cycles > train.epochs), '1 to train.epochs')
  yield within('train', 'log10_learning_rate', -8, 1)
  yield within('train', 'border_weight', -0.999, 1000)
  yield within('train', 'border_sigma_px', 0.1, 1000)
  yield within('train', 'label_smoothing_px', 0, 1000)
  for key in ('l2', 'intensity_mean_sd', 'intensity_deviation_sd'):
    yield within('train', key, 0, 1)
  for key in ('momentum', 'dropout_dense', 'dropout_spatial'):
    yield within('train', key, 0, 0.999)
