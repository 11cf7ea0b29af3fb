"""A decoding child that a stranger has taken over: it does what it is asked to, and says whether that worked.

``CONFIG`` may ask for a grandchild, made before the process is confined, as no confined one can make it.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from chexnode.sandbox.confined import Handler, Reply, serve


def load(config: dict[str, Any]) -> Handler:
    def handle(request: dict[str, Any]) -> Reply:
        path = Path(request["path"])
        actions = {
            "unlink": path.unlink,
            "rename": lambda: path.rename(path.with_suffix(".gone")),
            "truncate": lambda: os.truncate(path, 0),
            "open to write": lambda: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
            "create": lambda: path.with_suffix(".new").touch(),
            "make a folder": lambda: path.with_suffix(".dir").mkdir(),
            "link": lambda: path.with_suffix(".link").hardlink_to(path),
            "chmod": lambda: path.chmod(0o777),
            "fork": lambda: os._exit(0) if os.fork() == 0 else None,
            "exec": lambda: subprocess.run(["/bin/true"], check=True),
            "signal": lambda: os.kill(os.getppid(), signal.SIGCONT),
            "socket": lambda: socket.create_connection(("127.0.0.1", request["port"]), timeout=5).close(),
        }
        worked = []
        for name, action in actions.items():
            try:
                action()
            except OSError:
                continue
            worked.append(name)
        return {"worked": worked, "read": path.read_text()}, []

    return handle


if __name__ == "__main__":
    config = json.loads(sys.argv[1])
    if "pid_file" in config and os.fork() == 0:
        Path(config["pid_file"]).write_text(str(os.getpid()))
        time.sleep(600)
    serve(sys.argv[1], load)
