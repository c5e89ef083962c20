"""The data verbs of `fibjax`: inspect, import, export, prep, regions, simulate.

As in main.py: one verb, one function, no logic. Each imports what it needs, so that
`--help` and mistakes answer at once; the registries of formats, label codes and sizes
are light and give the help texts.
"""
import argparse
import json
import sys
from pathlib import Path

from fibjax.annotation.sizes import PAPER_SIZES
from fibjax.errors import InputError, printable
from fibjax.formats.registry import describe_readable, describe_writable
from fibjax.metrics.labels import LABEL_CODES

_PROFILES = ', '.join(LABEL_CODES)
_HIGH = 1e9  # of numbers given as flags: voxels, nm, GB


def numbers(number_type: type, count: int, low: float = 0, high: float = _HIGH):
  """Makes an argparse type: text -> count numbers above low, separated by commas.

  Args:
    number_type: int or float.
    count: how many numbers.
    low: that they must exceed.
    high: that they must not exceed, so neither NaN nor infinity.
  """
  def parse(text: str):
    try:
      values = tuple(number_type(word) for word in text.split(','))
    except ValueError:
      values = ()
    if len(values) != count or not all(low < value <= high for value in values):
      what = (f'{count} positive numbers up to {high:g}, separated by commas'
              if count > 1 else f'a number above {low:g} up to {high:g}'
              if number_type is float else
              f'a whole number from {low + 1} to {high:.0f}')
      raise argparse.ArgumentTypeError(f'{printable(text, 40)!r} is not {what}')
    return values
  return parse


def number(number_type: type, low: float = 0, high: float = _HIGH):
  """Makes an argparse type: text -> a number above low, at most high."""
  parse = numbers(number_type, 1, low, high)
  return lambda text: parse(text)[0]


# Whole numbers from 0, such as seeds, which fit into 31 bits everywhere.
natural = number(int, -1, 2**31 - 1)


def add_verbs(verb) -> None:
  """Adds the data verbs to the command line by verb(name, help, function)."""
  sub = verb('inspect', 'report the quality of a stack and its faults', _inspect)
  sub.add_argument('source', type=Path)
  sub.add_argument('--json', action='store_true', help='print all findings as JSON')
  sub.add_argument('--quick', action='store_true',
                   help='skip the speed measurement that predicts segmentation times')
  sub.add_argument('--png', type=Path, metavar='FILE', help='write a figure: three '
                   'cross-sections, brightness and shift of the slices')
  _add_budget(sub)
  sub = verb('import', f'import a stack, one of {describe_readable()}; or unpack the '
             'published zip', _import)
  sub.add_argument('source', type=Path)
  sub.add_argument('--out', required=True, type=Path, help='e.g. film.ome.zarr')
  sub.add_argument('--voxel_size_nm', type=numbers(float, 3), metavar='Z,Y,X')
  sub.add_argument('--dataset', help='name of the array in a file with several')
  sub.add_argument('--axes', help='order of the axes in the file, e.g. zyx or yxz')
  sub.add_argument('--profile', help='for a stack of labels: the meaning of its codes, '
                   f'one of {_PROFILES}')
  _add_budget(sub)
  sub = verb('export', f'write a volume as one of {describe_writable()}', _export)
  sub.add_argument('volume', type=Path)
  sub.add_argument('--out', required=True, type=Path, help='e.g. film.tif')
  sub.add_argument('--dataset', help='name of the array in an HDF5 or MATLAB file')
  sub.add_argument('--profile', help=f'codes to write for labels, one of {_PROFILES}')
  sub.add_argument('--ome_version', choices=('0.4', '0.5'), default='0.5',
                   help='version of OME-Zarr (default %(default)s)')
  sub = verb('prep', 'align and correct a raw volume, or replay a record', _prep)
  sub.add_argument('volume', type=Path)
  sub.add_argument('--out', required=True, type=Path, help='e.g. aligned.ome.zarr')
  either = sub.add_mutually_exclusive_group(required=True)
  either.add_argument('--steps', metavar='STEP[:KEY=VALUE...],...',
                      help='e.g. align:trend=linear,gradient,brightness,destripe')
  either.add_argument('--replay', type=Path, metavar='FILE',
                      help='record of an earlier preparation, NAME.preparation.json')
  _add_regions(verb)
  sub = verb('simulate', 'simulate a film with known truth', _simulate)
  sub.add_argument('--preset', required=True, help='HPC22, HPC30, HPC45 or MEM80')
  sub.add_argument('--shape', required=True, type=numbers(int, 3), metavar='Z,Y,X')
  sub.add_argument('--seed', type=natural, default=0)
  sub.add_argument('--artefacts', default='mild', choices=('none', 'mild', 'real'))
  sub.add_argument('--geometry', type=Path, metavar='FILE',
                   help='a real geometry (TIFF, 1 = solid) instead of a random one')
  sub.add_argument('--geometry_scale', type=natural, default=4, metavar='N',
                   help='voxels of the film per voxel of FILE (default %(default)s)')
  sub.add_argument('--solid_code', type=natural, metavar='CODE',
                   help='code of the solid in a FILE with codes other than 0 and 1')
  sub.add_argument('--annotator', action='store_true',
                   help="write an imperfect expert's labels as well as the truth")
  sub.add_argument('--out', required=True, type=Path, help='folder to create')


def _add_budget(sub):
  """The flag that bounds the memory of a slice, for verbs that read stacks."""
  sub.add_argument('--max_slice_gb', type=number(float), default=1.0, metavar='GB',
                   help='memory that decoding a slice may take; a small file can hold '
                   'gigabytes (default %(default)g)')


def _add_regions(verb):
  top = verb('regions', 'propose, export and import regions to annotate', None)
  verbs = top.add_subparsers(dest='regions_verb', required=True, metavar='VERB')

  def regions_verb(name, help_text, function):
    sub = verbs.add_parser(name, help=help_text, description=help_text)
    sub.set_defaults(function=function)
    return sub
  sub = regions_verb('propose', 'write a table of places to annotate', _propose)
  sub.add_argument('volume', type=Path)
  sub.add_argument('--out', required=True, type=Path, help='e.g. places.csv')
  sub.add_argument('--count', type=number(int), default=100,
                   help='number of places (default %(default)s)')
  sub.add_argument('--how', default='stratified',
                   choices=('random', 'stratified', 'uncertain'),
                   help='default %(default)s: spread over depth and brightness')
  sub.add_argument('--scores', type=Path, help='score volume, for --how=uncertain')
  sub.add_argument('--seed', type=natural, default=0)
  _add_sizes(sub, 'default')
  sub = regions_verb('export', 'write images and empty label files to paint',
                     _export_regions)
  sub.add_argument('places', type=Path,
                   help='CSV: volume,z,y,x, optionally with the sizes; for '
                   '--profile=nnunet a folder of annotated regions')
  sub.add_argument('volume', type=Path, nargs='+')
  sub.add_argument('--out', required=True, type=Path, help='folder to create')
  sub.add_argument('--experts', default='expert1', help='names separated by commas')
  sub.add_argument('--profile', choices=('paint', 'nnunet'), default='paint',
                   help='what for: to be painted, or a raw data set of nnU-Net v2')
  sub.add_argument('--whole', action='store_true',
                   help='for nnunet: every slice of the volumes too, to predict')
  _add_sizes(sub, 'default: as in the table, or')
  sub = regions_verb('import', 'import annotated regions', _import_regions)
  sub.add_argument('source', type=Path,
                   help='folder of `regions export`, or CSV: volume,z,y,x[,split]')
  sub.add_argument('masks', type=Path, nargs='?',
                   help='labels for a CSV: TIFF or npy stack, or folder of images')
  sub.add_argument('--profile', required=True,
                   help=f'meaning of the codes, one of {_PROFILES}')
  sub.add_argument('--out', required=True, type=Path)


def _add_sizes(sub, default):
  """Adds a flag for each size, with its default in the help text."""
  for name, length in PAPER_SIZES._asdict().items():
    sub.add_argument(f'--{name}', type=number(int), metavar='N',
                     help=f'{default} {length}')


def _inspect(args, _):
  from fibjax.bench.speed import measure_us_per_voxel
  from fibjax.formats import stacks
  from fibjax.inspection import inspect
  from fibjax.report import figures, inspect_figure
  from fibjax.system import files, progress
  if args.png:
    args.png.parent.mkdir(parents=True, exist_ok=True)
  speed = None
  with stacks.open_stack(args.source, max_slice_gb=args.max_slice_gb):
    pass  # mistakes are reported before the minute that the speed takes
  if not args.quick:
    progress.say('measuring the speed of segmentation (--quick skips this)')
    speed = measure_us_per_voxel()
  findings = inspect.inspect_stack(args.source, us_per_voxel=speed,
                                   max_slice_gb=args.max_slice_gb)
  if args.png:
    cuts = inspect.cuts(args.source, args.max_slice_gb)
    figure = inspect_figure.inspect_figure(findings, cuts)
    files.write_bytes(args.png, figures.to_png(figure))
  print(json.dumps(findings) if args.json else inspect.describe(findings))


def _import(args, _):
  from fibjax.datasets import skarberg2021
  from fibjax.formats import stacks
  if args.source.suffix == '.zip':
    print(skarberg2021.unpack_download(args.source, args.out))
    return
  volume = stacks.import_stack(args.source, args.out, dataset=args.dataset,
                               voxel_size_zyx_nm=args.voxel_size_nm, axes=args.axes,
                               label_codes=args.profile, max_slice_gb=args.max_slice_gb)
  print(json.dumps({'volume': str(volume.path), 'shape_zyx': volume.shape,
                    'dtype': str(volume.dtype),
                    'voxel_size_zyx_nm': volume.voxel_size_zyx_nm}))


def _export(args, _):
  from fibjax.formats import stacks
  from fibjax.volumes.volume import open_volume
  print(stacks.export_stack(open_volume(args.volume), args.out,
                            label_codes=args.profile, dataset=args.dataset,
                            ome_version=args.ome_version))


def _prep(args, _):
  from fibjax.preparation import chain, steps
  from fibjax.system import files
  from fibjax.volumes.volume import open_volume
  raw = open_volume(args.volume.resolve())
  if args.replay:
    chain.replay(raw, files.read_json_object(args.replay), args.out)
  else:
    chain.apply_steps(raw, args.out, steps.steps_from(args.steps))
  print(f'record: {chain.record_path(args.out)}', file=sys.stderr)
  print(args.out)


def _sizes(args, sizes):
  """Replaces the sizes that were given as flags."""
  given = {key: getattr(args, key) for key in sizes._fields}
  return sizes._replace(**{key: n for key, n in given.items() if n is not None})


def _propose(args, _):
  from fibjax.annotation import proposals
  from fibjax.volumes.volume import open_volume
  scores = args.scores and open_volume(args.scores)
  sizes = _sizes(args, PAPER_SIZES)
  places = proposals.propose(open_volume(args.volume), args.count, args.how,
                             seed=args.seed, sizes=sizes, scores=scores)
  proposals.save_places(args.out, places, sizes)
  print(args.out)


def _export_regions(args, _):
  from fibjax.annotation import exchange, nnunet, proposals
  from fibjax.annotation.regions import load_regions
  from fibjax.datasets import collect
  if args.profile == nnunet.PROFILE:
    regions, given = load_regions(args.places), _sizes(args, PAPER_SIZES)
    sides = regions.masks_ryx.shape[1:]
    margin = 0 if args.context_px is None else (args.context_px - max(sides)) // 2
    print(json.dumps(nnunet.export_nnunet(
        regions, collect.open_named(args.volume), args.out,
        slices=given.context_slices, margin_px=max(margin, 0), whole=args.whole)))
    return
  places, sizes = proposals.load_places(args.places)
  exchange.export_regions(collect.open_named(args.volume), places, args.out,
                          sizes=_sizes(args, sizes), experts=args.experts.split(','))
  print(args.out / 'README.txt')


def _import_regions(args, _):
  from fibjax.annotation import exchange
  from fibjax.annotation.regions import import_regions
  if args.masks is not None:
    regions = import_regions(args.source, args.masks, args.profile, args.out)
    print(json.dumps({'rows': len(regions.volume),
                      'volumes': sorted(set(regions.volume))}))
  elif args.source.is_dir():
    print(json.dumps(exchange.import_annotations(args.source, args.profile, args.out)))
  else:
    raise InputError('regions import', got=f'{args.source} alone',
                     expected='a folder of `regions export`, or a table and masks',
                     remedy='give the masks of the table as the second path')


def _simulate(args, _):
  from fibjax.datasets import simulated
  from fibjax.volumes.metadata import check_room
  check_room('--shape', args.shape, 4)
  simulated.simulate(args.preset, args.shape, args.seed, args.artefacts, args.out,
                     geometry=simulated.read_geometry(args.geometry, args.solid_code),
                     geometry_scale=args.geometry_scale, annotator=args.annotator)
