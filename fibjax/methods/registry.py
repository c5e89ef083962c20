"""What config.model.name may be: networks, the random forest, the classical methods.

Networks and the forest are trained and give scores; a classical method gives labels.
Here is all that depends on which it is, from what a volume must hold to scoring one.
"""
from pathlib import Path

from fibjax import models
from fibjax.errors import InputError
from fibjax.inference import score
from fibjax.inference.score import Predictor
from fibjax.methods import classical, forest_method
from fibjax.methods.forest import Forest
from fibjax.models import Model
from fibjax.system import files
from fibjax.system.cluster import Resources
from fibjax.training import checkpoint, loop
from fibjax.volumes.volume import Volume

FOREST = 'forest'
NAMES = (*models.NAMES, FOREST, *classical.METHODS)


def check_name(name: str) -> None:
  """Raises InputError unless name is one of NAMES."""
  if name not in NAMES:
    raise InputError('config.model.name', got=repr(name), expected=f'one of {NAMES}',
                     remedy='choose one of these')


def make_network(config) -> Model | None:
  """The network of config.model; None for other methods."""
  check_name(config.model.name)
  return models.make_model(config.model) if is_network(config) else None


def is_network(config) -> bool:
  """Whether config.model is a network."""
  return config.model.name in models.NAMES


def is_classical(config) -> bool:
  """Whether config.model is a method without training and scores."""
  return config.model.name in classical.METHODS


def window_zyx(config, network: Model | None) -> tuple[int, int, int]:
  """Voxels that a volume holds at least: what a network sees around one voxel."""
  if network is not None:
    return network.n_z, network.window_px, network.window_px
  return (classical.WINDOW_ZYX if is_classical(config)
          else forest_method.window_zyx(config.forest))


def open_predictor(config, folder: Path) -> Predictor | Forest:
  """What a workdir has trained: its forest, the members of its ensemble, or its best
  weights.

  Raises:
    InputError: when it has trained nothing.
  """
  if is_classical(config):
    raise InputError('config.model.name', got=repr(config.model.name),
                     expected='a method that is trained',
                     remedy='`fibjax run` segments with it as it is')
  if config.model.name == FOREST:
    return forest_method.load(folder)
  path = folder / 'ensemble.json'
  if not path.exists():
    model = models.make_model(config.model)
    return Predictor((model,), (loop.load_best(model, config, folder),))
  content = files.read_json(path)
  networks = [models.make_model(member['model']) for member in content['members']]
  params = [checkpoint.load_weights(folder / 'ensemble' / str(k),
                                    models.empty_params(model))
            for k, model in enumerate(networks)]
  return Predictor(tuple(networks), tuple(params), content['dihedral'])


def score_volume(predictor: Predictor | Forest, source: Volume, out, mode: str,
                 resources: Resources) -> Volume:
  """Scores every voxel of a prepared volume; arguments as `infer.score_volume`."""
  if isinstance(predictor, Forest):
    return forest_method.score_volume(predictor, source, out, resources)
  return score.score_volume(predictor, source, out, mode=mode, resources=resources)
