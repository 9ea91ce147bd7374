"""`make fuzz`: hostile files, streams, headers and requests, for so many minutes.

    python -m tests.fuzz --minutes 30 --seed 0
    python -m tests.fuzz --seed 0 --only hdf5:1234      one input again

What must not happen: an exception that nobody foresaw, an answer of 500, a reader that hangs. An
input that does that is kept below `found/`, and belongs into the corpus once it is mended.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import structlog

from recon.errors import ReconError
from recon.io.files import inspect_scan, read_scan
from recon.io.fork_servers import ForkServers
from recon.io.mrd_header import encoding_of, parse_header
from recon.io.read_limits import ReadLimits
from recon.io.scan_layout import parse_geometry
from service.intake.intake import open_intake
from service.scanner.gateway import Gateway
from service.scanner.mrd_stream import CLOSE, FileSource, StreamLimits
from service.settings import load_settings
from service.store.database import create_database
from tests.fuzz.inputs import hdf5_file, mrd_stream, xml_header
from tests.service.in_process import OFFERS
from tests.service.live import ROOT, api_alone

FOUND = Path("found")
LIMITS = ReadLimits(file_bytes=64 << 20, cpu_seconds=10, wall_seconds=30.0)
READ_EVERY = 20
"""Of the files that pass the first look so many are read whole."""
SLOW_SECONDS = 40.0
"""More than a reader may take: it is ended by then, and the file refused with reader-timeout."""
_FAILED = r"❌\s*\d+ failed"
SHARES = {"hdf5": 0.4, "mrd": 0.2, "xml": 0.15, "http": 0.25}
"""Of the time."""


class Attack:
    """A way in: `send` raises what nobody foresaw, and returns the outcome in a word."""

    def __init__(
        self, make: Callable[[random.Random], bytes], send: Callable[[bytes], str]
    ) -> None:
        self.make = make
        self.send = send


def attacks(stack: ExitStack) -> dict[str, Attack]:
    """All ways in that need no network."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    servers = ForkServers()
    stack.callback(servers.close)
    file, passed = folder / "scan.h5", 0

    def read(content: bytes) -> str:
        nonlocal passed
        file.write_bytes(content)
        try:
            inspect_scan(file, LIMITS, servers)
            passed += 1
            if passed % READ_EVERY == 0:
                read_scan(file, limits=LIMITS)
        except ReconError as error:
            return error.code
        return "accepted"

    settings = load_settings(
        data=folder / "data",
        gateway_mode="trigger",
        max_active_per_key=10**6,
        disk_floor_bytes=0,
        max_queue=10**6,
        gateway_seconds=0.5,
    )
    create_database(settings.database_url)
    intake = open_intake(settings)
    intake.storage.prepare()
    intake.workers.enter("worker", "cpu", 1, OFFERS)
    stack.callback(intake.close)
    gateway = Gateway(intake, StreamLimits(message_bytes=1 << 20, session_bytes=16 << 20))

    async def answered(content: bytes) -> bytes:
        source = FileSource(io.BytesIO(content))
        return b"".join([chunk async for chunk in gateway.answer(source)])

    def session(content: bytes) -> str:
        answer = asyncio.run(asyncio.wait_for(answered(content), SLOW_SECONDS))
        assert answer.endswith(CLOSE)
        assert b"the session failed" not in answer, "an exception that nobody foresaw"
        return "refused" if b"ERROR   " in answer else "accepted"

    def header(content: bytes) -> str:
        text = content.decode()
        outcome = "accepted"
        for parse in (parse_geometry, lambda xml: encoding_of(parse_header(xml))):
            try:
                parse(text)
            except ReconError as error:
                outcome = error.code
        return outcome

    return {
        "hdf5": Attack(hdf5_file, read),
        "mrd": Attack(mrd_stream, session),
        "xml": Attack(lambda rng: xml_header(rng).encode("utf-8", "replace"), header),
    }


def run(name: str, attack: Attack, seed: int, seconds: float, first: int = 0) -> tuple[int, int]:
    """Inputs one after the other; how many there were, and how many did harm."""
    end, number, harm = time.monotonic() + seconds, first, 0
    outcomes: Counter[str] = Counter()
    while time.monotonic() < end:
        outcome = one(name, attack, seed, number)
        harm += outcome == "HARM"
        outcomes[outcome] += 1
        number += 1
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    say(f"{name}: {number - first} inputs, {harm} did harm, at most {usage} MiB")
    say(f"  {dict(outcomes.most_common(12))}")
    return number - first, harm


def one(name: str, attack: Attack, seed: int, number: int) -> str:
    """The outcome of one input; what did harm is kept."""
    content = attack.make(random.Random(f"{seed}:{name}:{number}"))
    before = time.monotonic()
    try:
        outcome = attack.send(content)
        if time.monotonic() - before > SLOW_SECONDS:
            raise TimeoutError(f"{outcome} after {time.monotonic() - before:.0f} s")
    except Exception:  # noqa: BLE001 - whatever it is, it was not foreseen
        FOUND.mkdir(exist_ok=True)
        ending = {"hdf5": "h5"}.get(name, name)
        (FOUND / f"{name}-{seed}-{number}.{ending}").write_bytes(content)
        say(f"HARM by {name}:{number} of seed {seed}\n{traceback.format_exc()}")
        return "HARM"
    return outcome


def requests(seed: int, seconds: float) -> int:
    """Requests made from the document of the API, linked into sequences; 1 when one did harm."""
    with (
        tempfile.TemporaryDirectory() as folder,
        api_alone(Path(folder) / "data", requests_per_minute=10**6, disk_floor_bytes=0) as server,
    ):
        command = [
            sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json",
            "--seed", str(seed), "--max-examples", str(max(5, int(seconds // 10))),
            "--phases", "examples,coverage,fuzzing,stateful",
            "--checks", "not_a_server_error", "--exclude-path-regex", "events$",
            "--request-timeout", "30", "--suppress-health-check", "all",
            "--max-failures", "20", "--no-color",
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command, cwd=folder, timeout=seconds, capture_output=True, text=True, check=False
            )
        except subprocess.TimeoutExpired as error:
            text = error.stdout or b""
            words = text.decode() if isinstance(text, bytes) else text
            say(f"http: ended after {seconds:.0f} s\n{words[-2000:]}")
            return int(re.search(_FAILED, words) is not None)
        say(f"http: {done.stdout[-3000:]}")
        harm = done.returncode != 0 or re.search(_FAILED, done.stdout) is not None
        alive = server.process.poll() is None
        if not alive:
            say("the API has ended")
        return int(harm or not alive)


def say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="KIND:NUMBER, one input again")
    parser.add_argument("--kinds", default="hdf5,mrd,xml,http")
    parser.add_argument("--first", type=int, default=0, help="number to begin with")
    given = parser.parse_args()
    os.chdir(ROOT)
    logging.disable()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    kinds = given.kinds.split(",")
    share = given.minutes * 60 / sum(SHARES[kind] for kind in kinds)
    total = harm = 0
    with ExitStack() as stack:
        ways = attacks(stack)
        if given.only:
            name, _, number = given.only.partition(":")
            say(one(name, ways[name], given.seed, int(number)))
            return
        for kind in kinds:
            if kind == "http":
                harm += requests(given.seed, share * SHARES[kind])
            else:
                count, bad = run(kind, ways[kind], given.seed, share * SHARES[kind], given.first)
                total, harm = total + count, harm + bad
    say(f"seed {given.seed}: {total} files, streams and headers, {harm} did harm")
    sys.exit(bool(harm))


if __name__ == "__main__":
    main()
