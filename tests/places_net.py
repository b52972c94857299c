"""An object store and a web server on this machine, for tests of what is behind a network."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import Request, urlopen

import boto3
import pytest
from moto.server import ThreadedMotoServer

from padim.places.archives import find_url_store
from padim.places.place import _find_store

BUCKET = "parts"


class ObjectStore:
    """An S3 with one bucket, which this process speaks to while it runs."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        self.client.create_bucket(Bucket=BUCKET)

    def put(self, key: str, content: bytes) -> str:
        """Store an object; its URL."""
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)
        return f"s3://{BUCKET}/{key}"

    def put_folder(self, folder: Path, prefix: str) -> str:
        """Store the files of a folder; its URL."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return f"s3://{BUCKET}/{prefix}"

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """Let nobody in, whose credentials are unknown here."""
        self._allow(0)
        try:
            yield
        finally:
            self._allow(2**31)

    def _allow(self, n_calls: int) -> None:
        """Answer so many calls without a look at who asks."""
        url = f"{self.endpoint}/moto-api/reset-auth"
        asked = Request(url, str(n_calls).encode(), {"Content-Type": "text/plain"})
        urlopen(asked).close()


def forget_stores() -> None:
    """Let the next look at a URL connect anew, as the environment then says."""
    find_url_store.cache_clear()
    _find_store.cache_clear()


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Run an object store, which the environment names."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "one")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "two")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        forget_stores()
        try:
            yield ObjectStore(endpoint)
        finally:
            forget_stores()
            server.stop()


class _Quiet(SimpleHTTPRequestHandler):
    delay_s = 0.0

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        time.sleep(self.delay_s)
        if self.path.startswith("/broken/"):
            self.send_error(500)
        elif self.path.startswith("/secret/"):
            self.send_error(403)
        elif (
            self.path.startswith("/unlisted/") and not Path(self.translate_path(self.path)).exists()
        ):
            self.send_error(403)  # as a store does that does not let all be listed
        else:
            super().do_GET()

    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Last-Modified" or not self.path.startswith("/undated/"):
            super().send_header(keyword, value)


@contextmanager
def web_server(folder: Path, delay_s: float = 0.0) -> Iterator[str]:
    """Serve a folder, from afar if there is a delay; its address."""
    handler = type("Handler", (_Quiet,), {"delay_s": delay_s})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        forget_stores()
