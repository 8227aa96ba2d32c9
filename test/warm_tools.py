"""Programs in Python that start at once: a process that has imported what they need forks for each call.

lit starts ``sparseflow-opt`` and ``FileCheck`` four hundred times; most of that time were imports.
`start` starts the server; ``python -IS warm_tools.py SOCKET SCRIPT ARGUMENT…`` is a call. A script runs as it
does alone, with the caller's arguments, folder, environment and streams, in a process of its own. Python's
``-c CODE`` and ``-m MODULE`` may stand for a script.
"""

from __future__ import annotations

import marshal
import os
import sys

STREAMS = (0, 1, 2)
NAME, USED = "socket", "used"
"""A server's socket in its folder, and the file that those who share it have locked."""
PAUSE = 0.2
"""Seconds after which a server looks whether it is still needed, when its own starter is gone."""
DIED = 70
"""The exit code of a call whose process ended without one."""


def call(address: str, words: list[str]) -> int:
    """Run a program in the server, and return its exit code."""
    import _socket  # the module around it takes as long to import as the rest of a call

    request = marshal.dumps((words, os.getcwd(), dict(os.environ)))
    streams = b"".join(stream.to_bytes(4, sys.byteorder) for stream in STREAMS)
    rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, streams)
    server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    server.connect(address)
    server.sendmsg([len(request).to_bytes(4, "little")], [rights])
    server.sendall(request)
    answer = server.recv(1)
    return answer[0] if answer else DIED


def start(modules: list[str], python: list[str] | None = None, folder: str = "") -> str:
    """Start a server, and return its address. It ends with this process.

    Calls may come at once: they wait until it is ready.

    Args:
        modules: what the scripts import.
        python: the words of a command that runs Python, by default a new interpreter.
        folder: where the address is, by default a folder of its own. See `shared`.
    """
    import atexit
    import subprocess
    import tempfile

    address = os.path.join(folder or tempfile.mkdtemp(prefix="warm-tools-"), NAME)
    # Its standard input ends with this process, which holds the other end.
    words = [*(python or [sys.executable]), __file__, "--serve", address, *modules]
    server = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    server.stdout.read(1)  # it listens
    atexit.register(server.communicate)
    return address


def shared(modules: list[str], python: list[str], folder: str) -> str:
    """Return the address of a server in a folder, which the first of several processes starts.

    It ends with the last of them.
    """
    import atexit
    import fcntl

    os.makedirs(folder, 0o700, exist_ok=True)
    with open(os.path.join(folder, "starting"), "w") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        used = os.open(os.path.join(folder, USED), os.O_CREAT | os.O_RDONLY)
        fcntl.flock(used, fcntl.LOCK_SH)
        address = os.path.join(folder, NAME)
        if not os.path.exists(address):
            start(modules, python, folder)
        atexit.register(os.close, used)  # before this process waits for the server that it started
        return address


def serve(address: str, modules: list[str]) -> None:
    """Fork for each call to a socket, until standard input ends and nobody else shares the server.

    Args:
        address: of the socket; it is removed, with its folder, at the end.
        modules: what the scripts import.
    """
    import gc
    import importlib
    import select
    import shutil
    import socket

    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(address)
    listener.listen(128)
    os.write(1, b"1")
    owner = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(nothing, stream)
    gc.disable()
    for name in modules:
        importlib.import_module(name)
    # A collection in a child would copy all that was imported.
    gc.freeze()
    gc.enable()
    folder, ended = os.path.dirname(address), False
    while True:
        waiting = select.select([listener] if ended else [listener, owner], [], [], PAUSE if ended else None)[
            0
        ]
        if listener in waiting:
            caller, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                os.close(owner)
                _answer(caller)
            caller.close()
            _reap()
        else:
            ended = True
            if not _is_shared(folder):
                break
    shutil.rmtree(folder)
    _reap()


def _is_shared(folder: str) -> bool:
    """Return whether a process uses the server of a folder; see `shared`."""
    import fcntl

    path = os.path.join(folder, USED)
    if not os.path.exists(path):
        return False
    with open(path) as used:
        try:
            fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _reap() -> None:
    """Release the processes of calls that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass  # none is left


def _answer(caller) -> None:
    """Do what a caller asks for; never returns."""
    import socket

    code = DIED
    try:
        head, streams, _, _ = socket.recv_fds(caller, 4, len(STREAMS))
        with caller.makefile("rb") as file:
            words, folder, environment = marshal.loads(file.read(int.from_bytes(head, "little")))
        for source, stream in zip(streams, STREAMS, strict=True):
            os.dup2(source, stream)
            os.close(source)
        # As Python makes them; those that are there took what the server's streams can for theirs.
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for the process's life
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        code = _run(words)
    finally:
        caller.send(bytes([code & 0xFF]))
        os._exit(code)


def _run(words: list[str]) -> int:
    """Run what the words name as Python does, and return its exit code."""
    import traceback

    code = 0
    try:
        _main_module(words)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        if not stream.closed:
            stream.flush()
    return code


def _main_module(words: list[str]) -> None:
    import runpy
    import types

    kind = words[0] if words[0] in ("-c", "-m") else ""
    sys.argv[:] = [kind, *words[2:]] if kind else words
    sys.path[0] = {"-c": "", "-m": os.getcwd()}.get(kind, os.path.dirname(os.path.abspath(words[0])))
    if kind == "-c":
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), vars(main))
    elif kind == "-m":
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        serve(sys.argv[2], sys.argv[3:])
    else:
        sys.exit(call(sys.argv[1], sys.argv[2:]))
