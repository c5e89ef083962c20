from fibjax.system import progress


def test_plain_lines_show_rate_and_time_left(capsys, monkeypatch):
  clock = iter(range(0, 1000, 4))
  monkeypatch.setattr(progress.time, 'monotonic', lambda: next(clock))
  assert list(progress.track(range(8), 'score a', 'shard', 8)) == list(range(8))
  captured = capsys.readouterr()
  lines = captured.err.splitlines()
  assert captured.out == ''
  # One clock reading per item, 4 s apart; a line every 10 s at the least.
  assert lines == ['score a: 2/8 shards, 0.167 shard/s, 36 s left',
                   'score a: 5/8 shards, 0.208 shard/s, 14 s left']


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
  monkeypatch.setattr(progress.sys.stderr, 'isatty', lambda: True, raising=False)
  assert list(progress.track('ab', 'x', 'step', 2)) == ['a', 'b']
  assert 'x:' in capsys.readouterr().err
