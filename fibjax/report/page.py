"""Report pages: the page of a run, and what the pages of studies share.

`write_report` reads a workdir and writes report.html (figures embedded, no links to
anything outside), figures/*.png and tables.md. The one script of a page moves the
sliders and unfolds tables for print; the page allows it by its hash, and is complete
without it. Results the run does not have yet are listed on the page. Text from the run
is escaped, so markup in a file name is shown as text. The same workdir gives the same
bytes.
"""
import base64
import hashlib
from pathlib import Path

import jinja2
import numpy as np

from fibjax.errors import InputError
from fibjax.models.facts import NETWORK, MethodFacts
from fibjax.report import (
  figures,
  growth,
  intervals,
  opening,
  physics,
  preparation,
  prose,
  published,
  sources,
  sweep_figures,
  sweep_tables,
  tables,
)
from fibjax.report.page_figure import PageFigure, page_figure
from fibjax.system import csv_files, files
from fibjax.system.run_folder import RunFolder

_FOLDED_ROWS = 12  # longer tables are folded


def write_report(folder, facts: MethodFacts | None, *, source_inputs=(),
                 is_published: bool = False) -> Path:
  """Writes report.html, figures/ and tables.md of a run.

  Args:
    folder: the run's workdir, finished or not.
    facts: of the run's method; None when the workdir has no config.json.
    source_inputs: (name, text) of what the data source put in.
    is_published: whether to set the published tables beside those of the run.

  Returns:
    path of report.html.

  Raises:
    InputError: when the folder is missing or one of its files is damaged.
  """
  run = RunFolder(folder)
  if not run.path.is_dir():
    raise InputError(str(folder), got='no such folder', expected="a run's workdir",
                     remedy='check --workdir')
  notes: list[str] = []
  settings, metrics, versions = (sources.read_json_if_any(path, notes) for path in (
      run.config, run.metrics, run.versions))
  records, hashes, postprocess = (
      files.read_json_object(path) if path.is_file() else {}
      for path in (run.preprocessing, run.inputs, run.postprocess))
  postprocess = postprocess or metrics.get('postprocess') or {}
  page_tables = _tables(run, metrics, facts, is_published, notes)
  films = sources.open_films(run)
  page_figures = _figures(run, films, settings, records, facts, notes)
  if run.results.is_file():
    _add_ensemble(files.read_json_object(run.results), page_tables, page_figures)
    if run.growth.is_file():
      _add_growth(files.read_json(run.growth), page_tables, page_figures)
  elif metrics.get('reliability'):
    page_figures.append(_reliability(metrics['reliability']))
  analysis = files.read_json_object(run.analysis) if run.analysis.is_file() else {}
  _add_physics(analysis, page_tables, page_figures, notes)
  return write_page(
      run, 'report.html', page_tables, page_figures, notes=notes,
      top=opening.make_opening(films, analysis),
      warnings=sources.overlap_warnings(run),
      highlights=_highlights(settings, postprocess, facts), settings=settings,
      versions=versions, inputs=[*prose.inputs(hashes, records), *source_inputs],
      methods=prose.methods_paragraph(settings, versions, metrics, postprocess,
                                      records, facts),
      citations=prose.citations(facts, versions, records))


def write_page(folder, template: str, page_tables, page_figures, *, notes, highlights,
               settings: dict, versions: dict, citations, inputs=(), methods: str = '',
               workdir: str | None = None, warnings=(),
               top: opening.Opening | None = None) -> Path:
  """Writes a page, its figures and its tables into a folder.

  Args:
    folder: existing folder; gets report.html, figures/ and tables.md.
    template: file name of a template that extends shell.html.
    page_tables: Tables in the order of the page.
    page_figures: PageFigures in the order of the page.
    notes: sentences about what is missing on the page.
    highlights: (name, value) pairs of text for the head of the page.
    settings: content of config.json, {} for none; its name is the page's.
    versions: content of versions.json, {} for none.
    citations: references.
    inputs: (name, value) pairs of text about what was read.
    methods: a paragraph for a paper.
    workdir: name of the workdir where it is not the folder.
    warnings: sentences about results that must not be taken as they are.
    top: what the page of a run opens with.

  Returns:
    path of report.html.
  """
  written = RunFolder(folder)
  workdir = workdir or written.path.resolve().name
  written.figures.mkdir(exist_ok=True)
  for figure in [*(top.figures if top else ()), *page_figures]:
    files.write_bytes(written.figures / f'{figure.stem}.{figure.kind}', figure.data)
  files.write_text(written.tables,
                   '\n'.join(tables.to_markdown(table) for table in page_tables))
  is_scripted = (top is not None and top.has_sliders) or any(
      len(table.rows) > _FOLDED_ROWS for table in page_tables)
  html = _template(template).render(
      name=settings.get('name') or workdir, folder=workdir, notes=notes,
      warnings=warnings, tables=page_tables, combined=tables.COMBINED,
      figures=page_figures, top=top, script=_script() if is_scripted else None,
      folded_rows=_FOLDED_ROWS,
      highlights=highlights, settings=_flatten(settings), versions=versions,
      inputs=inputs, methods=methods, citations=citations)
  files.write_text(written.report, html)
  return written.report


def _script() -> tuple[str, str]:
  """The only script of a page, and its hash, by which the page's policy allows it."""
  text = Path(__file__).with_name('page.js').read_text(encoding='utf-8')
  digest = hashlib.sha256(text.encode()).digest()
  return text, f'sha256-{base64.b64encode(digest).decode("ascii")}'


def _template(name):
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True,
      undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
  environment.filters['base64'] = lambda data: base64.b64encode(data).decode('ascii')
  environment.filters['unbroken'] = _unbroken
  environment.filters['with_unit'] = _with_unit
  return environment.get_template(name)


def _unbroken(text: str) -> str:
  """Lets the lines of a cell break only before an interval in brackets."""
  return text.replace(' ', '\N{NO-BREAK SPACE}').replace('\N{NO-BREAK SPACE}[', ' [')


def _with_unit(heading: str) -> str:
  """Keeps the unit of a heading on the line of its last word."""
  return heading.replace(', ', ',\N{NO-BREAK SPACE}').replace(
      ' %', '\N{NO-BREAK SPACE}%')


def _flatten(content, prefix='') -> list[tuple[str, str]]:
  """Lists nested settings as (dotted key, text)."""
  rows = []
  for key, value in content.items():
    if isinstance(value, dict):
      rows.extend(_flatten(value, f'{prefix}{key}.'))
    else:
      items = value if isinstance(value, list) else [value]
      text = ', '.join(str(item) for item in items)
      rows.append((f'{prefix}{key}', text or tables.DASH))
  return rows


def _highlights(settings, postprocess, facts) -> list[tuple[str, str]]:
  """Lists the few settings that a reader looks for first."""
  pairs = [] if facts is None else [facts.summary(settings)]
  if {'sigma_px', 'threshold'} <= postprocess.keys():
    thresholds = {f'{value:.4g}' for value in (
        postprocess.get('per_volume') or {'': postprocess['threshold']}).values()}
    pairs.append(('Post-processing',
                  f'Gaussian σ {postprocess["sigma_px"]:.3g} px, threshold '
                  f'{", ".join(sorted(thresholds))}, twice'))
  cleanup = settings.get('postprocess') or {}
  if 'min_size_vox' in cleanup:
    pairs.append(('Small objects',
                  f'below {cleanup["min_size_vox"]} voxels removed'))
  if 'seed' in settings:
    pairs.append(('Seed', str(settings['seed'])))
  return pairs


def _tables(run, metrics, facts, is_published, notes) -> list[tables.Table]:
  made = _score_tables(metrics, notes) if metrics else []
  if facts is not None and run.forest_rows.is_file():
    made.append(tables.leaf_table(facts.title, files.read_json(run.forest_rows)))
  if metrics and is_published:
    made += published.published_tables(metrics, published.count_networks())
  return made


def _score_tables(metrics, notes) -> list[tables.Table]:
  for split, heading in tables.SPLITS.items():
    pooled = (metrics.get(split) or {}).get('after') or {}
    if not pooled.get('n_voxels'):
      notes.append(f'{heading}: no regions in this split, so its columns are empty.')
  made = [tables.summary_table(metrics), tables.split_table(metrics, 'before'),
          tables.split_table(metrics, 'after')]
  if metrics.get('whole_volume'):
    made.append(tables.volume_table(metrics))
  if metrics.get('porosity_tests'):
    made.append(tables.porosity_table(metrics))
  else:
    notes.append('The porosities of single regions were not compared.')
  return made


def _figures(run, films, settings, records, facts, notes) -> list[PageFigure]:
  if not films:
    notes.append('The workdir has no volumes, so no images are shown.')
  regions = sources.load_regions_if_any(run, notes)
  has_neighbourhood = facts is not None and facts.has_neighbourhood
  is_network = facts is None or facts.role == NETWORK
  made = (
      _neighbourhood(films, settings['model'], notes) if has_neighbourhood else None,
      _preparation(films, records), _curves(run, notes) if is_network else None,
      _porosities(run), _regions(films, regions, notes),
      *(_slice(i, film) for i, film in enumerate(films)))
  return [figure for figure in made if figure is not None]


def _neighbourhood(films, model, notes):
  neighbourhood = sources.read_neighbourhood(films, model)
  if neighbourhood is None:
    if films:
      notes.append('The volumes are smaller than the smallest neighbourhood, so none '
                   'is drawn.')
    return None
  return page_figure(
      'neighbourhoods', 'Neighbourhood sizes.',
      'The network classifies the voxel at the cross from the square around it. '
      'White: the sizes studied in the paper (its Figure 1). Yellow: the size used in '
      'this run; its slices are shown on the right, in milling direction from top to '
      'bottom.', figures.neighbourhood_figure(*neighbourhood))


def _preparation(films, records):
  """The first volume whose raw data still exist, before and after preparation."""
  for film in films:
    slices = sources.read_preparation(film, records.get(film.name))
    if slices is not None:
      return page_figure(
          'preparation', 'Preparation.',
          'The middle slice of a volume as acquired and as prepared, each with its '
          'contrast stretched, and the mean of each row. Preparation removes a '
          'gradient along the rows; it does not smooth.',
          preparation.preparation_figure(film.name, *slices,
                                         sources.voxel_size_yx_nm(film.image)))
  return None


CURVES_CAPTION = (
    'after each epoch, on the training and validation voxels (Figure 6 of the paper). '
    'Training values are means over the steps of the epoch, with dropout and '
    'augmentation, and may therefore be worse than the validation values. Dotted line: '
    'the epoch of lowest validation cross-entropy.')


def _curves(run, notes):
  columns = csv_files.read_columns(run.epochs)
  if 'epoch' not in columns:
    notes.append(f'{run.epochs.name} is missing or empty: no training curves.')
    return None
  return page_figure('curves', 'Training.', f'Loss, accuracy and mIoU {CURVES_CAPTION}',
                     figures.curves_figure(columns))


def _porosities(run):
  columns = csv_files.read_columns(run.porosities, ('volume', 'split'))
  if not {'volume', 'manual', 'automatic'} <= columns.keys():
    return None
  volume = columns['volume']
  complete = np.isfinite(columns['manual']) & np.isfinite(columns['automatic'])
  if not complete.any():
    return None
  manual, automatic = ({name: columns[side][complete & (volume == name)]
                        for name in dict.fromkeys(volume[complete].tolist())}
                       for side in ('manual', 'automatic'))
  return page_figure(
      'porosities', 'Porosity of each annotated region.',
      'Automatic against manual porosity; on the line they agree. Scatter along the '
      'line comes from the material, scatter across it from errors of the segmentation '
      'and of the labels.',
      figures.porosity_figure(manual, automatic))


def _regions(films, regions, notes):
  panels = [panel for film in films
            if (panel := sources.region_panel(film, regions, notes))]
  if not panels:
    return None
  return page_figure(
      'regions', 'One region per volume.',
      'From left to right: image; labels (pore green, solid red); score, the '
      'probability of solid, from black (pore) through green (undecided) to white '
      '(solid); segmentation; comparison of labels and segmentation (Figure 8 of the '
      'paper). Shown is the region of median accuracy of each volume ('
      + '; '.join(place for _, place in panels) + ').',
      figures.regions_figure([panel for panel, _ in panels]))


def _slice(index, film):
  middle = sources.read_slice(film)
  if middle is None:
    return None
  z, image_yx, segmentation_yx = middle
  return page_figure(
      f'slice_{index + 1}', f'Full slice of {film.name}.',
      f'Slice {z}, in the middle of the volume, and its segmentation after '
      'post-processing: pore black, solid white (Figure 9 of the paper).',
      figures.slice_figure(film.name, z, image_yx, segmentation_yx,
                           sources.voxel_size_yx_nm(film.image)), is_photo=True)


def _reliability(content) -> PageFigure:
  return page_figure(
      'reliability', 'Reliability of the scores.',
      'Observed fraction of solid against the score before post-processing, on the '
      'test regions, in bins of equal numbers of voxels. On the diagonal a score is a '
      'probability; above it the scores underestimate solid. ECE: mean distance from '
      'the diagonal.',
      sweep_figures.reliability_figure({'scores': tuple(
          np.asarray(content[name]) for name in ('score_b', 'solid_b', 'count_b'))}))


def _add_ensemble(results, page_tables, page_figures) -> None:
  """Adds the table of members and ensemble, and the ensemble's reliability."""
  rows = [*results['members'], {'name': 'mean member', **results['mean_member']},
          results['ensemble']]
  page_tables.append(sweep_tables.ensemble_table(rows))
  curves = {name: tuple(map(np.asarray, results['ensemble']['reliability'][name]))
            for name in ('before', 'after')}
  page_figures.append(page_figure(
      'reliability', 'Reliability of the scores.',
      'Observed fraction of solid against the score of the ensemble, on the test '
      'regions, before and after calibration with one temperature fitted on the '
      'validation regions. On the diagonal a score is a probability.',
      sweep_figures.reliability_figure(curves)))


def _add_growth(rows, page_tables, page_figures) -> None:
  """Adds what more members bring."""
  page_tables.append(growth.growth_table(rows))
  page_figures.append(page_figure(
      'growth', 'Ensembles against their cost.',
      'Scores of the test regions after post-processing tuned for each ensemble, '
      'against the number of passes of a network over the volume; mean and standard '
      'deviation over draws of the members.', growth.growth_figure(rows)))


def _add_physics(analysis, page_tables, page_figures, notes) -> None:
  """Adds a table and a figure of each analysed volume."""
  for i, (name, content) in enumerate(analysis.items()):
    if 'undefined' in content:
      notes.append(f'{name}: no physical quantities, {content["undefined"]}.')
      continue
    page_tables += filter(None, (intervals.interval_table(name, content),
                                 physics.physics_table(name, content)))
    page_figures.append(page_figure(
        f'physics_{i + 1}', f'Pore sizes and S2 of {name}.',
        'Left: share of the pore volume in pores below a size. Right: probability that '
        'two points a given distance apart along an axis both lie in the pore. It '
        'starts at the porosity and levels off near the square of the porosity (grey). '
        'An isotropic material has the same curve along all axes; pore-backs '
        'classified as solid lower the curve along z. Bars: intervals, where there are '
        'any. Dotted: the ground truth, where it is known.',
        physics.physics_figure(name, content)))
