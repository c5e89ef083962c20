"""Comparison of losses, each trained with the same seeds on the same simulated films.

COMMAND   fibjax sweep --config=configs/losses.py --workdir=workdirs/losses
HARDWARE  2 CPU cores, 46 minutes beside other work
SCORE     test mIoU 0.841 (bce), 0.842 (bce + ramp(0.6, 1)*jaccard), 0.836 (dice);
          jaccard and lovasz alone: two of four seeds call everything one phase
          (2026-11-26)
RESULT    workdirs/losses/sweep/report.html and losses.json
"""
from fibjax.config import base, unknown_variant


def get_config(variant: str = 'base'):
  """Variants: base; tiny (a minute, for tests)."""
  if variant not in ('base', 'tiny'):
    raise unknown_variant(variant, ('base', 'tiny'))
  config = base()
  config.postprocess.tune = 'miou'
  config.name = 'losses'
  config.data.source = 'simulate'
  config.data.shape_zyx = (48, 288, 288)
  config.data.regions_per_volume = 60
  config.data.region_px = 128
  config.model.n_z = 7
  config.train.steps_per_epoch = 32
  config.train.val_windows = 24
  config.train.balance = 'natural'
  config.train.log10_learning_rate = -2.8
  config.train.dropout_dense = 0.1
  config.train.dropout_spatial = 0.05
  config.train.epochs = 8
  config.sweep.members = 4
  config.sweep.weights = 'average'  # an epoch chosen by BCE would favour BCE
  config.sweep.losses = ('bce', 'dice', 'jaccard', 'lovasz',
                         'bce + ramp(0.6, 1)*jaccard', 'bce + 0.5*porosity')
  if variant == 'tiny':
    config.data.presets = ('HPC30',)
    config.data.shape_zyx = (9, 96, 96)
    config.data.regions_per_volume = 10
    config.data.region_px = 32
    config.model.n_z = 1
    config.train.crop_px = 32
    config.train.epochs = 1
    config.train.steps_per_epoch = 2
    config.train.val_windows = 2
    config.sweep.members = 2
    config.sweep.losses = ('bce', 'jaccard')
  return config
