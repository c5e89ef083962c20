"""How many regions to annotate: ways to train against the number of regions.

COMMAND   fibjax study --config=configs/labels.py --workdir=workdirs/labels
HARDWARE  2 CPU cores; not measured yet
SCORE     not measured yet
"""
from fibjax.config import base, unknown_variant

CNN = ('model.name=patch_cnn train.start=cnn_33x7 prepare.scale=standard '
       'train.log10_learning_rate=-3.3 train.epochs=12')


def get_config(variant: str = 'base'):
  """Variants: base; ct (needs --config.data.geometries, two files of real geometries);
  flyem (needs --config.data.root); context (how far the network sees, at 36 regions);
  tiny (a minute or two, tests)."""
  known = ('base', 'ct', 'flyem', 'context', 'tiny')
  if variant not in known:
    raise unknown_variant(variant, known)
  config = base()
  config.name = 'labels'
  config.study.ways = (
      'forest: model.name=forest',
      'CNN: model.name=patch_cnn',
      f'CNN, no label: {CNN.replace("epochs=12", "epochs=0")} postprocess.tune=none '
      'postprocess.sigma_px=0.0 postprocess.threshold=0.5',
      f'CNN, pre-trained: {CNN}',
      f'CNN, pre-trained and unlabelled: {CNN} train.unlabelled=1.0',
      'U-Net: model.name=unet')
  config.study.budgets = (2, 8, 36)
  config.study.seeds = 3
  config.data.source = 'flyem' if variant == 'flyem' else 'simulate'
  config.data.shape_zyx = (48, 288, 288)
  config.data.regions_per_volume = 60
  config.data.region_px = 128
  config.model.n_z = 7
  config.train.batch = 1
  config.train.steps_per_epoch = 32
  config.train.val_windows = 24
  config.train.balance = 'natural'
  config.train.log10_learning_rate = -2.8
  config.train.dropout_dense = 0.1
  config.train.dropout_spatial = 0.05
  config.train.augment = 'physical'
  config.train.epochs = 24
  config.forest.trees = 50
  config.forest.min_leaves = (5, 20, 50)
  if variant == 'ct':  # imaged as no preset is
    config.data.presets = ('HPC30', 'HPC45')
    config.data.artefacts = 'real'
    config.data.shine_through = 1.3
  if variant == 'context':
    config.study.ways = ('33: model.n_xy=33', '65: model.n_xy=65',
                         '33 and coarse path: model.coarse=16')
    config.study.budgets = (36,)
    config.study.seeds = 4
  if variant == 'flyem':  # no pore-backs
    config.prepare.gradient = False
    config.train.augment = 'dihedral'
  if variant == 'tiny':
    config.study.ways = (
        'forest: model.name=forest',
        'CNN and unlabelled: model.name=patch_cnn train.unlabelled=1.0')
    config.study.budgets = (2, 4)
    config.study.seeds = 2
    config.data.presets = ('HPC30',)
    config.data.shape_zyx = (16, 112, 112)
    config.data.regions_per_volume = 10
    config.data.region_px = 32
    config.model.n_z = 3
    config.train.crop_px = 32
    config.train.epochs = 1
    config.train.steps_per_epoch = 2
    config.train.val_windows = 4
    config.train.voxel_fraction = 0.05
    config.forest.trees = 5
    config.forest.min_leaves = (5,)
  return config
