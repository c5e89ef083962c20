"""One self-contained page per run: report.html, its figures and its tables.

`write_report` reads a run's folder and writes report.html (figures embedded, no
script, no link to anything outside), figures/*.png and tables.md. Whatever the run
has not made is named on the page. Text from the run is escaped, so a file name that
contains markup is shown and does nothing. Same folder, same bytes.
"""
import base64
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np

from fibjax import models
from fibjax.errors import InputError
from fibjax.report import (
  figures,
  physics,
  preparation,
  prose,
  published,
  sources,
  sweep_figures,
  sweep_tables,
  tables,
)
from fibjax.system import csv_files, files


class PageFigure(NamedTuple):
  """A figure as the page shows it.

  Attributes:
    stem: file name without suffix.
    title: bold start of the caption.
    caption: how to read it.
    png: the picture.
    width_in: width in inches, which sets its width on the page.
  """
  stem: str
  title: str
  caption: str
  png: bytes
  width_in: float


def write_report(folder) -> Path:
  """Writes report.html, figures/ and tables.md of a run.

  Args:
    folder: the run's workdir, complete or not.

  Returns:
    path of report.html.

  Raises:
    InputError: when the folder is missing or one of its files is damaged.
  """
  folder = Path(folder)
  if not folder.is_dir():
    raise InputError(str(folder), got='no such folder', expected="a run's workdir",
                     remedy='check --workdir')
  notes: list[str] = []
  run_settings = sources.read_json_if_any(folder / 'config.json', notes)
  scores = sources.read_json_if_any(folder / 'metrics.json', notes)
  versions = sources.read_json_if_any(folder / 'versions.json', notes)
  post = scores.get('postprocess') or {}
  if (folder / 'postprocess.json').is_file():
    post = files.read_json(folder / 'postprocess.json')
  records, hashes = (files.read_json(path) if path.is_file() else {} for path in (
      folder / 'preprocessing.json', folder / 'inputs.json'))
  shown_tables = _tables(scores, notes)
  shown_figures = _figures(folder, run_settings, records, notes)
  if (folder / 'forest.json').is_file():
    shown_tables.append(tables.forest_table(files.read_json(folder / 'forest.json')))
  if (run_settings.get('data') or {}).get('source') == 'zenodo' and scores:
    shown_tables += published.published_tables(scores, published.count_networks())
  if (folder / 'results.json').is_file():
    _add_ensemble(files.read_json(folder / 'results.json'), shown_tables,
                  shown_figures)
  elif scores.get('reliability'):
    shown_figures.append(_reliability(scores['reliability']))
  if (folder / 'analysis.json').is_file():
    _add_physics(files.read_json(folder / 'analysis.json'), shown_tables,
                 shown_figures, notes)
  return write_page(
      folder, 'report.html', shown_tables, shown_figures, notes=notes,
      facts=_facts(run_settings, post), settings=run_settings, versions=versions,
      inputs=prose.inputs(run_settings, hashes, records),
      methods=prose.methods_paragraph(run_settings, versions, scores, post,
                                      records),
      records=records)


def _add_physics(analysis, shown_tables, shown_figures, notes) -> None:
  """Adds a table and a figure of each analysed volume."""
  for i, (name, content) in enumerate(analysis.items()):
    if 'undefined' in content:
      notes.append(f'{name}: no physical quantities, {content["undefined"]}.')
      continue
    shown_tables.append(physics.physics_table(name, content))
    shown_figures.append(page_figure(
        f'physics_{i + 1}', f'Pore sizes and S2 of {name}.',
        'Left: share of the pore volume in pores below a size. Right: probability that '
        'two points at a distance along an axis both lie in the pore; it starts at the '
        'porosity and ends about its square (grey). An isotropic material has the same '
        'curve along all axes; pore-backs taken for solid lower that along z. Dotted: '
        'the truth, where it is known.', physics.physics_figure(name, content)))


def _reliability(content) -> PageFigure:
  return page_figure(
      'reliability', 'Reliability of the scores.',
      'Observed fraction of solid against the score before post-processing, test '
      'regions, in bins of as many voxels each. On the diagonal a score is a '
      'probability; above it the scores call too little solid. ECE: mean distance '
      'from the diagonal.',
      sweep_figures.reliability_figure({'scores': tuple(
          np.asarray(content[name]) for name in ('score_b', 'solid_b', 'count_b'))}))


def _add_ensemble(results, shown_tables, shown_figures) -> None:
  """Adds the table of members and ensemble, and the reliability of the latter."""
  rows = [*results['members'], {'name': 'mean member', **results['mean_member']},
          results['ensemble']]
  shown_tables.append(sweep_tables.ensemble_table(rows))
  curves = {name: tuple(map(np.asarray, results['ensemble']['reliability'][name]))
            for name in ('before', 'after')}
  shown_figures.append(page_figure(
      'reliability', 'Reliability of the scores.',
      'Observed fraction of solid against the score of the ensemble, test regions, '
      'before and after calibration by one temperature fitted on the validation '
      'regions. On the diagonal a score is a probability.',
      sweep_figures.reliability_figure(curves)))


def write_page(folder, template: str, shown_tables, shown_figures, *, notes, facts,
               settings: dict, versions: dict, inputs=(), methods: str = '',
               records: dict | None = None) -> Path:
  """Writes a page, its figures and its tables into a folder.

  Args:
    folder: existing folder; gets report.html, figures/ and tables.md.
    template: file name of a template that extends shell.html.
    shown_tables: Tables in the order of the page.
    shown_figures: PageFigures in the order of the page.
    notes: sentences about what is not on the page.
    facts: (name, value) pairs of text for the head of the page.
    settings: content of config.json, {} for none; its name is the page's.
    versions: content of versions.json, {} for none.
    inputs: (name, value) pairs of text about what was read.
    methods: a paragraph for a paper.
    records: content of preprocessing.json, for what to cite.

  Returns:
    path of report.html.
  """
  folder = Path(folder)
  (folder / 'figures').mkdir(exist_ok=True)
  for figure in shown_figures:
    files.write_bytes(folder / 'figures' / f'{figure.stem}.png', figure.png)
  files.write_text(folder / 'tables.md',
                     '\n'.join(tables.to_markdown(t) for t in shown_tables))
  html = _template(template).render(
      name=settings.get('name') or folder.resolve().name,
      folder=folder.resolve().name,
      notes=notes, tables=shown_tables, combined=tables.COMBINED,
      figures=shown_figures, facts=facts, settings=_flatten(settings),
      versions=versions, inputs=inputs, methods=methods,
      citations=prose.citations(settings, versions, records or {}))
  path = folder / 'report.html'
  files.write_text(path, html)
  return path


def _template(name):
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True,
      undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
  environment.filters['png'] = lambda data: base64.b64encode(data).decode('ascii')
  return environment.get_template(name)


def _tables(scores, notes) -> list[tables.Table]:
  if not scores:
    return []
  for split, heading in tables.SPLITS.items():
    pooled = (scores.get(split) or {}).get('after') or {}
    if not pooled.get('n_voxels'):
      notes.append(f'{heading}: no regions in this split, its columns are empty.')
  shown = [tables.summary_table(scores), tables.split_table(scores, 'before'),
           tables.split_table(scores, 'after')]
  if scores.get('whole_volume'):
    shown.append(tables.volume_table(scores))
  if scores.get('porosity_tests'):
    shown.append(tables.porosity_table(scores))
  else:
    notes.append('Porosities of single regions were not compared.')
  return shown


def _facts(run_settings, post) -> list[tuple[str, str]]:
  """Lists the few settings that a reader asks for first."""
  model = run_settings.get('model') or {}
  facts = []
  if model.get('name') == 'forest':
    forest = run_settings.get('forest') or {}
    facts.append(('Random forest', f'{forest.get("trees")} trees, features '
                  f'{forest.get("features")}'))
  elif model.get('name') in models.NAMES[1:]:
    facts.append(('Network', f'{model["name"]}, {model["n_z"]} slices, depth '
                  f'{model["depth"]}, base {model["base"]}, norm {model["norm"]}'))
  elif model.get('name') not in ('patch_cnn', None):
    facts.append(('Method', str(model.get('name'))))
  elif {'n_xy', 'n_z'} <= model.keys():
    kind = ', '.join(str(model[k]) for k in ('name', 'padding') if k in model)
    facts.append(('Neighbourhood', f'{model["n_xy"]} × {model["n_xy"]} × '
                  f'{model["n_z"]} voxels' + (f' ({kind})' if kind else '')))
  if {'sigma_px', 'threshold'} <= post.keys():
    facts.append(('Post-processing',
                  f'Gaussian σ {post["sigma_px"]:.3g} px, threshold '
                  f'{post["threshold"]:.4g}, twice'))
  cleanup = run_settings.get('postprocess') or {}
  if 'min_size_vox' in cleanup:
    size = cleanup['min_size_vox']
    facts.append(('Clean-up', f'objects below {size} voxels removed'))
  if 'seed' in run_settings:
    facts.append(('Seed', str(run_settings['seed'])))
  return facts


def _flatten(content, prefix='') -> list[tuple[str, str]]:
  rows = []
  for key, value in content.items():
    if isinstance(value, dict):
      rows.extend(_flatten(value, f'{prefix}{key}.'))
    else:
      items = value if isinstance(value, list) else [value]
      text = ', '.join(str(item) for item in items)
      rows.append((f'{prefix}{key}', text or tables.DASH))
  return rows


def _figures(folder, run_settings, records, notes) -> list[PageFigure]:
  films = sources.open_films(folder)
  if not films:
    notes.append('There are no volumes in this folder, so no image is shown.')
  regions = sources.load_regions_if_any(folder, notes)
  name = (run_settings.get('model') or {}).get('name', 'patch_cnn')
  curves = _curves(folder, notes) if name in models.NAMES else None
  found = (_neighbourhood(films, run_settings, notes), _preparation(films, records),
           curves,
           _porosities(folder), _regions(films, regions, notes),
           *(_slice(i, film) for i, film in enumerate(films)))
  return [figure for figure in found if figure is not None]


def page_figure(stem, title, caption, figure) -> PageFigure:
  """Renders a matplotlib Figure for the page, at its own width."""
  return PageFigure(stem, title, caption, figures.to_png(figure),
                    float(figure.get_figwidth()))


def _neighbourhood(films, run_settings, notes):
  model = run_settings.get('model') or {}
  if model.get('name') not in ('patch_cnn', None):  # no square for each voxel
    return None
  found = sources.read_neighbourhood(films, model)
  if found is None:
    if films:
      notes.append('The volumes are smaller than the smallest neighbourhood.')
    return None
  return page_figure(
      'neighbourhoods', 'Neighbourhood sizes.',
      'The network decides about the voxel at the cross from the square around it. '
      'Squares: the sizes studied in the paper (its Figure 1). Yellow: the size of '
      'this run; at the right its slices, milling direction downwards.',
      figures.neighbourhood_figure(*found))


def _preparation(films, records):
  """What preparation did to the first volume whose raw one is still there."""
  for film in films:
    found = sources.read_preparation(film, records.get(film.name))
    if found is not None:
      return page_figure(
          'preparation', 'Preparation.',
          'The middle slice of a volume as acquired and as prepared, each stretched to '
          'its own contrast, and the mean of each of its rows: a gradient along the '
          'rows is removed, nothing is smoothed.',
          preparation.preparation_figure(film.name, *found,
                                         sources.voxel_size_yx_nm(film.image)))
  return None


def _curves(folder, notes):
  columns = csv_files.read_columns(folder / 'metrics.csv')
  if 'epoch' not in columns:
    notes.append('metrics.csv is missing or empty: no training curves.')
    return None
  return page_figure(
      'curves', 'Training.',
      'Loss, accuracy and mIoU after each epoch, on the training and validation '
      'voxels (Figure 6 of the paper). The training values are means over the steps '
      'of the epoch, with dropout and augmentation, and so may lie below those of '
      'validation. The dotted line is the epoch of lowest validation cross-entropy.',
      figures.curves_figure(columns))


def _porosities(folder):
  columns = csv_files.read_columns(folder / 'porosities.csv')
  if not {'volume', 'manual', 'automatic'} <= columns.keys():
    return None
  volume = columns['volume']
  whole = np.isfinite(columns['manual']) & np.isfinite(columns['automatic'])
  if not whole.any():
    return None
  manual, automatic = ({n: columns[kind][whole & (volume == n)]
                        for n in dict.fromkeys(volume[whole].tolist())}
                       for kind in ('manual', 'automatic'))
  return page_figure(
      'porosities', 'Porosity of each annotated region.',
      'Automatic against manual porosity; on the line the two agree. Scatter along '
      'the line is the material, scatter across it the error of the segmentation '
      'and of the labels.',
      figures.porosity_figure(manual, automatic))


def _regions(films, regions, notes):
  found = [p for f in films if (p := sources.region_panel(f, regions, notes))]
  if not found:
    return None
  return page_figure(
      'regions', 'One region per volume.',
      'From left to right: image; labels (pore green, solid red); score, the '
      'probability of solid, from black (pore) over green (undecided) to white '
      '(solid); segmentation; comparison of the two (Figure 8 of the paper). Shown is '
      'the region of median accuracy: ' + '; '.join(where for _, where in found) + '.',
      figures.regions_figure([panel for panel, _ in found]))


def _slice(index, film):
  found = sources.read_slice(film)
  if found is None:
    return None
  z, image_yx, segmentation_yx = found
  return page_figure(
      f'slice_{index + 1}', f'Full slice of {film.name}.',
      f'Slice {z}, the middle of the volume, and its segmentation after '
      'post-processing: pore black, solid white (Figure 9 of the paper).',
      figures.slice_figure(film.name, z, image_yx, segmentation_yx,
                           sources.voxel_size_yx_nm(film.image)))
