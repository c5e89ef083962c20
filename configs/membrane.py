"""Training slices for a residual U-Net on a membrane of 80 % porosity.

A random forest and an emulated correction make the labels (§2, §3.3); 5 or 20 slices,
from the top or distributed, train five seeds each (§3).

COMMAND   fibjax study --config=configs/membrane.py --workdir=workdirs/membrane
HARDWARE  2 CPU cores, 63 minutes beside another study
SCORE     accuracy at slices 434 and 598, distributed minus initial: +0.031 [0.015,
          0.048] with 5 slices, +0.055 [0.034, 0.077] with 20, interaction +0.024
          [0.006, 0.042]; `:flat` +0.006 [0.002, 0.010], -0.002 [-0.004, -0.000]
          (63 minutes); `:auto` with the three placements, 20 slices, uncertain minus
          distributed +0.010 [0.003, 0.017] (25 minutes) (2026-11-26)
RESULT    workdirs/membrane/report.html, study.json and trials/*/slices.csv

The variant `flat` has no trends along z, so placement should not matter. The variant
`auto` needs no person: the forest's uncertainty chooses the slices, and its labels are
not corrected; `--config.study.placements=initial,distributed,uncertain` compares that
with the two other placements.
"""
from fibjax.config import base, unknown_variant


def get_config(variant: str = 'base'):
  """Variants: base; flat; auto; tiny and auto_tiny (a minute, for tests)."""
  known = ('base', 'flat', 'auto', 'tiny', 'auto_tiny')
  if variant not in known:
    raise unknown_variant(variant, known)
  config = base()
  config.postprocess.tune = 'miou'
  config.name = 'membrane'
  config.data.source = 'simulate'
  config.data.presets = ('MEM80FLAT',) if variant == 'flat' else ('MEM80',)
  config.data.shape_zyx = (600, 192, 192)
  config.forest.features = 'F3'
  config.forest.trees = 50
  config.forest.min_leaves = (5, 20, 50)
  config.train.voxel_fraction = 0.2
  config.model.name = 'resunet'
  config.model.n_z = 5
  config.model.base = 8
  config.train.augment = 'physical'
  config.train.balance = 'natural'
  config.train.batch = 4
  config.train.crop_px = 64
  config.train.epochs = 20
  config.train.steps_per_epoch = 20
  config.train.val_windows = 16
  config.train.patience = 15
  config.sweep.members = 5
  config.study.counts = (5, 20)
  config.study.painted = 16
  if variant.startswith('auto'):
    config.study.counts = (20,)
    config.study.placements = ('uncertain',)
    config.study.correction = 0.0
  if variant.endswith('tiny'):
    config.data.shape_zyx = (40, 96, 96)
    config.forest.trees = 5
    config.forest.min_leaves = (5,)
    config.model.base = 4
    config.model.depth = 1
    config.train.crop_px = 32
    config.train.epochs = 2
    config.train.steps_per_epoch = 4
    config.train.val_windows = 4
    config.sweep.members = 2
    config.study.counts = (2,) if variant.startswith('auto') else (2, 4)
    config.study.test_slices = (5, 25, 38)
    config.study.painted = 4
  return config
