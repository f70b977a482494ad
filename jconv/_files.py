"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import pathlib
import threading


def write_atomically(path: pathlib.Path, content: bytes) -> None:
    """Writes a file so that under its name there is the old content or the new, and never a part of it.

    The content goes to a temporary file in the same folder, hence on the same disk, where `os.replace` is one step.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        error.filename = error.filename or str(path)  # the system names no file where one that is open cannot grow
        raise
    finally:
        temporary.unlink(missing_ok=True)
