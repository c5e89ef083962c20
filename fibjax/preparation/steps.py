"""Steps that correct a raw slice: their parameters, estimates and application.

  align       rigid transform per slice, crop to the area that all slices show
              (alignment.py)
  gradient    linear gradient along image rows (scaling.py)
  brightness  gain and offset per slice, from the solid (brightness.py)
  destripe    curtains (destripe.py)
  normalise   local contrast, mapped back to the volume's scale (brightness.py)

A step is a pure function of a slice, its index z, the step's parameters and the
estimates for the stack. Parameters and estimates are JSON. Names of estimates with one
entry per slice end in _z (numbers) or _z2, _z3 (rows of numbers). Grey values are
float32 on the raw scale, solid brighter than pores. A new step is one entry of KINDS.
"""
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fibjax.errors import InputError, unknown
from fibjax.preparation import alignment, brightness, destripe, scaling
from fibjax.preparation.brightness import SolidLevel

# Epsilon of the local normalisation, in standard deviations of the volume: without it
# noise in featureless places would be amplified to full contrast.
_EPSILON = 0.01
_KIND_NAMES = {bool: 'a bool', str: 'a text', int: 'a whole number',
               float: 'a number'}
# Calls a function with each slice, in order, in threads, so that it must be pure.
Mapped = Callable[[Callable[[np.ndarray], object]], Iterator]


class Step(NamedTuple):
  """A step by name; parameters that are left out have their defaults."""
  name: str
  parameters: dict


class Parameter(NamedTuple):
  """A parameter: its default, which sets its type; its minimum; its choices, if any."""
  default: bool | int | float | str
  low: float = 0.0
  choices: tuple[str, ...] = ()


class _Kind(NamedTuple):
  """A kind of step.

  Attributes:
    parameters: by name.
    estimates: names of what `estimate` returns.
    estimate: (mapped, parameters, shape_yx) -> estimates.
    apply: (image_yx, z, parameters, estimated) -> float32 [y, x].
  """
  parameters: dict[str, Parameter]
  estimates: tuple[str, ...]
  estimate: Callable[[Mapped, dict, tuple[int, int]], dict]
  apply: Callable[[np.ndarray, int, dict, dict], np.ndarray]


def steps_from(text: str) -> tuple[Step, ...]:
  """Parses a chain of steps, e.g. 'align:trend=linear:mask=false,gradient'.

  Args:
    text: steps separated by commas, each followed by its parameters, ':name=value'.

  Returns:
    Steps with all parameters, checked by `complete`.

  Raises:
    InputError: for an unknown name or a bad value; lists the known ones.
  """
  steps = []
  for part in text.split(','):
    name, *settings = (word.strip() for word in part.split(':'))
    parameters = {}
    for setting in settings:
      key, equals, value = setting.partition('=')
      if not equals or key in parameters:
        raise InputError(f'step {name}', got=repr(setting),
                         expected='NAME=VALUE, each name once',
                         remedy='for example align:trend=linear')
      parameters[key] = _parse(name, key, value)
    steps.append(Step(name, parameters))
  return complete(steps)


def complete(steps: Sequence[Step]) -> tuple[Step, ...]:
  """Checks a chain and fills in default parameters.

  Raises:
    InputError: for no step, an unknown name, a wrong order, or a bad parameter.
  """
  names = [step.name for step in steps]
  for name in names:
    _kind(name)
  if not names or names != [name for name in KINDS if name in names]:
    raise InputError('steps', got=','.join(names) or 'none', remedy='reorder them',
                     expected=f'some of {",".join(KINDS)}, in this order')
  return tuple(Step(step.name, _completed(step)) for step in steps)


def estimate(step: Step, mapped: Mapped, shape_yx: tuple[int, int]) -> dict:
  """Estimates the values that a step derives from the whole stack, as JSON.

  Args:
    step: with all parameters.
    mapped: calls a function with each slice, corrected by the steps before.
    shape_yx: of these slices.

  Raises:
    InputError: for a slice that does not allow it.
  """
  return KINDS[step.name].estimate(mapped, step.parameters, shape_yx)


def apply(step: Step, estimated: dict, image_yx: np.ndarray, z: int) -> np.ndarray:
  """Applies a step to a slice.

  Args:
    step: with all parameters.
    estimated: from `estimate`.
    image_yx: corrected by the steps before; for 'align', as acquired.
    z: its index in the stack.

  Returns:
    float32 [y, x].
  """
  return KINDS[step.name].apply(image_yx, z, step.parameters, estimated)


def check_estimated(step: Step, estimated, slices: int) -> None:
  """Raises InputError unless the estimates of a record are complete."""
  names = KINDS[step.name].estimates
  if not isinstance(estimated, dict) or set(estimated) != set(names):
    raise InputError(f'record of step {step.name}', remedy='run fibjax prep again',
                     got=f'estimates {sorted(estimated) if estimated else "none"}',
                     expected=', '.join(names) or 'none')
  shapes = {'z2': (slices, 2), 'z3': (slices, 3), 'yx': (2,), 'reference': (2,)}
  for name, values in estimated.items():
    shape = shapes.get(name.rpartition('_')[2], ())
    try:
      got = np.shape(np.array(values, float))
    except (TypeError, ValueError):
      got = None
    if name != 'limited' and got != shape:
      raise InputError(f'record of step {step.name}',
                       got=f'{name} of shape {got}' if got else f'other {name}',
                       expected=f'numbers of shape {shape} for {slices} slices',
                       remedy='use the record of this stack')


def _kind(name):
  if name not in KINDS:
    raise unknown('steps', name, KINDS)
  return KINDS[name]


def _known(name, key) -> Parameter:
  known = _kind(name).parameters
  if key not in known:
    if not known:
      raise InputError(f'step {name}', got=f'parameter {key!r}',
                       expected='no parameter', remedy='leave it out')
    raise unknown(f'step {name}: parameter', key, known)
  return known[key]


def _parse(name, key, text):
  """Parses the value of a parameter; it has the type of the default."""
  wanted = type(_known(name, key).default)
  try:
    if wanted is bool:
      return {'true': True, 'false': False}[text.lower()]
    return wanted(text)
  except (KeyError, ValueError):
    raise InputError(f'step {name}:{key}', got=repr(text), remedy='correct it',
                     expected='true or false' if wanted is bool else
                     f'a value like {_known(name, key).default}') from None


def _completed(step) -> dict:
  """All parameters of a step, checked."""
  for key, value in step.parameters.items():
    known = _known(step.name, key)
    wanted = type(known.default)
    right_type = isinstance(value, (int, float) if wanted is float else wanted) and (
        wanted is bool or not isinstance(value, bool))
    in_range = isinstance(value, str | bool) or known.low <= value < np.inf
    if not (right_type and in_range) or known.choices and value not in known.choices:
      if known.choices:
        raise unknown(f'step {step.name}:{key}', value, known.choices)
      least = '' if wanted in (bool, str) else f' >= {known.low:g}'
      expected = _KIND_NAMES[wanted] + least
      raise InputError(f'step {step.name}:{key}', got=repr(value), expected=expected,
                       remedy='correct it')
  known = KINDS[step.name].parameters
  return {key: step.parameters.get(key, known[key].default) for key in known}


def _estimate_align(mapped, parameters, shape_yx):
  images = mapped(alignment.clip_pores if parameters['mask'] else np.asarray)
  pairs = alignment.register_pairs(images, parameters['max_angle_deg'])
  rigid_z3 = alignment.detrend(alignment.accumulate(pairs.rigid_z3),
                               parameters['trend'], parameters['sigma_z'])
  start_yx, stop_yx = alignment.common_box(rigid_z3, shape_yx)
  return {'pairs_z3': pairs.rigid_z3.tolist(), 'limited': pairs.limited,
          'rigid_z3': rigid_z3.tolist(), 'start_yx': list(start_yx),
          'stop_yx': list(stop_yx)}


def _align(image_yx, z, parameters, estimated):
  return alignment.resample(image_yx, estimated['rigid_z3'][z], estimated['start_yx'],
                            estimated['stop_yx'])


def _estimate_gradient(mapped, parameters, shape_yx):
  row_sums_y, slices = np.zeros(shape_yx[0]), 0
  for row_means_y in mapped(lambda image_yx: image_yx.mean(1, dtype=np.float64)):
    row_sums_y += row_means_y
    slices += 1
  return {'beta_per_px': scaling.fit_row_gradient(row_sums_y / slices)}


def _subtract_gradient(image_yx, z, parameters, estimated):
  return scaling.subtract_row_gradient(
      image_yx, estimated['beta_per_px']).astype(np.float32)


def _estimate_brightness(mapped, parameters, shape_yx):
  levels_z = list(mapped(brightness.solid_level))
  return {'level_z2': [list(level) for level in levels_z],
          'reference': list(brightness.reference_level(levels_z))}


def _match_brightness(image_yx, z, parameters, estimated):
  return brightness.match_level(image_yx, SolidLevel(*estimated['level_z2'][z]),
                                SolidLevel(*estimated['reference']))


def _estimate_nothing(mapped, parameters, shape_yx):
  return {}


def _destripe(image_yx, z, parameters, estimated):
  return destripe.remove_stripes(image_yx, **parameters)


def _estimate_scale(mapped, parameters, shape_yx):
  means_z, variances_z = np.transpose(list(mapped(
      lambda image_yx: (image_yx.mean(dtype=np.float64),
                        image_yx.var(dtype=np.float64)))))
  return {'mean': float(means_z.mean()),
          'sd': float(np.sqrt(variances_z.mean() + means_z.var()))}


def _normalise(image_yx, z, parameters, estimated):
  mean, sd = estimated['mean'], estimated['sd']
  local_yx = brightness.normalise_locally(image_yx, parameters['window_px'],
                                          _EPSILON * sd)
  return (mean + sd * local_yx).astype(np.float32)


KINDS = {
    'align': _Kind(
        {'mask': Parameter(True), 'trend': Parameter('highpass',
                                                     choices=alignment.TRENDS),
         'sigma_z': Parameter(15.0, low=1.0), 'max_angle_deg': Parameter(0.2)},
        ('pairs_z3', 'limited', 'rigid_z3', 'start_yx', 'stop_yx'),
        _estimate_align, _align),
    'gradient': _Kind({}, ('beta_per_px',), _estimate_gradient, _subtract_gradient),
    'brightness': _Kind({}, ('level_z2', 'reference'), _estimate_brightness,
                        _match_brightness),
    'destripe': _Kind(
        {'wavelet': Parameter('db15', choices=destripe.WAVELETS),
         'levels': Parameter(9, low=1), 'sigma': Parameter(2.0, low=0.1)},
        (), _estimate_nothing, _destripe),
    'normalise': _Kind({'window_px': Parameter(151, low=3)}, ('mean', 'sd'),
                       _estimate_scale, _normalise),
}
