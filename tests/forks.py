"""Processes that begin with what is slow to load: forks of one that has loaded it.

Each has a folder, an environment, stdout, stderr and an exit status of its own, and is killed and stopped by signals, as a process of
`subprocess` would be. Alike in all forks of a server are what Python draws once a process (the order of sets of strings)
and what libraries read of the environment when they are loaded.
"""

import contextlib
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time

TENSORFLOW = ("tensorflow", "keras", "keras_diffusion", "keras_diffusion.fitting")
SECONDS = 600  # that a program may take
_DIGITS = 16  # of an answer


class Fork:
    """A program in a fork: a part of the face of `subprocess.Popen`."""

    def __init__(self, address, folder, asked):
        self._names = [folder / name for name in ("out", "err")]
        for name in self._names:
            name.touch()
        self._answers = socket.socket(socket.AF_UNIX)
        self._answers.connect(str(address))
        asked = {**asked, "names": list(map(str, self._names))}
        self._answers.sendall(json.dumps(asked).encode() + b"\n")
        self.pid = self._answer()
        self.returncode = None

    def _answer(self):
        return int(self._answers.recv(_DIGITS, socket.MSG_WAITALL))

    def poll(self):
        """The exit status, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.001)
        return self.returncode

    def wait(self, timeout=SECONDS):
        """The exit status; raises `subprocess.TimeoutExpired`."""
        if self.returncode is None:
            self._answers.settimeout(timeout)
            try:
                self.returncode = self._answer()
            except TimeoutError:
                raise subprocess.TimeoutExpired(f"fork {self.pid}", timeout) from None
        return self.returncode

    def communicate(self, timeout=SECONDS):
        """What it wrote to stdout and stderr, when it has ended."""
        self.wait(timeout)
        return self.written()

    def written(self):
        """What it has written to stdout and stderr till now."""
        return tuple(name.read_text("utf-8", "surrogateescape") for name in self._names)

    def send_signal(self, number):
        """Sends it a signal, if it hasn't ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """Ends it at once."""
        self.send_signal(signal.SIGKILL)


class Forks:
    """Starts programs as forks of one process; a context manager.

    Args:
        modules: what that process loads first.
        env: its environment; None: ours.
    """

    def __init__(self, *modules, env=None):
        self._modules = modules
        self._env = env

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory()
        self._address = pathlib.Path(self._folder.name, "socket")
        start = [sys.executable, __file__, self._address, *self._modules]
        self._server = subprocess.Popen(start, env=self._env)
        while not self._address.exists():
            assert self._server.poll() is None, "the process to be forked couldn't be started"
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        self._server.terminate()
        self._server.wait(30)
        self._folder.cleanup()

    def start(self, *words, cwd, env=None):
        """A `Fork` of what `python WORDS` would run: `FILE ...`, `-m MODULE ...` or `-c CODE ...`.

        Args:
            cwd: its working folder.
            env: its environment; None: ours.
        """
        folder = pathlib.Path(tempfile.mkdtemp(dir=self._folder.name))
        env = dict(os.environ if env is None else env)
        return Fork(
            self._address, folder, {"words": list(map(str, words)), "cwd": str(cwd), "env": env}
        )

    def run(self, *words, cwd, env=None):
        """What `python WORDS` leaves: `subprocess.CompletedProcess`, its output as text."""
        fork = self.start(*words, cwd=cwd, env=env)
        try:
            return subprocess.CompletedProcess(words, fork.wait(), *fork.written())
        finally:
            fork.kill()


class _Server:
    """Starts a program for each connection, says its number, and when it has ended its status."""

    def __init__(self, listener):
        self._listener = listener
        self._clients = {}  # by the number of the process
        self._ended, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self):
        """Until whoever started this process has ended."""
        parent = os.getppid()
        while os.getppid() == parent:
            ready, _, _ = select.select([self._listener, self._ended], [], [], 1)
            if self._listener in ready:
                self._start(self._listener.accept()[0])
            if self._ended in ready:
                os.read(self._ended, 1000)
                self._report()

    def _start(self, client):
        asked = json.loads(client.makefile().readline())
        child = os.fork()
        if not child:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _become(**asked)
        self._clients[child] = client
        _answer(client, child)

    def _report(self):
        for child in list(self._clients):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                with self._clients.pop(child) as client:
                    _answer(client, os.waitstatus_to_exitcode(status))


def _answer(client, number):
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        client.sendall(b"%*d" % (_DIGITS, number))


def _become(words, cwd, env, names):
    """Never returns: is the program, to its end.

    Args:
        words, cwd, env: as in `Forks.start`.
        names: the files that stdout and stderr become.
    """
    status = 1
    try:
        for number, name in enumerate(names, 1):
            os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        _as_if_new(words)
        status = execute(words)
    finally:
        _end(status)


def _end(status):
    """Ends as Python ends."""
    import atexit
    import threading

    with contextlib.suppress(BaseException):
        threading._shutdown()
        atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def _as_if_new(words):
    """What each process of Python has of its own."""
    import random

    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.orig_argv = [sys.executable, *words]


def execute(words):
    """Runs a program in this process and gives its status; that of a signal where Ctrl-C ended it."""
    import runpy
    import traceback

    kind = words[0] if words[0] in ("-c", "-m") else None
    what, *arguments = words[1:] if kind else words
    sys.argv[:] = [kind or what, *arguments]
    sys.path[0] = os.getcwd() if kind else os.path.dirname(os.path.abspath(what))
    try:
        if kind == "-m":
            sys.modules.pop(f"{what}.__main__", None)  # runpy warns where it is there already
            runpy.run_module(what, run_name="__main__", alter_sys=True)
        elif kind == "-c":
            exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
        else:
            runpy.run_path(what, run_name="__main__")
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
        return int(stop.code or 0)
    except BaseException as error:
        traceback.print_exc()
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _serve(address, modules):
    import gc
    import importlib

    for name in modules:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what a fork doesn't touch, it needn't copy
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.new")
        listener.listen()
        os.rename(f"{address}.new", address)
        _Server(listener).serve()


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2:])
