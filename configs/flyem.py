"""Real FIB-SEM: FlyEM Drosophila medulla, neuron boundary against interior.

180 x 250 x 250 voxels of 10 nm, 8 bit, from the public repository
janelia-flyem/neuroproof_examples (training_sample2), CC BY 3.0; cite Parag et al. 2015,
PLoS ONE 10(5):e0125825. config.data.root is the folder that holds
gray_z180_y250_x250_u8.tif and bodies_z180_y250_x250_u16.tif (the first 180 of 250
slices, repacked). Slices 0-119 train, 120-149 validate, 150-179 test. The neuron
boundary plays the role of pore.

COMMAND   fibjax run --config=configs/flyem.py --config.data.root=DIR \
              --workdir=workdirs/flyem
HARDWARE  2 CPU cores, 5 min 30 s
SCORE     test mIoU 0.739 at score > 0.5, 0.761 after post-processing (2026-11-26); best
          grey threshold, chosen on the test regions, 0.625
"""
from fibjax.config import base, unknown_variant


def get_config(variant: str = 'base'):
  """Variants: base; tiny (a minute, for tests)."""
  if variant not in ('base', 'tiny'):
    raise unknown_variant(variant, ('base', 'tiny'))
  config = base()
  config.postprocess.tune = 'miou'
  config.name = 'flyem'
  config.data.source = 'flyem'
  config.prepare.gradient = False
  config.model.n_z = 5
  config.train.steps_per_epoch = 80
  config.train.val_windows = 64
  config.train.epochs = 12
  if variant == 'tiny':
    config.model.n_z = 1
    config.train.epochs = 1
    config.train.batch = 2
    config.train.crop_px = 32
    config.train.steps_per_epoch = 4
    config.train.val_windows = 4
  return config
