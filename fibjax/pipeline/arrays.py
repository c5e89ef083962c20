"""Training and networks from arrays in memory, without a workdir or a config file."""
from collections.abc import Mapping, Sequence

import numpy as np

from fibjax import models
from fibjax.annotation import contexts
from fibjax.annotation.regions import Regions, check_regions
from fibjax.config import base, check_section
from fibjax.errors import InputError
from fibjax.evaluation import region_scores
from fibjax.inference.network_scorer import network_scorer
from fibjax.inference.segment import Postprocessing
from fibjax.methods import network
from fibjax.methods.method import Inputs
from fibjax.methods.unlabelled import unlabelled_stream
from fibjax.models import Model
from fibjax.pipeline.segmenter import Segmenter
from fibjax.preparation import scaling
from fibjax.system import refusals
from fibjax.training import loop, single
from fibjax.volumes.volume import array_volume


def make_model(**changes) -> Model:
  """Makes a network: pure functions, and the numbers needed to cut their input.

  Args:
    changes: settings of config.model that differ from their defaults, such as name
      ('patch_cnn', 'resunet', 'unet'), n_z (odd number of slices), n_xy and padding of
      the sliding-window network, base, depth and norm of the U-Nets.

  Returns:
    A `Model`: init(key) -> params, apply(params, patches_byxc) -> logits_b and
    apply_dense(params, window_byxc) -> logits_byx; P(solid) is the sigmoid of a logit.

  Raises:
    InputError: for an unknown setting, name, size, padding or norm.

  Example:
    >>> import fibjax, jax, numpy
    >>> model = fibjax.make_model(n_xy=33, n_z=3)
    >>> params = model.init(jax.random.key(0))
    >>> patches_byxc = numpy.zeros((2, model.window_px, model.window_px, 3), 'float32')
    >>> model.apply(params, patches_byxc).shape
    (2,)
  """
  return models.make_model(check_section('model', changes))


def train_settings(**changes):
  """Makes the settings of training: every default, but for the changes.

  Args:
    changes: settings of config.train by name; `fibjax/config/settings.py` lists them.

  Returns:
    A ConfigDict for `train_network` and `train_networks`.

  Raises:
    InputError: for an unknown setting, or a value of another type or out of range.

  Example:
    >>> import fibjax
    >>> settings = fibjax.train_settings(epochs=3, loss='bce + 0.5*jaccard')
    >>> settings.epochs, settings.optimizer
    (3, 'adam')
  """
  return check_section('train', changes)


def cut_contexts(images, regions: Regions, model: Model) -> np.ndarray:
  """Cuts the part of the images that a network sees around each region.

  Args:
    images: [z, y, x] float32 scaled grey values (`scale_image`): one array, or a dict
      of arrays by the names of the volumes in `regions`.
    regions: r regions of masks [H, W].
    model: the network.

  Returns:
    [r, H + 2 m, W + 2 m, n_z] float32 with m = model.before_px, mirrored at the faces
    of an image; `put_regions` takes it.

  Raises:
    InputError: for an image of another rank, or a region outside its image.

  Example:
    >>> import fibjax
    >>> film = fibjax.simulate_film('HPC30', (9, 96, 96), seed=0)
    >>> mask_yx = film.truth_zyx[4, 16:48, 16:48]
    >>> regions = fibjax.make_regions('film', [(4, 16, 16)], [mask_yx], ['train'])
    >>> model = fibjax.make_model(n_xy=33, n_z=3)
    >>> context_ryxc = fibjax.cut_contexts(fibjax.scale_image(film.image_zyx), regions,
    ...                                    model)
    >>> context_ryxc.shape == (1, 32 + 2 * model.before_px, 32 + 2 * model.before_px, 3)
    True
  """
  volumes = {name: array_volume(np.asarray(image_zyx, np.float32), name=name)
             for name, image_zyx in _by_name(images, regions).items()}
  check_regions(regions, {name: volume.shape for name, volume in volumes.items()},
                _window_zyx(model))
  return contexts.cut_contexts(volumes, regions, model.before_px, model.n_z)


@refusals.translated
def train(images, regions: Regions, *, model: Model | None = None,
          settings: Mapping | None = None, seeds: Sequence[int] = (0,),
          scale: str = 'dtype', gradient: bool = True, folder=None) -> Segmenter:
  """Trains a network, or an ensemble of networks side by side, on arrays.

  Args:
    images: [z, y, x] grey values as acquired (uint8, uint16, or floats in about
      [0, 1]): one array, or a dict of arrays by the names of the volumes in `regions`.
    regions: annotated regions (`make_regions`) with regions in 'train' and 'val'.
    model: network (`make_model`); None: the default one.
    settings: settings of config.train that differ from their defaults, e.g.
      {'epochs': 5}.
    seeds: a seed for each member of the ensemble; members are trained in parallel.
    scale, gradient: as for `scale_image`.
    folder: gets checkpoints, from which the same call resumes; None: only memory.

  Returns:
    A segmenter, with post-processing tuned on the validation regions. Its attribute
    `trained` has weights and a row of metrics per epoch of each member.

  Raises:
    InputError: for images or regions that do not fit each other or the network,
      missing splits or phases, or bad settings.

  Example:
    >>> import fibjax
    >>> film = fibjax.simulate_film('HPC30', (9, 96, 96), seed=0)
    >>> places = [(z, 16, 16) for z in (2, 3, 5, 6)]
    >>> masks = [film.truth_zyx[z, y:y + 48, x:x + 48] for z, y, x in places]
    >>> regions = fibjax.make_regions('film', places, masks,
    ...                               ['train', 'train', 'val', 'val'])
    >>> segmenter = fibjax.train(
    ...     film.image_zyx, regions, model=fibjax.make_model(n_xy=33, n_z=1),
    ...     settings={'epochs': 1, 'steps_per_epoch': 2, 'val_windows': 2,
    ...               'crop_px': 32})
    >>> segmenter.score(film.image_zyx).shape
    (9, 96, 96)
  """
  model = make_model() if model is None else model
  settings = check_section('train', settings or {})
  prepare = check_section('prepare', {'scale': scale, 'gradient': gradient})
  volumes = {name: array_volume(scaling.scale_image(image_zyx, **prepare), name=name)
             for name, image_zyx in _by_name(images, regions).items()}
  inputs = Inputs(volumes, regions)
  _check_inputs(inputs, model)
  members = [loop.make_member(settings, seed) for seed in seeds]
  with unlabelled_stream(settings, prepare, model, volumes, 0) as unlabelled:
    trained = single.train_networks(
        model, *network.put_regions(settings, model, inputs), members,
        settings=settings, folder=folder, unlabelled=unlabelled,
        standardise=model.settings.get('standardise', True),
        start=network.start_params(settings, prepare, model))
  failed = [seed for seed, member in zip(seeds, trained, strict=True)
            if member.ended == loop.DIVERGED]
  if failed:
    raise InputError('training', got=f'loss not finite with seeds {failed}',
                     expected='finite values', remedy='lower log10_learning_rate')
  kept = {'best': 'params', 'average': 'average'}[settings.keep]
  scorer = network_scorer([model] * len(trained),
                          [getattr(member, kept) for member in trained])
  return Segmenter(
      network.trained_method(model, scorer), scorer, prepare,
      _tuned(settings, scorer, inputs), trained=tuple(trained))


def _check_inputs(inputs: Inputs, model: Model) -> None:
  """Raises InputError for regions that do not fit, or lack a split."""
  shapes = {name: volume.shape for name, volume in inputs.prepared.items()}
  check_regions(inputs.regions, shapes, _window_zyx(model))
  for split in ('train', 'val'):
    if split not in inputs.regions.split:
      raise InputError('regions', got=f'none in split {split}',
                       expected='regions to train and to validate',
                       remedy='give splits to make_regions, or use assign_splits')


def _tuned(settings, scorer, inputs: Inputs) -> Postprocessing:
  """Post-processing as chosen on the validation regions."""
  defaults = base().postprocess
  setting = region_scores.make_setting(defaults, network.is_balanced(settings),
                                       inputs.regions)
  val_ryx = region_scores.score_regions([scorer], inputs.prepared, setting.val,
                                        setting.margin_px)[0]
  sigma_px, threshold = region_scores.tune(setting, val_ryx)
  return Postprocessing(sigma_px, threshold, defaults.kernel, defaults.min_size_vox,
                        defaults.ndim, defaults.connectivity)


def _by_name(images, regions: Regions) -> dict:
  """Images by name; a single array belongs to the only name in the regions."""
  if isinstance(images, Mapping):
    return dict(images)
  names = sorted(set(regions.volume))
  if len(names) > 1:
    raise InputError('images', got=f'one array for regions of {", ".join(names)}',
                     expected='a dict with an array for each name',
                     remedy='give {name: image_zyx, ...}')
  return dict.fromkeys(names, images)


def _window_zyx(model: Model) -> tuple[int, int, int]:
  return model.n_z, model.window_px, model.window_px
