"""Trained networks as a folder of their own, to give away: no pickle, no workdir.

A folder has

* model.json: the networks (config.model), how grey values are scaled and scores become
  labels, and the hash of the weights;
* weights.safetensors: arrays by 'MEMBER/LAYER/.../NAME';
* README.md: the model card, what it was trained on, its scores and its limits;
* MEMBER.onnx, where the extra `onnx` is installed: each network for programs without
  JAX (models/onnx_graph.py), checked against it.

fibjax comes with such folders in fibjax/weights; their names stand for them.
"""
import contextlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError
from scipy import special

from fibjax import models
from fibjax.errors import InputError, unknown
from fibjax.models import Model
from fibjax.system import checksums, files

FORMAT = 'fibjax model 1'
SHIPPED = 'shipped'  # as a start: what fibjax comes with for a network
CARD, WEIGHTS, MODEL = 'README.md', 'weights.safetensors', 'model.json'
_SHIPPED = Path(__file__).parents[1] / 'weights'
_ONNX_TOLERANCE = 1e-4
_REMEDY = 'get the folder again, or make it again with `fibjax share`'
_KEYS = {'format', 'networks', 'dihedral', 'prepare', 'postprocess', 'weights'}


class SharedModel(NamedTuple):
  """A trained network or ensemble.

  Attributes:
    networks: the networks of its members.
    params: weights of each.
    dihedral: whether scores are averaged over the symmetries of the square.
    prepare: values of config.prepare.
    postprocess: values of config.postprocess, sigma_px and threshold as tuned.
  """
  networks: tuple[Model, ...]
  params: tuple[Any, ...]
  dihedral: bool
  prepare: dict
  postprocess: dict


def shipped_names() -> list[str]:
  """Names of the models that fibjax comes with."""
  return sorted(path.parent.name for path in _SHIPPED.glob(f'*/{MODEL}'))


def is_shared(folder) -> bool:
  """Whether a folder was made by `write_model`, or a name is that of a shipped one."""
  return (Path(folder) / MODEL).is_file() or (
      not Path(folder).exists() and str(folder) in shipped_names())


def find_model(model) -> Path:
  """Folder of a model by its name, or the folder itself.

  Raises:
    InputError: for an unknown name, or a path without a model.
  """
  path = Path(model)
  if (path / MODEL).is_file():
    return path
  names = shipped_names()
  if str(model) in names:
    return _SHIPPED / str(model)
  if path.exists() or len(path.parts) > 1 or not names:
    raise InputError(str(model), got=f'no {MODEL}',
                     expected='a folder made by `fibjax share`', remedy=_REMEDY)
  raise unknown('model', str(model), names,
                'name one of these, or a folder made by `fibjax share`')


def resolve_start(start: str, settings) -> str:
  """The model that training starts from: a name or folder; '' for none.

  Args:
    start: config.train.start; SHIPPED stands for the model that fibjax comes with for
      the network, if there is one.
    settings: config.model, of a network or another method.
  """
  if start != SHIPPED:
    return start
  if settings['name'] not in models.NETWORKS:
    return ''
  wanted = _shapes(settings)
  for name in shipped_names():
    have = files.read_json_object(find_model(name) / MODEL)['networks'][0]
    like = {**have, 'n_z': settings['n_z']}
    if like.get('padding') == settings.get('padding') and _shapes(like) == wanted:
      return name
  return ''


def _shapes(settings) -> dict:
  params = models.empty_params(models.make_model(settings))
  return {name: array.shape for name, array in flatten(params).items()}


def write_model(folder, shared: SharedModel, card: str) -> None:
  """Writes a model as a folder, whole or not at all.

  Args:
    folder: must not exist.
    shared: the model.
    card: text of the model card, Markdown.

  Raises:
    InputError: when folder exists or cannot be written.
  """
  arrays = {}
  for member, params in enumerate(shared.params):
    arrays |= flatten(params, f'{member}/')
  with files.new_folder(folder) as partial:
    partial.mkdir()
    for member, content in enumerate(_onnx_files(shared)):
      files.write_bytes(partial / f'{member}.onnx', content)
    files.write_bytes(partial / WEIGHTS, safetensors.numpy.save(
        arrays, metadata={'format': FORMAT}))
    files.write_text(partial / CARD, card)
    files.write_json(partial / MODEL, {
        'format': FORMAT,
        'networks': [network.settings for network in shared.networks],
        'dihedral': shared.dihedral, 'prepare': shared.prepare,
        'postprocess': shared.postprocess,
        'weights': checksums.hash_file(partial / WEIGHTS)}, checked=False)


def _onnx_files(shared: SharedModel) -> list[bytes]:
  """ONNX files of the networks; none without the extra, or where one has none.

  Raises:
    RuntimeError: when one of them does not give the scores of JAX within 1e-4.
  """
  if not (importlib.util.find_spec('onnx') and importlib.util.find_spec('onnxruntime')):
    return []
  import onnxruntime
  contents = []
  for network, params in zip(shared.networks, shared.params, strict=True):
    write_onnx = models.NETWORKS[network.settings['name']].write_onnx
    if write_onnx is None:
      return []
    contents.append(write_onnx(network, params))
    sides = (network.image_px(network.stride_px, symmetric=True),) * 2
    if network.settings.get('padding') == 'same':
      sides = (network.window_px,) * 2
    image_byxc = np.random.default_rng(0).normal(0.5, 0.25, (1, *sides, network.n_z)
                                                 ).astype(np.float32)
    session = onnxruntime.InferenceSession(contents[-1],
                                           providers=['CPUExecutionProvider'])
    score = session.run(['score'], {'image': np.moveaxis(image_byxc, 3, 1)})[0]
    first = image_byxc[:, :network.window_px, :network.window_px]
    expected = special.expit(float(network.apply(params, first)[0]))
    if not abs(score[0, 0, 0, 0] - expected) < _ONNX_TOLERANCE:
      raise RuntimeError(f'ONNX gives {score[0, 0, 0, 0]}, JAX {expected}')
  return contents


def read_model(model) -> SharedModel:
  """Reads a model.

  Args:
    model: name of a shipped one, or a folder made by `write_model`.

  Raises:
    InputError: for an unknown name, a folder without a model, damaged files, or weights
      of another architecture.
  """
  folder = find_model(model)
  content = files.read_json_object(folder / MODEL)
  if content.get('format') != FORMAT or set(content) != _KEYS:
    raise _unusable(folder / MODEL, f'format {content.get("format")!r}')
  path = folder / WEIGHTS
  files.check_file('weights', path)
  if checksums.hash_file(path) != content['weights']:
    raise _unusable(path, 'other bytes than model.json names')
  try:
    arrays = safetensors.numpy.load_file(path)
  except (SafetensorError, ValueError, KeyError) as error:
    raise _unusable(path, str(error).splitlines()[0]) from None
  with _naming(folder / MODEL):
    networks = tuple(models.make_model(dict(one)) for one in content['networks'])
    params = tuple(_nested(path, arrays, f'{member}/', models.empty_params(network))
                   for member, network in enumerate(networks))
  if len(arrays) != sum(len(flatten(one)) for one in params) or not params:
    raise _unusable(path, 'arrays of other networks')
  return SharedModel(networks, params, bool(content['dihedral']), content['prepare'],
                     content['postprocess'])


def read_prepared(model, prepare: Mapping, key: str) -> SharedModel:
  """Reads a model to be used on prepared volumes.

  Args:
    model: name or folder, as for `read_model`.
    prepare: values of config.prepare that the model must have been trained with.
    key: the setting that names the model, for messages.

  Raises:
    InputError: as `read_model`, and for a model of otherwise prepared grey values.
  """
  shared = read_model(model)
  found = {name: shared.prepare.get(name) for name in prepare}
  if found != dict(prepare):
    raise InputError(key, got=f'{model}, of grey values prepared by {found}',
                     expected=f'{dict(prepare)}', remedy='give the same config.prepare')
  return shared


def start_weights(model, network: Model, scale: str) -> dict:
  """Weights of a model for a network that will be trained further.

  The number of slices may differ: of more slices than before, the outer ones count for
  nothing at first; of fewer, the outermost stand for those that are missing. So the
  start is the model itself, on a stack that is repeated beyond its faces. A sliding-
  window network may see further: n_xy larger by 32, 64, ..., with the same scores.

  Args:
    model: name or folder, as for `read_model`; of an ensemble the first member.
    network: what will be trained.
    scale: config.prepare.scale of its volumes.

  Raises:
    InputError: as `read_prepared`, and for another architecture.
  """
  shared = read_prepared(model, {'scale': scale}, 'config.train.start')
  like = models.empty_params(network)
  params, other = shared.params[0], shared.networks[0]
  name = network.settings['name']
  widen = models.NETWORKS[name].widen
  if widen is not None and other.settings['name'] == name:
    params = widen(params, other.settings, network.settings)
  weights, wanted = flatten(params), flatten(like)
  if set(weights) != set(wanted):
    raise _other(model, other, network)
  for name, target in wanted.items():
    if weights[name].shape != target.shape:
      if _reads_slices(weights[name], other):
        weights[name] = _with_slices(weights[name], network.n_z)
      if weights[name].shape != target.shape:
        raise _other(model, other, network)
  return _nested(Path(str(model)), weights, '', like)


def hash_model(model) -> str:
  """Hash of the weights of a model, by its name or folder; raises as `find_model`."""
  path = find_model(model) / WEIGHTS
  files.check_file('weights', path)
  return checksums.hash_file(path)


def _reads_slices(kernel: np.ndarray, network: Model) -> bool:
  return kernel.ndim == 4 and kernel.shape[2] == network.n_z


def _with_slices(kernel_yxzf: np.ndarray, n_z: int) -> np.ndarray:
  """A kernel that reads n_z slices instead."""
  have = kernel_yxzf.shape[2]
  if n_z >= have:
    extra = (n_z - have) // 2
    return np.pad(kernel_yxzf, ((0, 0), (0, 0), (extra, extra), (0, 0)))
  cut = (have - n_z) // 2
  kept = kernel_yxzf[:, :, cut:have - cut].copy()
  kept[:, :, 0] += kernel_yxzf[:, :, :cut].sum(2)
  kept[:, :, -1] += kernel_yxzf[:, :, have - cut:].sum(2)
  return kept


def _other(model, have: Model, wanted: Model) -> InputError:
  def text(network):
    return ', '.join(f'{key}={value}' for key, value in network.settings.items())
  return InputError('config.train.start', got=f'{model}: {text(have)}',
                    expected=f'the architecture of config.model, {text(wanted)}',
                    remedy='change config.model; only n_z may differ, and n_xy be '
                    'larger by 32, 64, ...')


def flatten(tree, prefix: str = '') -> dict[str, np.ndarray]:
  """Arrays of nested dicts by their path."""
  if isinstance(tree, dict):
    return {name: array for key in sorted(tree)
            for name, array in flatten(tree[key], f'{prefix}{key}/').items()}
  return {prefix.removesuffix('/'): np.asarray(tree, order='C')}


def _nested(path: Path, arrays: dict, prefix: str, like) -> Any:
  """The arrays below a prefix in the structure of `like`."""
  if isinstance(like, dict):
    return {key: _nested(path, arrays, f'{prefix}{key}/', value)
            for key, value in like.items()}
  name = prefix.removesuffix('/')
  array = arrays.get(name)
  if array is None or (array.shape, array.dtype) != (like.shape, like.dtype):
    raise _unusable(path, f'no array {name} of shape {like.shape} and {like.dtype}')
  return array


@contextlib.contextmanager
def _naming(path: Path):
  """Turns what a content of another kind raises into an InputError."""
  try:
    yield
  except (KeyError, TypeError, AttributeError, ValueError) as error:
    if isinstance(error, InputError):
      raise
    raise _unusable(path, f'{type(error).__name__}: {error}') from None


def _unusable(path: Path, got: str) -> InputError:
  return InputError(str(path), got=got, expected=f'a model of `fibjax share`, {FORMAT}',
                    remedy=_REMEDY)
