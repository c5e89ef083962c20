"""The card of a shared model: what it is, what it learnt from, how good it is."""
from fibjax import models
from fibjax.system import files
from fibjax.system.run_folder import RunFolder

_LIMITS = """Scores above hold for films like those it was trained on. On other
materials, voxel sizes or microscopes check the segmentation against regions annotated
by hand, and train it further on some of them (`--config.train.start`). Inverted
contrast, solid darker than empty pores, is not understood."""


def write_card(name: str, config: dict, networks, run: RunFolder) -> str:
  """Writes the model card of a finished run as Markdown.

  Args:
    name: of the model.
    config: content of config.json.
    networks: those that are shared.
    run: the workdir; scores are taken from its metrics.json where there is one.
  """
  data, train = config['data'], config['train']
  model = networks[0].settings
  facts = models.NETWORKS[model['name']].facts
  count = models.count_weights(models.empty_params(networks[0]))
  lines = [f'# {name}', '', facts.describe(config), '', '| | |', '|---|---|']
  rows = [('networks', str(len(networks))), ('weights of each', f'{count:,}'),
          (facts.summary(config)),
          ('data', data['source'] + (
              f', {train["films"]} new random films in each of {train["epochs"]} epochs'
              if train['films'] else '')),
          ('seeds', f'{config["seed"]} (training), {data["seed"]} (data)'),
          ('training', f'{train["epochs"]} epochs of {train["steps_per_epoch"]} steps '
           f'of {train["batch"]} windows, loss {train["loss"]}'),
          ('grey values', f'scale {config["prepare"]["scale"]}'), *_scores(run)]
  lines += [f'| {label} | {text} |' for label, text in rows]
  command = f'fibjax segment --model={name} --volume=film.ome.zarr --out=film'
  lines += ['', '```', command, '```']
  return '\n'.join([*lines, '', '## Limits', '', _LIMITS, '', '## Licence', '',
                    'That of fibjax, Apache-2.0, unless whoever shares it says '
                    'otherwise here.', ''])


def _scores(run: RunFolder) -> list[tuple[str, str]]:
  if not run.metrics.exists():
    return [('scores', 'none: the run was not evaluated')]
  test = files.read_json_object(run.metrics)['test']['after']
  return [('test mIoU', f'{test["miou"]:.3f}, after post-processing'),
          ('test porosity', f'{100 * test["porosity_automatic"]:.1f} %, labels '
           f'{100 * test["porosity_manual"]:.1f} %')]
