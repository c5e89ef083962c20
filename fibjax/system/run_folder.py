"""TODO fibjax.system.run_folder."""
import contextlib
import shutil
from pathlib import Path

from fibjax.errors import InputError

# What only work can make again: trainings, scores and segmentations, begun ones too.
_OF_WORTH = ('checkpoints', 'forest.npz', 'sweep/groups', 'runs/*', 'forest/*',
             '*scores.ome.zarr*', '*segmentation.ome.zarr*')


@contextlib.contextmanager
def no_trace_of_mistakes(folder: Path):
  """Empties a new workdir again when a mistake ends the call before any training.

  The corrected command can then use the same workdir. What took work stays.
  """
  existed = folder.exists()
  new = not existed or (folder.is_dir() and not any(folder.iterdir()))
  try:
    yield
  except InputError:
    if new and folder.is_dir() and not any(any(folder.glob(k)) for k in _OF_WORTH):
      for child in folder.iterdir():
        shutil.rmtree(child) if child.is_dir() else child.unlink()
      if not existed:
        folder.rmdir()
    raise




def trial_folder(folder, count: int, placement: str) -> Path:
  """Workdir of a trial within that of the study."""
  return Path(folder) / 'trials' / f'{count}-{placement}'
