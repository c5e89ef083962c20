"""The `fibjax` command: one verb, one function, no logic.

A user's mistake gives one line on stderr and exit status 2; so does whatever the system
refuses (refusals.py): a full disk, missing permission or memory. SIGINT and SIGTERM
leave a workdir from which the same command resumes (130, 143). Everything else that
escapes is a defect and keeps its traceback.
"""
import argparse
import contextlib
import os
import re
import sys

from fibjax.cli import data_verbs, job_verbs
from fibjax.errors import InputError, did_you_mean, printable
from fibjax.system import refusals
from fibjax.system.signals import end_at_signals


class _Parser(argparse.ArgumentParser):
  """argparse with the house's one-line errors and suggestions."""

  def error(self, message):
    wrong = re.match(r"argument (\w+): invalid choice: '([^']*)'", message)
    if wrong:
      choices = next(action.choices for action in self._actions
                     if wrong[1] in (action.dest, action.metavar))
      suggestion = did_you_mean(wrong[2], choices)
      message = f'unknown {wrong[1].lower()} {wrong[2]!r}' + (
          f'; {suggestion}' if suggestion else
          f', expected one of {", ".join(choices)}')
    self.exit(2, f'fibjax: {printable(message)}; see {self.prog} --help\n')


def parser() -> argparse.ArgumentParser:
  """The command line: verbs with their flags."""
  top = _Parser(prog='fibjax', description='Segments FIB-SEM volumes of porous '
                'materials. Any setting: --config.SECTION.KEY=VALUE.')
  verbs = top.add_subparsers(dest='verb', required=True, metavar='VERB')

  def verb(name, help_text, function):
    sub = verbs.add_parser(name, help=help_text, description=help_text)
    sub.set_defaults(function=function)
    return sub

  job_verbs.add_verbs(verb)
  data_verbs.add_verbs(verb)
  return top


def main(argv: list[str] | None = None) -> int:
  """Runs one verb and returns the exit status.

  Args:
    argv: words after `fibjax`; None: those of this process, which then ends here when
      the exit status is not 0.
  """
  # float32 on GPUs, too, not TF32; JAX reads it when it is imported, here or in workers
  os.environ.setdefault('JAX_DEFAULT_MATMUL_PRECISION', 'highest')
  top = parser()
  args, rest = top.parse_known_args(argv)
  with refusals.held_back() as drop_reports:
    line = _run(top, args, rest)
    if line is None:
      return 0
    drop_reports()
    with contextlib.suppress(OSError):  # stderr may be on the full disk
      print(f'fibjax: {line}', file=sys.stderr, flush=True)
    if argv is None:
      # The process is the command's own. Python would wait for threads of libraries at
      # its end, and some that failed never end.
      os._exit(2)
    return 2


def _run(top, args, rest) -> str | None:
  """Runs the verb; what to report where the user or the system is at fault."""
  from fibjax.system import memory  # here: psutil would delay --help
  prefix = '--config.'
  try:
    for word in rest:
      if not word.startswith(prefix) or 'config' not in args:
        raise InputError(
            word, got='an unknown flag', expected=f'a flag of {args.verb}',
            remedy=did_you_mean(word.partition('=')[0], _flags(top, args))
            or f'see fibjax {args.verb} --help')
    memory.check_address_space(job_verbs.needs_gb(args.verb))
    with end_at_signals(job_verbs.next_step(args.verb)):
      args.function(args, tuple(word.removeprefix(prefix) for word in rest))
      sys.stdout.flush()  # else a full disk would be noticed after the last line
  except Exception as error:
    line = _one_line(error, args.verb)
    if line is None:
      raise
    _end_output()
    return str(line)
  return None


def _flags(top: argparse.ArgumentParser, args) -> list[str]:
  """All flags of the verb in use."""
  verbs = next(action for action in top._actions if action.dest == 'verb')
  return [flag for action in verbs.choices[args.verb]._actions
          for flag in action.option_strings]


def _one_line(error: Exception, verb: str) -> InputError | None:
  """What is reported to the user; None for a defect, which keeps its traceback."""
  if isinstance(error, InputError):
    return error
  line = refusals.refused(error, f'fibjax {verb}')
  if line is None and isinstance(error, OSError) and error.filename is not None:
    return InputError(str(error.filename), got=error.strerror,
                      expected='a path that can be read or written',
                      remedy='check the path, its permissions and the free space')
  return line


def _end_output() -> None:
  """Drops what stdout could not take; Python would try and complain at its end."""
  try:
    sys.stdout.flush()
  except OSError:
    with open(os.devnull, 'wb') as nowhere:
      os.dup2(nowhere.fileno(), sys.stdout.fileno())
