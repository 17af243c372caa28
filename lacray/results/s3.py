"""Bytes by key in a bucket, by the standard AWS variables; any server that speaks S3."""

from __future__ import annotations

import contextlib
import email.utils
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from lacray.results.address import split_address
from lacray.results.entries import Entry, Found
from lacray.results.errors import ResultsError, keep_secret
from lacray.results.patience import passes

PASSING_CODES = {
    *("SlowDown", "RequestTimeout", "RequestTimeoutException", "Throttling", "ThrottlingException"),
    *("InternalError", "ServiceUnavailable", "OperationAborted", "ConditionalRequestConflict", "TooManyRequests"),
}
ABSENT = ("NoSuchKey", "404")
UNMET = ("PreconditionFailed", "412")
REFUSED = re.compile(r"credential|40[13]\b|forbidden|access.?denied|signature|access.?key|token", re.IGNORECASE)
AWAY = re.compile(r"connect|resolve|timed? ?out|curl|network", re.IGNORECASE)
BUCKET = re.compile(r"[A-Za-z0-9._-]+")
# Larger files go up in parts, side by side.
PART_BYTES = 64 * 2**20


def s3_client() -> Any:
    """A boto3 S3 client by the standard AWS variables (keys, region, AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL).

    Returns:
        The client; it tries once and gives up in seconds where nothing answers: `Patience` tries again.
    """
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=5,
        read_timeout=30,
        # A repetition that we do not see would take its own conditional put for another writer's.
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=32,
        # Checksums in trailers are more than many servers understand.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    # boto3's default session would remember the first credentials it saw.
    session = boto3.session.Session()
    credentials = session.get_credentials()
    if credentials is not None:
        frozen = credentials.get_frozen_credentials()
        keep_secret(frozen.secret_key, frozen.token)
    return session.client("s3", region_name=region(), endpoint_url=endpoint(), config=config)


def endpoint() -> str | None:
    """The server where it is not AWS itself."""
    address = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    if address and "@" in address:
        raise ResultsError(
            "AWS_ENDPOINT_URL", "must hold no user and password", "use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return address


def region() -> str | None:
    # S3-compatible servers ignore the region, but the signature needs one.
    named = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return named or ("us-east-1" if endpoint() else None)


def bucket_and_key(uri: str) -> tuple[str, str]:
    """s3://bucket/a/b -> ('bucket', 'a/b').

    Raises:
        ResultsError: no bucket, or a key and secret in the address.
    """
    # All behind the bucket is the prefix, also a # or a %: no more is read into it.
    bucket, _, prefix = split_address(uri)[1].partition("/")
    if "@" in bucket or (":" in bucket and "@" in prefix):
        raise ResultsError(
            uri, "must hold no user and password", "use AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role"
        )
    if not BUCKET.fullmatch(bucket):
        raise ResultsError(uri, "must name a bucket, s3://bucket/prefix", "pass another --results")
    return bucket, prefix.strip("/")


class S3:
    """A bucket's prefix as a place; the methods are `lacray.results.place.Place`'s, without its patience.

    Args:
        uri: s3://bucket/prefix.

    Raises:
        ResultsError: no bucket in it, or credentials in it.
    """

    # Many small files: the time is round trips, and the server answers them side by side.
    num_readers = 16
    # Conditional puts are no more than promised: some servers let two of them through within milliseconds.
    settle_seconds = 1.0

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.bucket, self.prefix = bucket_and_key(uri)
        self._lock = threading.Lock()
        self._made: Any = None

    def __getstate__(self) -> dict[str, Any]:
        # Clients hold connections, and stay where they are.
        return {"uri": self.uri}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["uri"])  # type: ignore[misc]

    @property
    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = s3_client()
            return self._made

    def _at(self, key: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": f"{self.prefix}/{key}".lstrip("/")}

    def look(self, key: str) -> Found | None:
        with _expected(ABSENT):
            answer = self._client.get_object(**self._at(key))
            return Found(answer["Body"].read(), answer["ETag"], answer["LastModified"].timestamp())
        return None

    def version(self, key: str) -> str | None:
        with _expected(ABSENT):
            return str(self._client.head_object(**self._at(key))["ETag"])
        return None

    def bulk(self) -> Callable[[str], Any]:
        """Loads by Arrow's own client: a few times less work for each of many small files."""
        filesystem, root = self._arrow()

        def load(key: str) -> Any:
            try:
                with filesystem.open_input_stream(f"{root}/{key}") as stream:
                    return stream.read_buffer()
            except FileNotFoundError:
                return None

        return load

    def _arrow(self) -> tuple[Any, str]:
        import pyarrow.fs as pafs

        address = endpoint()
        if address is None:
            # Finds the bucket's region by itself.
            filesystem, _ = pafs.FileSystem.from_uri(f"s3://{self.bucket}")
            return filesystem, f"{self.bucket}/{self.prefix}".rstrip("/")
        # Built here: from_uri asks AWS for the region before it has read the endpoint variables.
        parsed = urlparse(address if "//" in address else f"//{address}", scheme="https")
        filesystem = pafs.S3FileSystem(
            endpoint_override=parsed.netloc + parsed.path.rstrip("/"),
            scheme=parsed.scheme,
            region=region(),
            connect_timeout=5,
            request_timeout=30,
            # What fails is tried again the patient way, which tells what passes from what stays.
            retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=1),
        )
        return filesystem, f"{self.bucket}/{self.prefix}".rstrip("/")

    def write(self, key: str, data: bytes) -> str:
        return str(self._client.put_object(**self._at(key), Body=data)["ETag"])

    def create(self, key: str, data: bytes) -> str | None:
        with _expected(UNMET):
            return str(self._client.put_object(**self._at(key), Body=data, IfNoneMatch="*")["ETag"])
        return None

    def replace(self, key: str, data: bytes, version: str) -> str | None:
        # Absent: 404 by some servers, 412 by others.
        with _expected((*UNMET, *ABSENT)):
            return str(self._client.put_object(**self._at(key), Body=data, IfMatch=version)["ETag"])
        return None

    def delete(self, key: str, version: str | None = None) -> bool:
        condition = {} if version is None else {"IfMatch": version}
        with _expected((*UNMET, *ABSENT)):
            self._client.delete_object(**self._at(key), **condition)
            return True
        return False

    def list(self, prefix: str) -> Sequence[Entry]:
        root = f"{self.prefix}/".lstrip("/")
        found = []
        for page in self._pages(Prefix=root + prefix):
            for item in page.get("Contents", ()):
                key = item["Key"].removeprefix(root)
                if not any(step.startswith(".") or not step for step in key.split("/")):
                    found.append(Entry(key, item["Size"], item["LastModified"].timestamp(), item["ETag"]))
        return sorted(found)

    def folders(self, prefix: str = "") -> Sequence[str]:
        root = f"{self.prefix}/{prefix}".strip("/") + "/"
        root = "" if root == "/" else root
        names = {
            item["Prefix"].removeprefix(root).rstrip("/")
            for page in self._pages(Prefix=root, Delimiter="/")
            for item in page.get("CommonPrefixes", ())
        }
        return sorted(name for name in names if name and not name.startswith("."))

    def _pages(self, **options: str) -> Iterator[dict[str, Any]]:
        yield from self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, **options)

    def upload(self, key: str, path: Path) -> None:
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4)
        at = self._at(key)
        self._client.upload_file(str(path), at["Bucket"], at["Key"], Config=config)

    def download(self, key: str, path: Path) -> bool:
        path.parent.mkdir(parents=True, exist_ok=True)
        at = self._at(key)
        with _expected(ABSENT):
            self._client.download_file(at["Bucket"], at["Key"], str(path))
            return True
        return False

    def now(self) -> float:
        # Any answer has the server's time.
        answer = self._client.list_objects_v2(Bucket=self.bucket, Prefix=f"{self.prefix}/".lstrip("/"), MaxKeys=1)
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        return email.utils.parsedate_to_datetime(date).timestamp() if date else time.time()

    def sweep(self, key: str) -> None:
        """Nothing to do: a put that was not finished leaves nothing that can be seen."""

    def check_writable(self) -> None:
        from botocore.exceptions import ClientError

        client = self._client
        try:
            client.head_bucket(Bucket=self.bucket)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
            at = client.meta.region_name
            where: dict[str, Any] = (
                {}
                if at in (None, "us-east-1") or endpoint()
                else {"CreateBucketConfiguration": {"LocationConstraint": at}}
            )
            client.create_bucket(Bucket=self.bucket, **where)
        probe = f".{uuid.uuid4().hex}.tmp"
        self.write(probe, b"")
        self.delete(probe)

    def is_passing(self, error: Exception) -> bool | None:
        from boto3.exceptions import Boto3Error
        from botocore import exceptions

        if isinstance(error, Boto3Error):
            # An upload in parts hides what went wrong in one of them.
            cause = error.__cause__ or error.__context__
            return self.is_passing(cause) if isinstance(cause, Exception) else False
        if isinstance(error, exceptions.ClientError):
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            code = error.response.get("Error", {}).get("Code", "")
            return (status >= 500 and status != 501) or status in (408, 429) or code in PASSING_CODES
        if isinstance(error, exceptions.SSLError | exceptions.InvalidProxiesConfigError):
            return False
        # A refused connection is a ConnectionError, one that was cut an HTTPClientError: neither is the other's kind.
        away = exceptions.ConnectionError | exceptions.HTTPClientError | exceptions.IncompleteReadError
        if isinstance(error, away):
            return True
        if isinstance(error, exceptions.BotoCoreError):
            return False
        return passes(error) if isinstance(error, OSError) else None

    def explain(self, error: Exception, waited: float | None = None) -> ResultsError:
        text = " ".join(str(error).replace("(reached max retries: 0)", "").split()).replace(" : ", ": ")
        at = f" at {endpoint()}" if endpoint() else ""
        lasted = "" if waited is None else f" (tried for {waited:.0f} s)"
        if REFUSED.search(text):
            remedy = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (or the instance's role) and the bucket's policy"
        elif waited is not None or AWAY.search(text):
            remedy = "check AWS_ENDPOINT_URL and the network"
        else:
            remedy = "check the bucket's name, AWS_REGION and AWS_ENDPOINT_URL"
        return ResultsError(self.uri, f"must be readable and writable{at}, got {text}{lasted}", remedy)


@contextlib.contextmanager
def _expected(codes: tuple[str, ...]) -> Iterator[None]:
    """Passes over answers that are no errors: what was asked for is not there, or is no longer what it was."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") not in codes:
            raise
