"""fibjax: segmentation of FIB-SEM nanotomography volumes of porous materials in JAX.

The names below are the library. Arrays go in and arrays come out, [z, y, x] with z
along the milling direction; labels are 0 pore, 1 solid, 255 unlabelled; a score is
P(solid).
Every mistake in the input is an `InputError` that names the remedy. Importing fibjax is
quick: a name is loaded, with what it needs, when it is first used.

Data: `read_stack`, `write_stack`, `open_volume`, `simulate_film`, `make_regions`,
`assign_splits`, `load_regions`, `save_regions`.
Preparation: `correct_stack`, `scale_image`.
Segmentation: `train`, `load`, `Segmenter`, `double_threshold`, `remove_small`.
Measurement: `measure`, `permeability`.
Research: `make_model`, `make_loss`, `cut_contexts`, `put_regions`, `make_member`,
`train_network`, `train_networks`, `train_settings`.
"""
import importlib

# Name -> module and, where it differs, its name there.
_SURFACE = {
    'InputError': 'errors',
    'read_stack': 'formats.stacks',
    'write_stack': 'formats.stacks',
    'open_volume': 'volumes.volume',
    'simulate_film': 'simulation.films',
    'make_regions': 'annotation.regions',
    'assign_splits': 'annotation.splits',
    'load_regions': 'annotation.regions',
    'save_regions': 'annotation.regions',
    'correct_stack': 'preparation.chain:apply_steps_to_array',
    'scale_image': 'preparation.scaling',
    'train': 'pipeline.arrays',
    'load': 'pipeline.segmenter',
    'Segmenter': 'pipeline.segmenter',
    'double_threshold': 'inference.postprocess',
    'remove_small': 'inference.small_objects',
    'measure': 'pipeline.measure',
    'permeability': 'analysis.permeability',
    'make_model': 'pipeline.arrays',
    'make_loss': 'training.loss_expression',
    'cut_contexts': 'pipeline.arrays',
    'put_regions': 'training.sampling',
    'make_member': 'training.loop',
    'train_network': 'training.single',
    'train_networks': 'training.single',
    'train_settings': 'pipeline.arrays',
}
__all__ = list(_SURFACE)
__version__ = '0.1.0'


def __getattr__(name: str):
  if name not in _SURFACE:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  module, _, there = _SURFACE[name].partition(':')
  value = getattr(importlib.import_module(f'{__name__}.{module}'), there or name)
  globals()[name] = value
  return value


def __dir__():
  return sorted({*globals(), *__all__})
