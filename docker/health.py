"""Whether this container's program is well: the API, the scanners' port, a worker's sign of life.

Which program that is stands in the command of process 1; HEALTHCHECK and probes run this file.
"""

import os
import socket
import sys
import time
import urllib.request
from pathlib import Path

SECONDS = 4.0
STUCK_SECONDS = float(os.environ.get("MRI_POSTERIOR_STUCK_SECONDS", "900"))
CLOSE = b"\x04\x00"  # of the MRD protocol: a session that wants nothing is answered so


def api() -> None:
    """It answers requests."""
    port = os.environ.get("MRI_POSTERIOR_PORT", "8080")
    urllib.request.urlopen(f"http://127.0.0.1:{port}/livez", timeout=SECONDS).close()


def scanners(port: int) -> None:
    """It answers scanners."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
        connection.sendall(CLOSE)
        if not connection.makefile("rb").read().endswith(CLOSE):
            raise OSError("the gateway does not answer")


def workers() -> None:
    """One of them has moved lately; their files hold seconds of the monotonic clock."""
    folder = Path(os.environ.get("MRI_POSTERIOR_DATA", "/data/service")) / "workers"
    moved = max((file.stat().st_mtime for file in folder.glob("????????-*.lock")), default=0.0)
    if STUCK_SECONDS and time.monotonic() - moved > STUCK_SECONDS:
        raise OSError("no worker has moved for too long")


def main() -> None:
    """Exit with 0 when all is well."""
    words = Path("/proc/1/cmdline").read_bytes().decode().split("\0")
    gateway = int(os.environ.get("MRI_POSTERIOR_GATEWAY_PORT", "-1"))
    try:
        if "worker" in words:
            workers()
        elif "gateway" in words:
            scanners(9002 if gateway < 0 else gateway)
        else:
            api()
            if gateway > 0:
                scanners(gateway)
    except OSError as error:
        sys.exit(f"not well: {error}")


main()
