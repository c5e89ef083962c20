"""The `fibjax` command: one verb, one function, no logic.

A user's mistake gives one line on stderr and exit status 2; SIGINT and SIGTERM leave a
workdir that goes on where it was stopped (130, 143). A file that the system refuses to
read or write is told in one line, too. Everything else that escapes is a defect and
keeps its traceback.
"""
import argparse
import json
import os
import sys
from pathlib import Path

from fibjax.cli import data_verbs
from fibjax.errors import InputError
from fibjax.system.signals import end_at_signals


class _Parser(argparse.ArgumentParser):
  """argparse with the house's one-line errors."""

  def error(self, message):
    self.exit(2, f'fibjax: {message}; see {self.prog} --help\n')


def parser() -> argparse.ArgumentParser:
  """The command line: verbs with their flags."""
  top = _Parser(prog='fibjax', description='Segments FIB-SEM volumes of porous '
                   'materials. Any setting: --config.SECTION.KEY=VALUE.')
  verbs = top.add_subparsers(dest='verb', required=True, metavar='VERB')

  def verb(name, help_text, function, config=False):
    sub = verbs.add_parser(name, help=help_text, description=help_text)
    sub.set_defaults(function=function)
    if config:
      sub.add_argument('--config', required=True, metavar='FILE[:VARIANT]')
    return sub

  for name, help_text, function in (
      ('run', 'the whole job: data, training, segmentation, metrics, report', _run),
      ('train', 'data and training only', _train),
      ('sweep', 'train many members: seeds, sizes, random search', _sweep),
      ('ensemble', 'a sweep, and the whole job with its best members', _ensemble)):
    sub = verb(name, help_text, function, config=True)
    sub.add_argument('--workdir', required=True, type=Path)
    if name != 'train':
      _add_resources(sub)
    if name == 'train':
      sub.add_argument('--resume', action='store_true',
                       help='go on from the newest checkpoint of the workdir')
  data_verbs.add_verbs(verb)
  sub = verb('segment', 'apply a trained run to another volume', _segment)
  sub.add_argument('--workdir', required=True, type=Path, help='the trained run')
  sub.add_argument('--volume', required=True, type=Path)
  sub.add_argument('--out', required=True, type=Path, help='folder for the result')
  sub.add_argument('--mode', choices=('auto', 'dense', 'patch'), default='auto')
  _add_resources(sub)
  for name, help_text, function in (
      ('evaluate', 'metrics of a finished run, as JSON', _evaluate),
      ('analyse', 'physical quantities of a finished run, as JSON', _analyse),
      ('report', 'write report.html again', _report)):
    sub = verb(name, help_text, function)
    sub.add_argument('--workdir', required=True, type=Path)
    if name == 'analyse':
      sub.add_argument('--mvoxel', type=_positive, metavar='N', help='million voxels '
                       'of the central box (default: config.analyse.mvoxel)')
  sub = verb('view', 'look at a workdir or a volume in napari (extra `view`)', _view)
  sub.add_argument('path', type=Path)
  sub = verb('coverage', 'how often the porosity intervals of an ensemble cover the '
             'truth, on simulated films', _coverage)
  sub.add_argument('--workdir', required=True, type=Path, help='of `fibjax ensemble`')
  sub.add_argument('--preset', default='HPC30')
  sub.add_argument('--shape', type=data_verbs.numbers(int, 3), default=(16, 160, 160),
                   metavar='Z,Y,X')
  sub.add_argument('--films', type=int, default=60)
  sub.add_argument('--seed', type=int, default=1000)
  sub.add_argument('--out', required=True, type=Path, help='JSON file')
  sub = verb('bench', 'speed figures as JSON', _bench)
  sub.add_argument('--out', type=Path, help='file that keeps every finished group; '
                   'the same command resumes')
  sub.add_argument('--only', help='comma-separated names of groups of figures')
  sub.add_argument('--restart', action='store_true',
                   help='measure again what --out has already')
  sub.add_argument('--peer', choices=('torch',), default='',
                   help='compare with another framework, if installed')
  return top


def _add_resources(sub):
  """The fields of cluster.Resources as flags."""
  sub.add_argument('--memory_gb', type=_positive, default=1.5, metavar='GB',
                   help='memory for tiles, per process (default %(default)s)')
  sub.add_argument('--workers', type=int, default=0, metavar='N',
                   help='local worker processes (default: this process alone)')
  sub.add_argument('--scheduler', default='', metavar='ADDRESS',
                   help='a running Dask scheduler, e.g. tcp://10.0.0.1:8786')
  for name in ('ca', 'cert', 'key'):
    sub.add_argument(f'--tls_{name}', default='', metavar='FILE',
                     help='PEM file for a tls:// scheduler')


def _positive(text: str) -> float:
  return data_verbs.numbers(float, 1)(text)[0]


def _resources(args):
  from fibjax.system.cluster import Resources
  if args.workers < 0 or (args.workers and args.scheduler):
    raise InputError('--workers', got=f'{args.workers} with --scheduler='
                     f'{args.scheduler!r}', expected='at least 0, and only one of both',
                     remedy='leave one of them out')
  return Resources(*(getattr(args, name) for name in Resources._fields))


# Each verb imports what it needs, so that `--help` and mistakes answer at once.
def _load(args, overrides):
  from fibjax.config import load
  return load(args.config, overrides)


def _run(args, overrides):
  from fibjax.pipeline import run
  from fibjax.studies import compare_methods, training_slices
  config = _load(args, overrides)
  if config.compare.methods:
    print(json.dumps(compare_methods.run_compare(config, args.workdir)['findings']))
  elif config.study.counts:
    print(json.dumps(training_slices.run_study(config, args.workdir,
                                     _resources(args))['contrasts']))
  else:
    print(json.dumps(run.run(config, args.workdir, _resources(args))['test']))
  print(f'report: {args.workdir / "report.html"}', file=sys.stderr)


def _train(args, overrides):
  from fibjax.pipeline import run
  print(json.dumps(run.train_only(_load(args, overrides), args.workdir, args.resume)))


def _sweep(args, overrides):
  from fibjax.studies import sweep
  print(json.dumps(sweep.run_sweep(_load(args, overrides), args.workdir,
                                   _resources(args))))
  print(f'report: {args.workdir / "sweep" / "report.html"}', file=sys.stderr)


def _ensemble(args, overrides):
  from fibjax.studies import ensemble
  found = ensemble.run_ensemble(_load(args, overrides), args.workdir, _resources(args))
  print(json.dumps({kind: {name: value for name, value in found[kind].items()
                           if isinstance(value, float)}
                    for kind in ('mean_member', 'ensemble')}))
  print(f'report: {args.workdir / "report.html"}', file=sys.stderr)


def _segment(args, _):
  from fibjax.pipeline import segmenter
  print(segmenter.segment_other(args.workdir, args.volume, args.out, args.mode,
                          _resources(args)))


def _evaluate(args, _):
  from fibjax.pipeline import run
  print(json.dumps(run.evaluate_again(args.workdir)))


def _analyse(args, _):
  from fibjax.pipeline import run
  found = run.analyse_again(args.workdir, args.mvoxel)
  print(json.dumps(found))
  print(f'report: {args.workdir / "report.html"}', file=sys.stderr)


def _report(args, _):
  from fibjax.pipeline import segmenter
  from fibjax.report import page
  segmenter.open_run(args.workdir)
  print(page.write_report(args.workdir))


def _view(args, _):
  from fibjax.report import viewer
  viewer.show(args.path)


def _coverage(args, _):
  from fibjax.studies import ensemble
  from fibjax.system import files
  found = ensemble.check_coverage(args.workdir, args.preset, args.shape, args.films,
                                  args.seed)
  files.write_json(args.out, found)
  print(json.dumps({name: value for name, value in found.items() if name != 'films'}))


def _bench(args, _):
  from fibjax.bench import bench
  bench.main(args.out, args.only, args.peer, args.restart)


def main(argv: list[str] | None = None) -> int:
  """Runs one verb and returns the exit status."""
  # float32 on GPUs, too, not TF32; JAX reads it when it is imported, here or in workers
  os.environ.setdefault('JAX_DEFAULT_MATMUL_PRECISION', 'highest')
  args, rest = parser().parse_known_args(argv)
  prefix = '--config.'
  try:
    for word in rest:
      if not word.startswith(prefix) or 'config' not in args:
        raise InputError(word, got='an unknown flag', expected=f'a flag of {args.verb}',
                         remedy=f'see fibjax {args.verb} --help')
    with end_at_signals(_next_step(args.verb)):
      args.function(args, tuple(word.removeprefix(prefix) for word in rest))
  except (InputError, OSError) as error:
    print(f'fibjax: {_mistake(error)}', file=sys.stderr)
    return 2
  return 0


def _mistake(error: InputError | OSError) -> InputError:
  """What to tell the user; raises an error of the system that names no file."""
  if isinstance(error, InputError):
    return error
  if error.filename is None:
    raise error
  return InputError(str(error.filename), got=error.strerror,
                    expected='a path that can be read or written',
                    remedy='check the path, its permissions and the free space')


def _next_step(verb: str) -> str:
  return {'run': 'the same command goes on from here',
          'sweep': 'the same command goes on from here',
          'ensemble': 'the same command goes on from here',
          'segment': 'the same command goes on from here',
          'bench': 'the same command resumes if it has --out',
          'train': 'the same command with --resume goes on from here'}.get(
              verb, 'nothing half-written is left')




