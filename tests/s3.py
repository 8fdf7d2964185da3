"""An S3 server over HTTP for tests."""

import pyarrow.fs as pafs
from moto.server import ThreadedMotoServer

from cluster.session import free_port

HOST = "127.0.0.1"


class Cloud:
    """An S3 server that can go away and come back with what it holds."""

    def __init__(self) -> None:
        self.port = free_port()
        self.start()

    def start(self) -> None:
        self._server = ThreadedMotoServer(HOST, self.port, verbose=False)
        self._server.start()

    def stop(self) -> None:
        self._server.stop()

    def address(self, place: str) -> str:
        return f"s3://{place}?endpoint_override={HOST}:{self.port}&scheme=http"

    def make_bucket(self, name: str) -> None:
        pafs.S3FileSystem(
            endpoint_override=f"{HOST}:{self.port}", scheme="http", allow_bucket_creation=True
        ).create_dir(name)
