"""The main job on three simulated films (HPC22, HPC30, HPC45), in minutes.

It begins with the network that fibjax comes with, and its report says what that does
without a label.

COMMAND   fibjax run --config=configs/demo.py --workdir=workdirs/demo
HARDWARE  2 CPU cores, 19 minutes beside other work, 10 of them for intervals
SCORE     test mIoU after post-processing 0.848, 0.922, 0.914 for HPC22, HPC30, HPC45;
          without a label 0.705, 0.876, 0.756; best grey threshold, chosen on the test
          regions, 0.524, 0.668, 0.542; porosity of the films wrong by +0.2, -0.1 and
          -1.1 points (2026-12-01)

An ensemble of 8 seeds on the same films, variant `ensemble`:

COMMAND   fibjax ensemble --config=configs/demo.py:ensemble --workdir=workdirs/ensemble
          --config.postprocess.tune=miou --config.analyse.draws=0
HARDWARE  2 CPU cores, 34 minutes
SCORE     test mIoU 0.913, members 0.906 ± 0.006; Brier score 0.030, members 0.032
          (2026-11-26)

A config file is Python code and is executed: run only files that you trust.
"""
from fibjax.config import base, unknown_variant


def get_config(variant: str = 'base'):
  """Variants: base; ensemble (8 seeds); tiny, ensemble_tiny (a minute, tests)."""
  known = ('base', 'tiny', 'ensemble', 'ensemble_tiny')
  if variant not in known:
    raise unknown_variant(variant, known)
  config = base()
  config.name = 'demo'
  config.data.source = 'simulate'
  config.data.shape_zyx = (48, 288, 288)
  config.data.regions_per_volume = 60
  config.data.region_px = 128
  config.model.n_z = 7
  config.train.steps_per_epoch = 32
  config.train.val_windows = 48
  config.train.balance = 'natural'
  config.train.log10_learning_rate = -2.8
  config.train.dropout_dense = 0.1
  config.train.dropout_spatial = 0.05
  config.train.augment = 'physical'
  config.train.epochs = 20
  config.analyse.mvoxel = 2.0
  if variant == 'base':
    config.prepare.scale = 'standard'
    config.train.start = 'shipped'
    config.train.log10_learning_rate = -3.3
    config.train.epochs = 12
  if variant.startswith('ensemble'):
    config.sweep.members = config.ensemble.top = 8
  if variant.endswith('tiny'):
    config.analyse.mvoxel = 0.1
    config.analyse.draws = 0
    config.data.presets = ('HPC30',)
    config.data.shape_zyx = (16, 160, 160)
    config.data.regions_per_volume = 10
    config.model.n_z = 3
    config.data.region_px = 32
    config.train.crop_px = 32
    config.train.batch = 2
    config.train.epochs = 2
    config.train.steps_per_epoch = 4
    config.train.val_windows = 4
    config.sweep.members = config.ensemble.top = 2
  return config
