"""The job verbs of the `fibjax` command: run, train, compare, report, measure.

As in main.py: one verb, one function, no logic. Each imports what it needs, so that
`--help` and mistakes answer at once.
"""
import json
import sys
from pathlib import Path

from fibjax.cli import data_verbs
from fibjax.errors import InputError

# What a config of these verbs sets: verb and setting, one of them for a verb.
_MARKS = (('compare', 'compare.methods'), ('study', 'study.counts'),
          ('study', 'study.ways'))


def add_verbs(verb) -> None:
  """Adds the verbs to the command line by verb(name, help, function)."""
  for name, help_text, function in (
      ('run', 'the whole job: data, training, segmentation, metrics, report', _run),
      ('train', 'data and training only', _train),
      ('sweep', 'train many members: seeds, sizes, random search', _sweep),
      ('ensemble', 'a sweep, and the whole job with its best members', _ensemble),
      ('compare', 'the whole job with several methods on the same data', _compare),
      ('study', 'which slices to train on, or how many regions to annotate', _study)):
    sub = verb(name, help_text, function)
    sub.add_argument('--config', required=True, metavar='FILE[:VARIANT]')
    sub.add_argument('--workdir', required=True, type=Path)
    if name == 'train':
      sub.add_argument('--resume', action='store_true',
                       help='resume from the newest checkpoint of the workdir')
    elif name != 'compare':
      _add_resources(sub)
  sub = verb('segment', 'apply a trained run to another volume', _segment)
  trained = sub.add_mutually_exclusive_group(required=True)
  trained.add_argument('--workdir', type=Path, help='the trained run')
  trained.add_argument('--model', help='a network that fibjax comes with, or a folder '
                       'made by `fibjax share`')
  sub.add_argument('--volume', required=True, type=Path)
  sub.add_argument('--out', required=True, type=Path, help='folder for the result')
  sub.add_argument('--mode', choices=('auto', 'dense', 'patch'), default='auto')
  _add_resources(sub)
  sub = verb('share', 'the network of a finished run as a folder to give away', _share)
  sub.add_argument('--workdir', required=True, type=Path)
  sub.add_argument('--out', required=True, type=Path, help='folder to make')
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
  sub = verb('coverage', 'how often the intervals of physical quantities hold the '
             'truth, on simulated films', _coverage)
  sub.add_argument('--workdir', required=True, type=Path, help='of `fibjax ensemble`')
  sub.add_argument('--presets', default='HPC22,HPC30,HPC45', metavar='A,B,...')
  sub.add_argument('--shape', type=data_verbs.numbers(int, 3), default=(32, 160, 160),
                   metavar='Z,Y,X')
  sub.add_argument('--films', type=data_verbs.number(int), default=48)
  sub.add_argument('--draws', type=data_verbs.number(int), default=24,
                   help='plausible segmentations per film (default %(default)s)')
  sub.add_argument('--seed', type=data_verbs.natural, default=1000)
  sub.add_argument('--out', required=True, type=Path, help='JSON file; the same '
                   'command resumes')
  _add_resources(sub)
  sub = verb('bench', 'speed figures as JSON', _bench)
  sub.add_argument('--out', type=Path, help='file that keeps every finished group; '
                   'the same command resumes')
  sub.add_argument('--only', help='comma-separated names of groups of figures')
  sub.add_argument('--restart', action='store_true',
                   help='measure again what --out has already')
  sub.add_argument('--peer', choices=('torch',), default='',
                   help='compare with another framework, if installed')


def next_step(verb: str) -> str:
  """What a user can do after the verb was interrupted."""
  resumable = ('run', 'sweep', 'ensemble', 'compare', 'study', 'segment', 'bench',
               'coverage')
  if verb in resumable:
    return 'run the same command again to resume'
  if verb == 'train':
    return 'run the same command with --resume to resume'
  return 'nothing half-written is left'


def needs_gb(verb: str) -> float:
  """Address space that the libraries of a verb reserve at least, 10^9 bytes."""
  without_jax = ('import', 'export', 'prep', 'regions', 'simulate', 'report', 'view')
  return 0.5 if verb in without_jax else 2.2


def _add_resources(sub):
  """The fields of cluster.Resources as flags."""
  sub.add_argument('--memory_gb', type=_positive, default=1.5, metavar='GB',
                   help='memory for tiles, per process (default %(default)s)')
  sub.add_argument('--workers', type=int, default=0, metavar='N',
                   help='local worker processes (default: this process alone)')
  sub.add_argument('--scheduler', default='', metavar='ADDRESS',
                   help='a running Dask scheduler with TLS, e.g. tls://10.0.0.1:8786')
  for name in ('ca', 'cert', 'key'):
    sub.add_argument(f'--tls_{name}', default='', metavar='FILE',
                     help='PEM file for the scheduler; launch/slurm.sbatch makes them')
  sub.add_argument('--insecure', action='store_true', help='accept a scheduler without '
                   'TLS: whoever can reach its port can run code as you')


_positive = data_verbs.number(float)


def _resources(args):
  from fibjax.system.cluster import Resources, check_resources
  resources = Resources(*(getattr(args, name) for name in Resources._fields))
  check_resources(resources)
  return resources


def _load(args, overrides):
  """The config of a verb, which must not be one for another verb."""
  from fibjax import config
  settings = config.load(args.config, overrides)
  wanted, key = next(((verb, key) for verb, key in _MARKS if _setting(settings, key)),
                     (None, None))
  own = [key for verb, key in _MARKS if verb == args.verb]
  if (wanted or args.verb) != args.verb or (own and not wanted):
    raise InputError(
        f'fibjax {args.verb}',
        got=f'a config with {key}' if wanted else
        f'a config without {" and ".join(own)}',
        expected=f'one for `fibjax {args.verb}`',
        remedy=f'use `fibjax {wanted or "run"}` with this config')
  return settings


def _setting(settings, key: str):
  section, name = key.split('.')
  return settings[section][name]


def _run(args, overrides):
  from fibjax.pipeline import run
  print(json.dumps(run.run(_load(args, overrides), args.workdir,
                           _resources(args))['test']))
  _say_report(args.workdir)


def _compare(args, overrides):
  from fibjax.studies import compare_methods
  print(json.dumps(compare_methods.run_compare(_load(args, overrides),
                                               args.workdir)['findings']))
  _say_report(args.workdir)


def _study(args, overrides):
  from fibjax.studies import label_study, training_slices
  settings, resources = _load(args, overrides), _resources(args)
  if settings.study.ways:
    print(json.dumps(label_study.run_label_study(settings, args.workdir)['table']))
  else:
    print(json.dumps(training_slices.run_study(settings, args.workdir,
                                               resources)['contrasts']))
  _say_report(args.workdir)


def _say_report(folder):
  print(f'report: {folder / "report.html"}', file=sys.stderr)


def _train(args, overrides):
  from fibjax.pipeline import run
  print(json.dumps(run.train_only(_load(args, overrides), args.workdir, args.resume)))


def _sweep(args, overrides):
  from fibjax.studies import sweep
  print(json.dumps(sweep.run_sweep(_load(args, overrides), args.workdir,
                                   _resources(args))))
  _say_report(args.workdir / 'sweep')


def _ensemble(args, overrides):
  from fibjax.studies import ensemble
  results = ensemble.run_ensemble(_load(args, overrides), args.workdir,
                                  _resources(args))
  print(json.dumps({key: {name: value for name, value in results[key].items()
                          if isinstance(value, float)}
                    for key in ('mean_member', 'ensemble')}))
  _say_report(args.workdir)


def _segment(args, _):
  from fibjax.methods import shared
  from fibjax.pipeline import segmenter
  trained = args.workdir or shared.find_model(args.model)
  print(segmenter.segment_other(trained, args.volume, args.out, args.mode,
                                _resources(args)))


def _share(args, _):
  from fibjax.pipeline import segmenter
  print(segmenter.share(args.workdir, args.out))


def _evaluate(args, _):
  from fibjax.pipeline import run
  print(json.dumps(run.evaluate_again(args.workdir)))


def _analyse(args, _):
  from fibjax.pipeline import run
  print(json.dumps(run.analyse_again(args.workdir, args.mvoxel)))
  _say_report(args.workdir)


def _report(args, _):
  from fibjax.pipeline import run
  print(run.report_again(args.workdir))


def _view(args, _):
  from fibjax.report import viewer
  viewer.show(args.path)


def _coverage(args, _):
  from fibjax.studies import coverage, ensemble
  result = ensemble.check_coverage(args.workdir, coverage.Experiment(
      tuple(args.presets.split(',')), args.shape, args.films, args.seed,
      draws=args.draws), args.out, _resources(args))
  print(json.dumps(result['summary']))


def _bench(args, _):
  from fibjax.bench import bench
  bench.main(args.out, args.only, args.peer, args.restart)
