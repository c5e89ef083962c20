"""TODO fibjax.pipeline.segmenter."""
from pathlib import Path

from fibjax.config import from_dict
from fibjax.datasets import collect
from fibjax.errors import InputError
from fibjax.inference.segment import segment_scores
from fibjax.methods import registry
from fibjax.preparation import scaling
from fibjax.system import files, progress, run_folder
from fibjax.system.cluster import HERE, Resources
from fibjax.system.run_folder import undo_on_mistake
from fibjax.volumes.volume import open_volume


def open_run(folder) -> tuple:
  """The config and workdir of a run that exists.

  Raises:
    InputError: when folder is not a workdir.
  """
  folder = Path(folder)
  return from_dict(files.read_json(folder / 'config.json')), folder


def segment_other(folder, source, out, mode: str,
                  resources: Resources = HERE) -> Path:
  """Applies a finished run to another volume of the same kind of material.

  Args:
    folder: workdir of the run.
    source: raw volume.
    out: folder for prepared.ome.zarr, scores.ome.zarr and segmentation.ome.zarr.
    mode: 'auto', 'dense' or 'patch'.
    resources: where to work.

  Returns:
    Path of the segmentation.
  """
  config, folder = open_run(folder)
  chosen = _postprocess_of(config, folder)
  predictor = registry.open_predictor(config, folder)
  raw = open_volume(Path(source).resolve())
  for network in predictor.models if registry.is_network(config) else (None,):
    collect.check_window(str(source), raw.shape, registry.window_zyx(config, network))
  with undo_on_mistake(Path(out)), run_folder.lock(out) as out:
    prepared = out / 'prepared.ome.zarr'
    if not prepared.exists():
      scaling.prepare_volume(raw, prepared, scale=config.prepare.scale,
                               gradient=config.prepare.gradient)
    record = open_volume(prepared).attributes['preprocessing']
    if record['source'] != str(raw.path):
      raise InputError(str(out), got=f'results of {record["source"]}',
                       expected=f'none, or those of {raw.path}',
                       remedy='choose another --out')
    files.write_json(out / 'preprocessing.json', record)
    scores = registry.score_volume(predictor, open_volume(prepared),
                                  out / 'scores.ome.zarr', mode, resources)
    result = out / 'segmentation.ome.zarr'
    segment_scores(scores, result, chosen['sigma_px'], chosen['threshold'],
                   config.postprocess, resources)
  return result


def _postprocess_of(config, folder: Path) -> dict:
  """The tuned post-processing of a run; the config's where it was only trained."""
  if (folder / 'postprocess.json').exists():
    return files.read_json(folder / 'postprocess.json')
  settings = config.postprocess
  progress.say(f'post-processing is not tuned (`fibjax run` does that): sigma '
               f'{settings.sigma_px} px, threshold {settings.threshold}')
  return {'sigma_px': settings.sigma_px, 'threshold': settings.threshold}
