"""All methods on the same films, with pore-backs off, at half and at full strength.

COMMAND   fibjax compare --config=configs/compare.py --workdir=workdirs/compare
HARDWARE  2 CPU cores, 92 minutes beside other work
SCORE     test mIoU of three films, pore-backs off, half, full: CNN 0.984, 0.975, 0.907;
          forest 0.988, 0.977, 0.840; U-Net 0.986, 0.977, 0.892; threshold
          backpropagation, the best classical method with pore-backs, 0.969, 0.949,
          0.723 (2026-11-26)
RESULT    workdirs/compare/report.html and compare.json

On the public FlyEM volume, which has no pore-backs (see flyem.py):

COMMAND   fibjax compare --config=configs/compare.py:flyem \
              --config.data.root=DIR --workdir=workdirs/compare_flyem
HARDWARE  2 CPU cores, 35 minutes beside other work
SCORE     test mIoU: U-Net 0.796, residual U-Net 0.776, CNN 0.747, forest 0.739,
          Sauvola 0.615 (2026-11-26)
"""
from fibjax.config import base, unknown_variant


def get_config(variant: str = 'base'):
  """Variants: base; flyem; tiny (some minutes on a CPU, for tests)."""
  known = ('base', 'flyem', 'tiny')
  if variant not in known:
    raise unknown_variant(variant, known)
  config = base()
  config.postprocess.tune = 'miou'
  config.name = 'compare'
  config.compare.methods = (
      'patch_cnn', 'forest', 'resunet', 'unet', 'otsu', 'sauvola', 'threshold_surface',
      'level_set', 'morphological_profile', 'threshold_backpropagation',
      'marker_watershed', 'optical_flow')
  config.data.source = 'flyem' if variant == 'flyem' else 'simulate'
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
  config.forest.trees = 50
  config.forest.min_leaves = (5, 20, 50)
  if variant == 'flyem':  # no pore-backs
    config.prepare.gradient = False
    config.train.augment = 'dihedral'
  if variant == 'tiny':
    config.data.presets = ('HPC30',)
    config.data.shape_zyx = (16, 112, 112)
    config.data.regions_per_volume = 10
    config.data.region_px = 32
    config.model.n_z = 3
    config.model.base = 4
    config.model.depth = 1
    config.train.crop_px = 32
    config.train.epochs = 2
    config.train.steps_per_epoch = 4
    config.train.val_windows = 4
    config.train.voxel_fraction = 0.2
    config.forest.trees = 5
    config.forest.min_leaves = (5,)
    config.compare.shine_through = (0.0, 1.0)
    config.compare.methods = ('patch_cnn', 'forest', 'resunet', 'otsu')
  return config
