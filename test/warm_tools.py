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


def start(modules: list[str]) -> str:
    """Start a server, and return its address. It ends with this process.

    Calls may come at once: they wait until it is ready.

    Args:
        modules: what the scripts import.
    """
    import atexit
    import socket
    import subprocess
    import tempfile

    address = os.path.join(tempfile.mkdtemp(prefix="warm-tools-"), "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        listener.listen(128)
        words = [sys.executable, __file__, "--serve", str(listener.fileno()), address, *modules]
        # Its standard input ends with this process, which holds the other end.
        server = subprocess.Popen(words, stdin=subprocess.PIPE, pass_fds=[listener.fileno()])
    atexit.register(server.communicate)
    return address


def serve(number: int, address: str, modules: list[str]) -> None:
    """Fork for each call to a listening socket, until standard input ends.

    Args:
        number: of the socket's descriptor.
        address: of the socket; it is removed, with its folder, at the end.
        modules: what the scripts import.
    """
    import gc
    import importlib
    import select
    import shutil
    import socket

    listener = socket.socket(fileno=number)
    owner = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    gc.disable()
    for name in modules:
        importlib.import_module(name)
    # A collection in a child would copy all that was imported.
    gc.freeze()
    gc.enable()
    while owner not in select.select([listener, owner], [], [])[0]:
        caller, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            os.close(owner)
            _answer(caller)
        caller.close()
        _reap()
    shutil.rmtree(os.path.dirname(address))


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
        serve(int(sys.argv[2]), sys.argv[3], sys.argv[4:])
    else:
        sys.exit(call(sys.argv[1], sys.argv[2:]))
