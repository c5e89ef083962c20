"""The random forest as stages of a run: training on regions, scores of volumes.

Same regions, split and post-processing as for the networks (methods, section 2): voxels
are drawn balanced by class from the training regions (§1.4), the smallest leaf is
chosen on as many of the validation regions, and volumes are scored shard by shard.
A workdir gets forest.npz and forest.json, a row for each smallest leaf tried.
"""
import functools
from pathlib import Path

import numpy as np

from fibjax.annotation.regions import Regions
from fibjax.errors import InputError
from fibjax.methods import scale_space
from fibjax.methods.forest import (
  Forest,
  fit_forest,
  load_forest,
  save_forest,
  score_block,
)
from fibjax.models import params
from fibjax.system import files, progress
from fibjax.system.cluster import Resources
from fibjax.training import sampling
from fibjax.volumes import blockwise
from fibjax.volumes.blockwise import Steps
from fibjax.volumes.volume import Volume, open_volume, read_mirrored


def train(config, prepared: dict[str, Volume], train_regions: Regions,
          val_regions: Regions, folder: Path) -> None:
  """Trains the forest of config.forest; once.

  Args:
    config: the experiment; train.voxel_fraction of the labelled voxels are used.
    prepared: volumes by name.
    train_regions, val_regions: annotated regions.
    folder: workdir.

  Raises:
    InputError: when a class is missing, or settings are none.
  """
  if (folder / 'forest.npz').exists():
    return
  settings, sides = config.forest, []
  for k, regions in enumerate((train_regions, val_regions)):
    voxels_n3 = sampling.sample_voxels(regions.masks_ryx, config.train.voxel_fraction,
                                      config.data.seed + k)
    sides += [scale_space.sample_features(prepared, regions, voxels_n3,
                                          settings.features),
              regions.masks_ryx[tuple(voxels_n3.T)]]
  forest, rows = fit_forest(
      *sides, feature_set=settings.features, trees=settings.trees,
      min_leaves=settings.min_leaves, seed=config.seed)
  files.write_json(folder / 'forest.json', rows)
  save_forest(folder / 'forest.npz', forest)
  best = max(rows, key=lambda row: row['val_miou'])
  progress.say(f'forest of {settings.trees} trees, smallest leaf {best["min_leaf"]}: '
               f'validation mIoU {best["val_miou"]:.4f}')


def window_zyx(settings) -> tuple[int, int, int]:
  """Voxels that a volume has at least; borders are mirrored, so one in y and x."""
  return scale_space.n_slices(settings.features), 1, 1


def load(folder: Path) -> Forest:
  """The forest of a workdir.

  Raises:
    InputError: when it has none, or a damaged one.
  """
  path = folder / 'forest.npz'
  if not path.exists():
    raise InputError(str(folder), got='no forest', expected='a trained run',
                     remedy='run `fibjax train` with this workdir first')
  return load_forest(path)


def score_volume(forest: Forest, source: Volume, out, resources: Resources) -> Volume:
  """Scores every voxel of a prepared volume; as `infer.score_volume`."""
  arrays = {name: value for name, value in forest._asdict().items()
            if name != 'settings'}
  fingerprint = {'forest': params.hash_params(arrays), 'settings': forest.settings,
                 'source': files.hash_files(source.path)}
  open_steps = functools.partial(_open_steps, forest, source.path)
  return blockwise.make_volume(out, source, np.float32, open_steps, fingerprint,
                            f'score {source.path.name}', resources)


def _open_steps(forest: Forest, path: Path) -> Steps:
  source = open_volume(path)
  margins = scale_space.margin_zyx(forest.settings['feature_set'])

  def read(box):
    start, stop = box
    return read_mirrored(source,
                         [a - m for a, m in zip(start, margins, strict=True)],
                         [b + m for b, m in zip(stop, margins, strict=True)])

  return Steps(read, lambda _, block_zyx: score_block(forest, block_zyx))
