"""Where a running sweep stands, from the files of its workdir."""
import json
import shutil

import pytest

from fibjax.cli import main
from fibjax.config import load, to_dict
from fibjax.report import sweep_page, sweep_status
from fibjax.system import csv_files, files
from fibjax.system.run_folder import RunFolder
from fibjax.training import members_table
from tests.helpers import NETWORK_FACTS, ROOT, visible_text
from tests.test_sweep_page import member


def running(folder, ended=(), training=()):
  """A workdir of 8 members of two sizes in groups of two; ended: numbers of size 33."""
  config = load(f'{ROOT}/configs/skarberg2021.py:sweep_tiny', ('train.epochs=10',))
  run = RunFolder(folder)
  files.make_folders(run.sweep.path)
  files.write_json(run.config, to_dict(config))
  files.write_json(run.sweep.groups, [
      [[n_xy, 1, 'bce'], first, first + 1] for n_xy in (33, 49) for first in (0, 2)])
  rows = [member(33, 1, k, 0.3 + k / 100, 0.7, seconds=600.) for k in ended]
  if rows:
    csv_files.write_csv(run.sweep.members, rows, members_table.COLUMNS)
  for n_xy, first, epochs in training:
    group = run.sweep.group(f'{n_xy}x1', first, first + 1)
    files.make_folders(group.checkpoints / str(epochs - 1))
    files.make_folders(group.checkpoints / '7.partial')
  return run


def test_a_sweep_without_a_finished_member_says_so(tmp_path):
  run = running(tmp_path, training=[(33, 0, 4)])
  status = sweep_status.read_status(run)
  assert status == (8, 0, (('33x1, members 0 to 1', 2, 4),), 10, None)
  path = sweep_page.write_sweep_report(run, NETWORK_FACTS)
  text = visible_text(path.read_text(encoding='utf-8'))
  for expected in ('0 of 8 members ended', '33x1, members 0 to 1: epoch 4 of 10',
                   'not known before', 'No member has finished yet'):
    assert expected in text


def test_the_time_left_is_that_of_the_members_left(tmp_path):
  status = sweep_status.read_status(running(tmp_path, (0, 1)))
  assert status.seconds_left == pytest.approx(6 * 600)
  status = sweep_status.read_status(running(tmp_path, (0, 1), [(33, 2, 5)]))
  assert status.seconds_left == pytest.approx(6 * 600 - 2 * 600 * 0.5)
  assert status.ended == 2 and status.members == 8
  assert ('Time left', 'about 0.8 h in one process') in sweep_status.describe(status)


def test_the_report_of_a_running_sweep_is_written_by_the_command(tmp_path, capsys):
  run = running(tmp_path, (0, 1), [(33, 2, 5)])
  assert main.main(['report', f'--workdir={run}']) == 0
  printed = capsys.readouterr()
  assert printed.out.strip() == str(run.sweep.report)
  assert '2 of 8 members ended' in printed.err
  text = visible_text(run.sweep.report.read_text(encoding='utf-8'))
  assert '2 of 8 members ended' in text and 'member 0, epoch' in text  # best so far


def test_a_finished_sweep_has_no_progress(tmp_path):
  run = running(tmp_path, (0, 1))
  files.write_json(run.sweep.groups, [[[33, 1, 'bce'], 0, 1]])
  assert sweep_status.describe(sweep_status.read_status(run)) == []
  shutil.rmtree(run.sweep.path)
  assert sweep_status.read_status(run) is None


@pytest.mark.long
def test_a_report_while_it_runs_does_not_end_a_sweep(tmp_path, monkeypatch):
  from fibjax.studies import sweep
  config = load(f'{ROOT}/configs/skarberg2021.py:sweep_tiny', (
      'sweep.sizes=33x1', 'sweep.members=2', 'sweep.group=1', 'train.epochs=1'))
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
    def stop(*_):
      raise KeyboardInterrupt
    patch.setattr(sweep, '_write_winners', stop)
    sweep.run_sweep(config, tmp_path / 'w')
  assert main.main(['report', f'--workdir={tmp_path / "w"}']) == 0
  result = sweep.run_sweep(config, tmp_path / 'w')
  best = json.loads((tmp_path / 'w' / 'sweep' / 'winners' / 'best.json').read_text())
  assert best['seed'] == result['best']['seed']
