"""The process that talks to a service: `python -m sslx.boards.child NAME`.

`service` starts it, writes JSON lines to its standard input, and reads what it
says from its standard output. It reads at once, in a thread, and keeps what the
service has not taken yet. It ends when its input does, at the latest a minute
later; so it also ends if the run is killed.

The module NAME of this package has a class `Client(name, config, id, known)`
with `id`, `where`, `add_scalars`, `add_picture` and `close(ended)`.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import io
import json
import os
import queue
import signal
import sys
import threading
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

_LAST = 60.0  # seconds for what is left when the input ends


def main(name: str) -> None:
  """Sends to a service what comes from standard input."""
  # SLURM signals every process of a job; this one ends after the run.
  for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(signum, signal.SIG_IGN)
  source, target = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
  # Libraries may print, and their processes inherit these.
  nowhere = os.open(os.devnull, os.O_RDWR)
  for descriptor in (0, 1, 2):
    os.dup2(nowhere, descriptor)

  def tell(**message: Any) -> None:
    with contextlib.suppress(OSError):  # The run may have ended.
      target.write(json.dumps(message).encode() + b"\n")
      target.flush()

  waiting: queue.Queue[dict[str, Any] | None] = queue.Queue()
  threading.Thread(target=_read, args=(source, waiting), daemon=True).start()
  try:
    first = waiting.get()
    if first is None:
      return
    client = importlib.import_module(f"sslx.boards.{name}").Client(**first)
    tell(id=client.id, where=client.where)
    ended = False
    while (message := waiting.get()) is not None:
      if "scalars" in message:
        client.add_scalars(message["step"], message["scalars"])
      elif "picture" in message:
        png = io.BytesIO(base64.b64decode(message["png"]))
        picture = np.asarray(Image.open(png))
        client.add_picture(message["step"], message["picture"], picture)
      ended = "end" in message
    client.close(ended)
    tell(done=True)
  except BaseException as error:
    lines = str(error).strip().splitlines() or [""]
    tell(error=f"{type(error).__name__}: {lines[0][:300]}")


def _read(source: BinaryIO, waiting: queue.Queue) -> None:
  """Reads all messages; after the last one, this process ends in a minute."""
  with contextlib.suppress(OSError, ValueError):  # The last may be cut short.
    for line in source:
      waiting.put(json.loads(line))
  waiting.put(None)
  end = threading.Timer(_LAST, os._exit, [1])
  end.daemon = True
  end.start()


if __name__ == "__main__":
  main(sys.argv[1])
