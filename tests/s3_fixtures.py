"""An S3 server of this machine's own; a test module asks for it by `pytest_plugins = ["s3_fixtures"]`."""

import logging
from collections.abc import Iterator

import pyarrow.fs as pafs
import pytest


@pytest.fixture(scope="module")
def s3_port() -> Iterator[int]:
    """The port of a server with a bucket called bucket; it keeps nothing on the disk."""
    server = pytest.importorskip("moto.moto_server.threaded_moto_server", reason="needs moto[s3], flask and flask-cors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        threaded = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        threaded.start()
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        port = threaded.get_host_and_port()[1]
        options = f"scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1&allow_bucket_creation=true"
        pafs.FileSystem.from_uri(f"s3://bucket?{options}")[0].create_dir("bucket")
        yield port
        threaded.stop()


def s3_url(port: int, path: str, bucket: str = "bucket") -> str:
    return f"s3://{bucket}/{path}?scheme=http&endpoint_override=127.0.0.1:{port}&region=us-east-1"
