"""What a case is, and good files to damage."""
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

Make = Callable[[Path], list[str]]  # folder -> words of the command
SHAPE = (9, 96, 96)


class Case(NamedTuple):
  """A bad input: its name, and the function that makes it."""
  name: str
  make: Make


def noise(dtype=np.uint8, shape=SHAPE) -> np.ndarray:
  """An image [z, y, x] of random grey values."""
  return np.random.default_rng(0).integers(1, 250, shape).astype(dtype)


@functools.cache
def _template() -> Path:
  """Folder with a good volume, made once in a process."""
  from fibjax.volumes.volume import new_volume, write_box
  folder = Path(tempfile.mkdtemp(prefix='fibjax_zoo_'))
  image_zyx = noise()
  with new_volume(folder / 'film.ome.zarr', image_zyx.shape, image_zyx.dtype,
                  (50, 10, 10), fill_value=None) as volume:
    write_box(volume, (0, 0, 0), image_zyx)
  return folder


def remove_template() -> None:
  """Removes the good volume of this process."""
  if _template.cache_info().currsize:
    shutil.rmtree(_template())


def film(folder: Path, name: str = 'film.ome.zarr') -> Path:
  """Copies the good volume into a folder and returns its path."""
  return Path(shutil.copytree(_template() / 'film.ome.zarr', folder / name))


def importing(path, *words) -> list[str]:
  """Words of `fibjax import` of a path."""
  return ['import', str(path), f'--out={path}.out.ome.zarr', *words]


def literal(*words) -> Make:
  """A case without files."""
  def make(folder):
    del folder
    return list(words)
  return make
