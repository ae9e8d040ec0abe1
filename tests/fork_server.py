"""A process that has imported seqkit and forks for each command, so that tests of many commands import torch once.

python fork_server.py SOCKET                                 serve until killed; "ready" on standard output
python -S -E fork_server.py SOCKET seqkit|python ARGUMENT... as `seqkit ARGUMENT...` or `python -c ARGUMENT` here
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import socket
import sys
import traceback
from typing import NoReturn


def serve(path: str) -> None:
    del sys.path[0]  # the folder of this file, where neither `seqkit` nor `python -c` looks
    # What the commands import, and none of it computes: a process with threads must not fork.
    import datasets  # noqa: F401
    import sacrebleu  # noqa: F401
    import torch._dynamo  # noqa: F401

    import seqkit.cli  # noqa: F401
    from seqkit.config import resolve
    from seqkit.run.doctor import doctor  # noqa: F401
    from seqkit.tasks import TASKS, RunTask

    for name in TASKS:
        resolve("task", name, RunTask, TASKS)  # type: ignore[type-abstract]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for these children
    print("ready", flush=True)
    gc.freeze()  # what is never collected is never copied
    while True:
        connection = listener.accept()[0]
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            answer(connection)
        connection.close()


def answer(connection: socket.socket) -> NoReturn:
    request, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    child = os.fork()
    if child == 0:
        connection.close()
        run(*json.loads(request), files)
    for file in files:  # the reader of a pipe waits until the last writer has closed it
        os.close(file)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    connection.sendall(str(status).encode())
    os._exit(0)


def run(folder: str, environment: dict[str, str], kind: str, arguments: list[str], files: list[int]) -> NoReturn:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, (file, name) in enumerate(zip(files, ("stdin", "stdout", "stderr"), strict=True)):
        os.dup2(file, number)
        os.close(file)
        setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115
    status = 0
    try:
        if kind == "seqkit":
            from seqkit.cli import main

            sys.argv = ["seqkit", *arguments]
            main(arguments)
        sys.path.insert(0, "")
        exec(compile(arguments[0], "<block>", "exec"), {"__name__": "__main__"})
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status)  # Python's own end would go through thousands of modules, a second long


def call(path: str, kind: str, *arguments: str) -> int:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        request = json.dumps([os.getcwd(), dict(os.environ), kind, arguments]).encode()
        socket.send_fds(connection, [request], [0, 1, 2])
        return int(connection.recv(16) or 1) % 256


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    sys.exit(call(*sys.argv[1:]))
