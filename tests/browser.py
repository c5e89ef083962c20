"""Headless Chromium for tests of pages, driven over a pipe by its DevTools protocol."""
import base64
import contextlib
import itertools
import json
import os
import select
import shutil
import subprocess

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
_TIMEOUT_S = 120
_FLAGS = ('--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars',
          '--disable-dev-shm-usage', '--no-first-run', '--remote-debugging-pipe')


def find_browser() -> str | None:
  """Path of a browser of this machine, None without one."""
  return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
  """A tab; what it says in its console is in `messages`."""

  def __init__(self, send_fd, receive_fd):
    self._send, self._receive = send_fd, receive_fd
    self._buffer, self._numbers, self._session = b'', itertools.count(1), None
    self.messages, self._events = [], []
    target = self.call('Target.createTarget', url='about:blank')['targetId']
    self._session = self.call('Target.attachToTarget', targetId=target,
                              flatten=True)['sessionId']
    for domain in ('Page', 'Runtime', 'Log'):
      self.call(f'{domain}.enable')

  def call(self, method, **params):
    """Sends a command and returns its result."""
    number = next(self._numbers)
    command = {'id': number, 'method': method, 'params': params}
    if self._session:
      command['sessionId'] = self._session
    os.write(self._send, json.dumps(command).encode() + b'\0')
    while True:
      answer = self._read()
      if answer.get('id') == number:
        assert 'error' not in answer, answer
        return answer['result']

  def _read(self):
    while b'\0' not in self._buffer:
      assert select.select([self._receive], [], [], _TIMEOUT_S)[0], 'no answer'
      chunk = os.read(self._receive, 1 << 20)
      assert chunk, 'the browser has ended'
      self._buffer += chunk
    line, _, self._buffer = self._buffer.partition(b'\0')
    message = json.loads(line)
    if message.get('method') in ('Runtime.consoleAPICalled', 'Runtime.exceptionThrown',
                                 'Log.entryAdded'):
      self.messages.append(message['params'])
    self._events.append(message.get('method'))
    return message

  def open(self, path, width, height, *, scale=1, scripts=True):
    """Loads a file in a window of a size in CSS pixels."""
    self.call('Emulation.setDeviceMetricsOverride', width=width, height=height,
              deviceScaleFactor=scale, mobile=width < 500)
    self.call('Emulation.setScriptExecutionDisabled', value=not scripts)
    self._events.clear()
    self.call('Page.navigate', url=path.as_uri())
    while 'Page.loadEventFired' not in self._events:
      self._read()

  def evaluate(self, expression):
    """Value of a JavaScript expression on the page."""
    result = self.call('Runtime.evaluate', expression=expression, returnByValue=True,
                       awaitPromise=True)
    assert 'exceptionDetails' not in result, result
    return result['result'].get('value')

  def press(self, key):
    """Presses a key where the focus is."""
    code = {'ArrowRight': 39, 'ArrowLeft': 37, 'Home': 36, 'End': 35}[key]
    for kind in ('rawKeyDown', 'keyUp'):
      self.call('Input.dispatchKeyEvent', type=kind, key=key, code=key,
                windowsVirtualKeyCode=code, nativeVirtualKeyCode=code)

  def screenshot(self, *, whole=True) -> bytes:
    """The page as a PNG."""
    return base64.b64decode(self.call('Page.captureScreenshot',
                                      captureBeyondViewport=whole)['data'])

  def print(self) -> bytes:
    """The page as a PDF."""
    return base64.b64decode(self.call('Page.printToPDF', preferCSSPageSize=True,
                                      printBackground=True)['data'])


@contextlib.contextmanager
def open_page(folder):
  """Yields a Page of a new browser, whose files are in a folder."""
  commands, answers = os.pipe(), os.pipe()
  redirect = f'exec "$@" 3<&{commands[0]} 4>&{answers[1]}'
  process = subprocess.Popen(
      ['bash', '-c', redirect, 'bash', find_browser(), *_FLAGS,
       f'--user-data-dir={folder}'], pass_fds=(commands[0], answers[1]),
      stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
  os.close(commands[0])
  os.close(answers[1])
  try:
    yield Page(commands[1], answers[0])
  finally:
    os.close(commands[1])
    os.close(answers[0])
    process.terminate()
    process.wait(timeout=30)
