"""The random forest as a method (§2): training on regions, scorers of trained runs.

Regions, split and post-processing are those of the networks. Voxels are drawn balanced
by class from the training regions (§1.4), and the smallest leaf is chosen on voxels
drawn likewise from the validation regions. The workdir gets the forest and a row for
each smallest leaf tried.
"""
import functools
from collections.abc import Mapping

from fibjax.errors import InputError
from fibjax.inference.score import BlockScorer, Scorer
from fibjax.methods import scale_space
from fibjax.methods.forest import (
  Forest,
  fit_forest,
  load_forest,
  save_forest,
  score_block,
)
from fibjax.methods.method import Inputs, Method
from fibjax.methods.network import merged_regions
from fibjax.models.facts import FOREST, MethodFacts
from fibjax.models.params import hash_params
from fibjax.system import files, geometry, progress
from fibjax.system.run_folder import RunFolder
from fibjax.training import sampling


def _describe(settings: Mapping) -> str:
  forest = settings['forest']
  return (f'Each voxel was classified as pore or solid by a random forest of '
          f'{forest["trees"]} trees on Gaussian scale-space features (set '
          f'{forest["features"]}; after Röding et al. 2021).')


def _summarise(settings: Mapping) -> tuple[str, str]:
  forest = settings['forest']
  return 'Random forest', f'{forest["trees"]} trees, features {forest["features"]}'


FACTS = MethodFacts('random forest', _describe, _summarise, role=FOREST)


def make_method(config) -> Method:
  """Makes the random forest of config.forest."""
  return Method(
      facts=FACTS,
      # Blocks are mirrored at the faces, so one voxel is enough along y and x.
      window_zyx=(scale_space.n_slices(config.forest.features), 1, 1),
      check=lambda regions: None,
      fit=functools.partial(fit, config.forest, config.train.voxel_fraction,
                            config.train.consensus, config.data.seed, config.seed),
      open=lambda run, mode: forest_scorer(load(run)),
      label=None)


def fit(settings, voxel_fraction: float, consensus: str, data_seed: int, seed: int,
        inputs: Inputs, run: RunFolder) -> dict:
  """Trains the forest of a workdir unless it has one.

  Args:
    settings: config.forest.
    voxel_fraction: share of the labelled voxels to use.
    consensus: how the labels of several experts are merged (config.train.consensus).
    data_seed: seed of the voxels drawn.
    seed: seed of the forest.
    inputs: prepared volumes and annotated regions.
    run: the workdir.

  Returns:
    The row of the smallest leaf with the highest validation mIoU.

  Raises:
    InputError: when a class is missing, or for invalid settings.
  """
  if not run.forest.exists():
    samples = []
    for k, regions in enumerate(merged_regions(inputs.regions, consensus)):
      voxels_n3 = sampling.sample_voxels(regions.masks_ryx, voxel_fraction,
                                         data_seed + k)
      samples += [scale_space.sample_features(inputs.prepared, regions, voxels_n3,
                                              settings.features),
                  regions.masks_ryx[tuple(voxels_n3.T)]]
    forest, rows = fit_forest(*samples, feature_set=settings.features,
                              trees=settings.trees, min_leaves=settings.min_leaves,
                              seed=seed)
    files.write_json(run.forest_rows, rows)
    save_forest(run.forest, forest)
    best = _best_row(rows)
    progress.say(f'forest of {settings.trees} trees, smallest leaf '
                 f'{best["min_leaf"]}: validation mIoU {best["val_miou"]:.4f}')
  return _best_row(files.read_json(run.forest_rows))


def _best_row(rows: list[dict]) -> dict:
  return max(rows, key=lambda row: row['val_miou'])


def load(run: RunFolder) -> Forest:
  """Loads the forest of a workdir.

  Raises:
    InputError: when there is none, or it is damaged.
  """
  if not run.forest.exists():
    raise InputError(str(run.path), got='no forest', expected='a trained run',
                     remedy='run `fibjax train` with this workdir first')
  return load_forest(run.forest)


def forest_scorer(forest: Forest) -> Scorer:
  """Makes a scorer of a trained forest."""
  arrays = {name: value for name, value in forest._asdict().items()
            if name != 'settings'}
  return Scorer(
      window_zyx=(scale_space.n_slices(forest.settings['feature_set']), 1, 1),
      channels=(),
      fingerprint={'forest': hash_params(arrays), 'settings': forest.settings},
      open=functools.partial(_open_scorer, forest))


def _open_scorer(forest: Forest, memory_gb: float) -> BlockScorer:
  del memory_gb  # the tiles of `score_block` are small
  margin_zyx = scale_space.margin_zyx(forest.settings['feature_set'])
  return BlockScorer(lambda box: geometry.grow(box, margin_zyx),
                     lambda shape_zyx, image_zyx: score_block(forest, image_zyx))
