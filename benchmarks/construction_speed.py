"""How a construction does against an endpoint of this machine: its speed and memory, and what faults and kills change.

    python benchmarks/construction_speed.py speed --items 10000 --output speed.json      # some minutes
    python benchmarks/construction_speed.py kills --items 60 --output kills.json         # 30% faults, ten kills
    python benchmarks/construction_speed.py speed --items 200 --output tiny.json         # tiny

`speed` sends the items, `--concurrency` at a time, to a server in a process of its own, which makes `--at-once`
answers at a time, each in `--seconds`: its limit is their ratio. The same calls are also made by a bare loop, without
store and checks. `kills` makes data twice, once undisturbed and once with faults and with ten kills (SIGKILL) of the
command at random moments.
"""

import argparse
import asyncio
import io
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import numpy as np
import PIL.Image

from granted.dataset_builders.construction.prompts import read_prompts
from granted.dataset_builders.construction.run import done_stage, opened
from granted.dataset_builders.construction.settings import ConstructionSettings
from granted.dataset_builders.construction.stages import STAGES, Writer, units_of
from granted.dataset_builders.construction.store import CallStore
from granted.tests.construction_runs import add_item, curated, data_of, paid
from granted.tests.loopback_chat import LoopbackChat, echo
from granted.utils.files import write_json


SERVER = Path(__file__).parents[1] / "tests" / "loopback_chat.py"
BARE = 1000  # calls of the bare loop
KILLS = 10


def make_items(run: Path, count: int, uses: tuple[str, ...]) -> None:
    """Images of noise, as if they had been curated."""
    (run / "media").mkdir(parents=True)
    rng = np.random.default_rng(0)
    items = []
    for number in range(count):
        buffer = io.BytesIO()
        PIL.Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(buffer, "PNG")
        items.append(add_item(run, buffer.getvalue(), "image", ".png", uses[number % len(uses)]))
    curated(run, items)


def settings_for(run: Path, url: str, concurrency: int, **options) -> ConstructionSettings:
    """Settings of a run whose items are there."""
    given = {"source": "unused", "output": run, "endpoint": url, "model": "echo", "concurrency": concurrency}
    return ConstructionSettings(**given | options)


def resident() -> float:
    """Memory of this process in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def speed(options: argparse.Namespace, folder: Path) -> dict:
    """Calls a second and memory over one stage."""
    command = [sys.executable, str(SERVER), "--port", "0", "--seconds", str(options.seconds)]
    server = subprocess.Popen([*command, "--at-once", str(options.at_once)], stdout=subprocess.PIPE, text=True)
    try:
        url = server.stdout.readline().strip()
        make_items(folder / "run", options.items, ("pairs",))
        settings, prompts = settings_for(folder / "run", url, options.concurrency), read_prompts()
        bare = asyncio.run(bare_loop(settings, prompts, min(BARE, options.items)))
        memory, done = {}, threading.Event()

        def watch() -> None:
            begun = time.monotonic()
            while not done.wait(5):
                memory[round(time.monotonic() - begun)] = round(resident(), 1)

        watcher = threading.Thread(target=watch)
        with opened(settings, prompts) as store:
            watcher.start()
            begun = time.monotonic()
            done_stage(STAGES["caption"], settings, prompts, store)
            seconds = time.monotonic() - begun
            with closing(sqlite3.connect(store.path)) as calls:
                calling = calls.execute("SELECT MAX(at) - MIN(at) FROM calls").fetchone()[0]
            again = time.monotonic()
            (folder / "run/caption/stage.json").unlink()
            done_stage(STAGES["caption"], settings, prompts, store)
            again = time.monotonic() - again
        done.set()
        watcher.join()
    finally:
        server.terminate()
        server.wait()
    return {
        "items": options.items,
        "limit_calls_per_second": options.at_once / options.seconds,
        "bare_calls_per_second": bare,
        "calls_per_second": options.items / calling,
        "seconds_of_the_stage": seconds,
        "seconds_again_from_the_store": again,
        "memory_mb_by_second": memory,
    }


async def bare_loop(settings: ConstructionSettings, prompts: dict, count: int) -> float:
    """Calls a second of so many workers that do nothing but send the same bodies."""
    stage = STAGES["caption"]
    writer = Writer(settings, prompts, settings.output, None)
    units = (unit for _, unit in zip(range(count), units_of(stage, settings, settings.output)))

    async def work(session: aiohttp.ClientSession) -> None:
        for unit in units:
            request = writer.request(stage, unit, stage.prompt_of(unit), {})
            async with session.post(
                f"{settings.endpoint}/chat/completions", json=request.body(0, request.data_urls())
            ) as answer:
                await answer.read()

    begun = time.monotonic()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=settings.concurrency)) as session:
        await asyncio.gather(*(work(session) for _ in range(settings.concurrency)))
    return count / (time.monotonic() - begun)


def kills(options: argparse.Namespace, folder: Path) -> dict:
    """What faults and kills change in the data, and how many answers were sent more than once."""
    outcome, rng = {}, random.Random(options.seed)
    for name, faults in (("undisturbed", 0.0), ("disturbed", 0.3)):
        run = folder / name
        make_items(run, options.items, ("ted", "pairs", "vqa"))
        with LoopbackChat(echo, faults=faults, hang=3.0, seconds=0.02, seed=options.seed) as server:
            server.keep_bodies = False
            command = [
                sys.executable,
                "-m",
                "granted.cli",
                "data",
                "construct",
                "--source",
                "unused",
                "--output",
                str(run),
            ]
            command += ["--endpoint", server.url, "--model", "echo", "--asks", "5", "--timeout", "2", "--votes", "1"]
            killed = 0
            while True:
                before, moment = paid(server), rng.randrange(20, 120)
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                while process.poll() is None and (not faults or killed == KILLS or paid(server) < before + moment):
                    time.sleep(0.01)
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
                    killed += 1
                said = process.communicate()[1]
                if process.returncode not in (0, -signal.SIGKILL):
                    raise SystemExit(said)
                if process.returncode == 0:
                    break
            with CallStore(run / "calls.sqlite") as store:
                spent = store.spent()
            outcome[name] = {
                "recorded_calls": spent.calls,
                "of_them_faulty": spent.faulty,
                "answers_sent": paid(server),
                "answers_sent_twice": sum(count - 1 for count in server.answers.values()),
                "kills": killed,
                "faults": {str(fault): count for fault, count in server.given.items() if count},
            }
    outcome["data_equal"] = data_of(folder / "undisturbed") == data_of(folder / "disturbed")
    return outcome


def main() -> None:
    """Run one of the two and write its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "kills"))
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=16)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        figures = {"speed": speed, "kills": kills}[options.what](options, Path(folder))
    write_json(options.output, figures)
    print(json.dumps(figures, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
