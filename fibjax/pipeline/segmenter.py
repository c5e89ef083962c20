"""A finished run applied to arrays and volumes."""
import functools
from pathlib import Path

import numpy as np

from fibjax import models
from fibjax.config import check_section, to_dict
from fibjax.errors import InputError
from fibjax.inference.network_scorer import network_scorer
from fibjax.inference.score import (
  BlockScorer,
  Scorer,
  check_window,
  score_array,
  score_volume,
)
from fibjax.inference.segment import Postprocessing, segment_array, segment_scores
from fibjax.methods import network, shared
from fibjax.methods.method import Method
from fibjax.methods.registry import make_method
from fibjax.pipeline import stages
from fibjax.pipeline.run import check_trained, open_run
from fibjax.preparation import scaling
from fibjax.report import model_card
from fibjax.system import files, progress, refusals
from fibjax.system.cluster import HERE, Resources
from fibjax.system.run_folder import RunFolder, lock
from fibjax.volumes.volume import Volume, open_volume


class Segmenter:
  """A trained network, ensemble or forest, or a classical method, ready to use.

  Attributes:
    method: the method.
    scorer: what scores; None for a classical method.
    postprocessing: how scores become labels, as tuned on the validation regions.
    trained: weights and metrics of each member that was trained in memory.

  Example:
    >>> import fibjax
    >>> segmenter = fibjax.load('workdirs/film')
    >>> segmenter.method.facts.title, segmenter.scorer.window_zyx[1:]
    ('random forest', (1, 1))
  """

  def __init__(self, method: Method, scorer: Scorer | None, prepare,
               postprocessing: Postprocessing, memory_gb: float = 1.5,
               trained: tuple = ()):
    """Makes a segmenter; use `load` for a workdir, and `train` for arrays.

    Args:
      method, scorer, postprocessing, trained: see the attributes.
      prepare: config.prepare, how grey values are scaled before scoring.
      memory_gb: memory for the tiles in work, 10^9 bytes.
    """
    self.method = method
    self.scorer = scorer
    self.postprocessing = postprocessing
    self.trained = trained
    self._prepare = prepare
    self._memory_gb = memory_gb

  @functools.cached_property
  def _opened(self) -> BlockScorer:
    if self.scorer is None:
      raise InputError('segmenter.score', got=f'the method {self.method.facts.title}',
                       expected='a method with scores',
                       remedy='use segmenter.segment: it labels without scores')
    return self.scorer.open(self._memory_gb)

  @refusals.translated
  def score(self, image_zyx: np.ndarray) -> np.ndarray:
    """Scores every voxel of an image.

    Args:
      image_zyx: [z, y, x] grey values as acquired: uint8, uint16, or floats in about
        [0, 1]. They are scaled as the run scaled its volumes.

    Returns:
      [z, y, x] float32 P(solid).

    Raises:
      InputError: for an array of another rank or dtype, NaN or infinite values, one
        grey value everywhere, or an image smaller than the method's window; for a
        classical method, which has no scores.
    """
    opened = self._opened
    scores = score_array(opened, self._scale(image_zyx))
    return scores[0] if self.scorer.channels else scores

  @refusals.translated
  def segment(self, image_zyx: np.ndarray, voxel_size_zyx_nm=None) -> np.ndarray:
    """Segments an image.

    Args:
      image_zyx: as for `score`.
      voxel_size_zyx_nm: z, y, x; read by some classical methods alone.

    Returns:
      [z, y, x] uint8 labels, 0 pore and 1 solid.

    Raises:
      InputError: as `score`.
    """
    if self.scorer is None:
      return self.method.label(self._scale(image_zyx), voxel_size_zyx_nm)
    return segment_array(self.score(image_zyx), self.postprocessing)

  @refusals.translated
  def segment_volume(self, source, out, *, resources: Resources = HERE) -> Path:
    """Segments a volume on disk, of any size; resumes an interrupted call.

    Args:
      source: path of the raw volume.
      out: folder for prepared.ome.zarr, scores.ome.zarr and segmentation.ome.zarr.
      resources: where to work.

    Returns:
      Path of the segmentation.

    Raises:
      InputError: when the volume is smaller than the method's window, or `out` holds
        results of another volume or of other weights.
    """
    raw = open_volume(Path(source).resolve())
    check_window(str(source), raw.shape, self._window_zyx)
    with lock(out):
      results = RunFolder(out)
      _record_source(raw, results)
      if not results.prepared.exists():
        scaling.prepare_volume(raw, results.prepared, scale=self._prepare.scale,
                               gradient=self._prepare.gradient)
      prepared = open_volume(results.prepared)
      files.write_json(results.preprocessing, prepared.attributes['preprocessing'])
      if self.scorer is None:
        stages.label_volume(self.method, prepared, results.segmentation)
      else:
        scores = score_volume(self.scorer, prepared, results.scores,
                              resources=resources)
        segment_scores(scores, results.segmentation, self.postprocessing,
                       resources=resources)
    return results.segmentation

  @property
  def _window_zyx(self) -> tuple[int, int, int]:
    return (self.method if self.scorer is None else self.scorer).window_zyx

  def _scale(self, image_zyx) -> np.ndarray:
    image_zyx = scaling.scale_image(image_zyx, scale=self._prepare.scale,
                                    gradient=self._prepare.gradient)
    check_window('image_zyx', image_zyx.shape, self._window_zyx)
    return image_zyx


def _record_source(raw: Volume, results: RunFolder) -> None:
  """Writes inputs.json, or checks that the folder has results of the same volume."""
  source = {str(raw.path): files.hash_files(raw.path)}
  if not results.inputs.exists():
    files.write_json(results.inputs, source)
  recorded = files.read_json(results.inputs)
  if recorded != source:
    changed = list(recorded) == list(source)
    raise InputError(
        str(results.path), got=f'results of {", ".join(recorded)}'
        f'{", whose content has changed since" if changed else ""}',
        expected=f'none, or those of {raw.path} as it is',
        remedy='choose another --out')


def load(model, *, mode: str = 'auto', memory_gb: float = 1.5) -> Segmenter:
  """Loads a trained network that fibjax comes with, a shared one, or a finished run.

  Args:
    model: name of a network that fibjax comes with, folder made by `fibjax share`, or
      workdir of a run (network, ensemble, forest or classical method).
    mode: 'auto' and 'dense', or 'patch', each voxel by its own neighbourhood.
    memory_gb: memory for the tiles in work of arrays, 10^9 bytes.

  Raises:
    InputError: for an unknown name, damaged weights, a folder that is no workdir, or a
      workdir where nothing was trained.

  Example:
    >>> import fibjax
    >>> segmenter = fibjax.load('workdirs/film')
    >>> film = fibjax.read_stack('film.tif')
    >>> labels_zyx = segmenter.segment(film.image_zyx)
    >>> labels_zyx.shape, str(labels_zyx.dtype)
    ((36, 64, 64), 'uint8')
  """
  if shared.is_shared(model):
    return _load_shared(shared.read_model(model), mode, memory_gb)
  config, workdir = open_run(model)
  method = make_method(config)
  scorer = method.open(workdir, mode) if method.open is not None else None
  return Segmenter(method, scorer, config.prepare, _postprocessing(config, workdir),
                   memory_gb)


def _load_shared(model: shared.SharedModel, mode: str, memory_gb: float) -> Segmenter:
  scorer = network_scorer(model.networks, model.params, dihedral=model.dihedral,
                          mode=mode)
  settings = check_section('postprocess', model.postprocess)
  return Segmenter(
      network.trained_method(model.networks[0], scorer), scorer,
      check_section('prepare', model.prepare),
      stages.postprocessing(settings, model.postprocess), memory_gb)


def share(folder, out) -> Path:
  """Writes the network or ensemble of a finished run as a folder to give away.

  The folder has the weights (safetensors), what is needed to apply them, and a model
  card to be completed by hand. `load` reads it.

  Args:
    folder: workdir of the run.
    out: folder to make.

  Returns:
    Path of the folder.

  Raises:
    InputError: when `folder` is no workdir, nothing was trained there, its method is no
      network, or `out` exists.
  """
  config, workdir = open_run(folder)
  if config.model.name not in models.NETWORKS:
    raise InputError('config.model.name', got=repr(config.model.name),
                     expected=f'one of {", ".join(models.NETWORKS)}',
                     remedy='other methods need no weights, or their workdir')
  networks, params, dihedral = network.open_trained(config, workdir)
  chosen = _postprocessing(config, workdir)
  shared.write_model(out, shared.SharedModel(
      tuple(networks), tuple(params), dihedral, config.prepare.to_dict(),
      config.postprocess.to_dict() | {'sigma_px': chosen.sigma_px,
                                      'threshold': chosen.threshold}),
      model_card.write_card(Path(out).name, to_dict(config), networks, workdir))
  return Path(out)


def segment_other(folder, source, out, mode: str, resources: Resources = HERE) -> Path:
  """Applies a trained network or run to another volume of the same kind of material.

  Args:
    folder: as for `load`.
    source: path of the raw volume.
    out: folder for the results.
    mode: as for `load`.
    resources: where to work.

  Returns:
    Path of the segmentation.
  """
  if not shared.is_shared(folder):
    config, workdir = open_run(folder)
    check_trained(make_method(config), config.model.name)
    if not workdir.postprocess.exists():
      settings = config.postprocess
      progress.say('post-processing is not tuned (`fibjax run` tunes it): sigma '
                   f'{settings.sigma_px} px, threshold {settings.threshold}')
  return load(folder, mode=mode).segment_volume(source, out, resources=resources)


def _postprocessing(config, workdir: RunFolder) -> Postprocessing:
  """As tuned; as in the config for a run that was only trained."""
  chosen = config.postprocess
  if workdir.postprocess.exists():
    chosen = files.read_json(workdir.postprocess)
  return stages.postprocessing(config.postprocess, chosen)
