"""One prefix of an S3 bucket: objects read and written whole, with conditional writes.

Through boto3 (the extra ``[s3]``), which follows the usual variables and files: ``AWS_PROFILE``,
``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL`` for other servers that speak S3, and so on. An object
appears as a whole or not at all. A rename would be a copy and a removal, so nothing is renamed:
what belongs together lies under keys of its own, and one small object, written last and only if
nobody else has written it, says that it counts.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

SCHEME = "s3://"
CONNECTIONS = 16
TRIES = 8
"""Of one request; boto3 waits longer and longer between them."""


class StoreError(OSError):
    """The bucket cannot be reached, read or written; the message says which, and what to do."""


class ConflictError(StoreError):
    """A conditional write found another object than the one that it was to replace."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object: its bytes, its version's tag, and its age in seconds by the server's clock."""

    content: bytes
    tag: str
    age_seconds: float


class ObjectStore:
    """Objects below ``s3://bucket/prefix``; keys are relative to it, with slashes."""

    def __init__(self, uri: str) -> None:
        """Checks the address alone; nothing is asked yet.

        Raises:
            StoreError: no bucket in the address, or boto3 is not installed.
        """
        bucket, _, prefix = uri.removeprefix(SCHEME).partition("/")
        prefix = prefix.strip("/")
        odd = prefix and not {"", ".", ".."}.isdisjoint(prefix.split("/"))
        if not uri.startswith(SCHEME) or not bucket or odd:
            raise StoreError(f"{uri!r} is no place in a bucket: s3://BUCKET/FOLDER is wanted")
        self.bucket, self.prefix = bucket, f"{prefix}/" if prefix else ""
        self.uri = f"{SCHEME}{bucket}/{prefix}".rstrip("/")
        self._client = _client()

    def read(self, key: str) -> Stored | None:
        """An object; None where there is none."""
        with self._told(key):
            try:
                found = self._client.get_object(Bucket=self.bucket, Key=self.prefix + key)
            except self._client.exceptions.NoSuchKey:
                return None
            now = parsedate_to_datetime(found["ResponseMetadata"]["HTTPHeaders"]["date"])
            age = (now - found["LastModified"]).total_seconds()
            return Stored(found["Body"].read(), found["ETag"], age)

    def write(self, key: str, content: bytes) -> None:
        """Put an object, whatever was there."""
        with self._told(key):
            self._client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=content)

    def replace(self, key: str, content: bytes, *, tag: str | None) -> str:
        """Put an object only in place of the version ``tag`` (None: where there is none).

        Returns:
            The new version's tag.

        Raises:
            ConflictError: there is another version, or one where none was to be.
        """
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        with self._told(key):
            done = self._client.put_object(
                Bucket=self.bucket, Key=self.prefix + key, Body=content, **condition
            )
            return str(done["ETag"])

    def remove(self, keys: Sequence[str]) -> None:
        """Remove objects; those that are not there count as removed."""
        for start in range(0, len(keys), 1000):  # The most that one request takes.
            names = [{"Key": self.prefix + key} for key in keys[start : start + 1000]]
            with self._told(f"{len(names)} objects"):
                done = self._client.delete_objects(
                    Bucket=self.bucket, Delete={"Objects": names, "Quiet": True}
                )
                for error in done.get("Errors", ()):
                    raise StoreError(f"{error.get('Key')}: {error.get('Message')}")

    def names(self, below: str = "") -> list[str]:
        """All keys that begin with ``below``, sorted."""
        pages = self._client.get_paginator("list_objects_v2")
        with self._told(below or "the folder"):
            found = [
                str(entry["Key"]).removeprefix(self.prefix)
                for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix + below)
                for entry in page.get("Contents", ())
            ]
        return sorted(found)

    def upload(self, files: Sequence[tuple[Path, str]]) -> None:
        """Put files under their keys, several at a time; large ones in parts."""
        self._all(self._upload, files)

    def download(self, files: Sequence[tuple[str, Path]]) -> None:
        """Fetch objects into files, several at a time; a file is there whole or not at all."""
        self._all(self._download, files)

    def _all(self, work: Any, pairs: Sequence[tuple[Any, Any]]) -> None:
        if len(pairs) < 2:
            for pair in pairs:
                work(pair)
            return
        with ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="s3") as pool:
            list(pool.map(work, pairs))

    def _upload(self, pair: tuple[Path, str]) -> None:
        path, key = pair
        with self._told(key):
            self._client.upload_file(str(path), self.bucket, self.prefix + key)

    def _download(self, pair: tuple[str, Path]) -> None:
        key, path = pair
        path.parent.mkdir(parents=True, exist_ok=True)
        # The same form as all temporaries, so that what a killed process left is found.
        partial = path.with_name(f".{path.stem}.tmp-{secrets.token_hex(4)}{path.suffix}")
        try:
            with self._told(key):
                self._client.download_file(self.bucket, self.prefix + key, str(partial))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """Errors of the client in words; the client has tried again by itself."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", "unknown"))
            place = f"{self.uri}: {key}"
            if code in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412"):
                raise ConflictError(f"{place} was changed by another program ({code})") from error
            raise StoreError(f"{place}: {_advice(code)} ({code})") from error
        except (BotoCoreError, Boto3Error) as error:
            raise StoreError(
                f"{self.uri} cannot be reached ({error}); are network, credentials and "
                "AWS_ENDPOINT_URL as they should be?"
            ) from error


_ADVICE = {
    "404": "it is gone",
    "NoSuchBucket": "there is no such bucket; make it first, or mend the address",
    "AccessDenied": "the credentials may not do this; reading, writing, listing and deleting are "
    "needed below this prefix",
    "403": "the credentials may not do this",
    "InvalidAccessKeyId": "the credentials are not known there",
    "SignatureDoesNotMatch": "the credentials are wrong",
    "ExpiredToken": "the credentials have run out",
}


def _advice(code: str) -> str:
    return _ADVICE.get(code, "the storage refused a request")


def _client() -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise StoreError(
            "workspaces on s3:// need boto3: pip install 'persona-sweep[s3]'"
        ) from error
    return boto3.client(
        "s3",
        config=Config(
            retries={"mode": "standard", "max_attempts": TRIES},
            max_pool_connections=CONNECTIONS,
            connect_timeout=10,
            read_timeout=60,
        ),
    )
