"""Reads byte ranges of one remote object through fsspec: `s3://`, `gs://`, `https://` and others.

fsspec knows the stores, their credentials and how to merge ranges. This module adds what training
needs and fsspec does not have: requests that start at once and run while others are read (its
caches fetch one block at a time, in the reader's thread), a time limit and retries for each
request, detection of an object that changes while it is read, and errors that name URL and bytes.
Requests are coroutines on fsspec's event loop, so many can be under way without threads of ours.
"""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, Final, TypeVar

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

from data.records.format import ByteRange
from data.records.locations import shown
from recognition.redaction import redact_as_quoted

Value = TypeVar("Value")

# Requests under way in a process. Each record in random order is a request that mostly waits, 20
# to 50 ms on S3: this many at once bring 600 to 1,600 a second.
PARALLEL_REQUESTS: Final = 32
# Fetched ahead of a reader in file order: S3 gives one connection 50 to 90 MB/s.
AHEAD_BYTES: Final = 32 << 20
# How often a process asks whether the object is still the one that was opened.
RECHECK_SECONDS = 60.0
WAITS = (0.0, 0.25, 1.0, 4.0)  # seconds before each attempt
# How fsspec's file systems name what identifies an object's content, and its time if nothing does.
_CONTENT_FIELDS: Final = ("ETag", "etag", "md5Hash", "Content-MD5", "generation", "VersionId")
_TIME_FIELDS: Final = (
    "LastModified", "last_modified", "Last-Modified", "updated", "mtime", "created",
)  # fmt: skip

# What web servers answer: unauthorised or forbidden; not found or gone.
_REFUSALS: Final = (401, 403)
_ABSENCES: Final = (404, 410)


class RemoteError(ValueError):
    """An object that cannot be reached or read; says where, what was found and how to fix it.

    Not a `RecordError`: a record that the network does not deliver is not a bad record and must
    never be replaced as one.
    """


class RemoteMissing(RemoteError):  # noqa: N818 - one kind of RemoteError
    """An object that does not exist."""


class RemoteRefused(RemoteError):  # noqa: N818 - one kind of RemoteError
    """An object that these credentials, or this signature, may not read."""


class RemoteObject:
    """One object of a store, of which ranges of bytes are read. Survives a fork.

    Credentials and endpoints come from the environment, or from the URL: `shown` is without them.
    `patience` is the number of seconds that one attempt of a request may take.

    Raises `RemoteMissing` for an object that does not exist, else `RemoteError`.
    """

    def __init__(self, url: str, *, patience: float = 30.0) -> None:
        self.url, self.shown = url, shown(url)
        self.patience = patience
        # What the store said of the content when it was opened: size, and etag or time.
        self.version: dict[str, str] = {}
        self._pid = -1
        info = self._start(lambda: self._retry(self._info)).result()
        if info.get("type") != "file" or not isinstance(info.get("size"), int):
            raise RemoteError(
                f"{self.shown}: found {info.get('type')} of {info.get('size')} bytes, expected one "
                "file of a known size"
            )
        self._checked_at = time.monotonic()
        self.size: int = info["size"]
        self.version = _version(info)

    def pieces(self, start: int, stop: int, size: int) -> list[ByteRange]:
        """Return which pieces of `size` bytes of the object the bytes `[start, stop)` are in."""
        starts = range(start - start % size, min(stop, self.size), size)
        return [(first, min(first + size, self.size)) for first in starts]

    def fetch(self, start: int, stop: int) -> Future[bytes]:
        """Start to read the bytes `[start, stop)` and return at once.

        The future's result is all of them, or a `RemoteError` that names URL and bytes: after a few
        attempts, or as soon as the object is seen to have changed.
        """
        return self._start(lambda: self._fetch(start, stop))

    def stream(self, ranges: Iterable[ByteRange]) -> Iterator[bytes]:
        """Yield the bytes of each range in turn, while the next ones are being read."""
        ahead: deque[tuple[int, Future[bytes]]] = deque()
        total = 0
        try:
            for start, stop in ranges:
                ahead.append((stop - start, self.fetch(start, stop)))
                total += stop - start
                while len(ahead) > PARALLEL_REQUESTS or total > AHEAD_BYTES:
                    size, future = ahead.popleft()
                    total -= size
                    yield future.result()
            for _, future in ahead:
                yield future.result()
        finally:
            for _, future in ahead:
                future.cancel()

    def refuse_change(self) -> None:
        """Raise `RemoteError` if the object is no longer the one that was opened."""
        self._start(lambda: self._retry(self._refuse_change)).result()

    def _start(self, work: Callable[[], Coroutine[Any, Any, Value]]) -> Future[Value]:
        if self._pid != os.getpid():  # a connection cannot be used after a fork
            self._connect()
        return asyncio.run_coroutine_threadsafe(work(), self._fs.loop)

    def _connect(self) -> None:
        # If two threads do this at once, either of the two connections works.
        try:
            fs, self._path = fsspec.url_to_fs(self.url, **_client_options(self.url))
        except ImportError as error:
            raise RemoteError(
                f"{self.shown}: a package for this kind of URL is missing "
                f"({self._redact(str(error))}): pip install -e '.[remote]' for s3://, or what the "
                "message names for others"
            ) from None
        except ValueError as error:
            raise RemoteError(
                f"{self.shown}: {self._redact(str(error))}; expected a URL that fsspec knows, such "
                "as s3://bucket/train.rec"
            ) from None
        for name in ("aiobotocore", "botocore"):  # they log at INFO where they found credentials
            if logging.getLogger(name).level == logging.NOTSET:
                logging.getLogger(name).setLevel(logging.WARNING)
        if not fs.async_impl:
            fs = AsyncFileSystemWrapper(fs, asynchronous=False)
        self._fs: AsyncFileSystem = fs
        self._slots = asyncio.Semaphore(PARALLEL_REQUESTS)
        self._checked_at = float("-inf")  # a new process asks before its first range
        self._pid = os.getpid()

    async def _fetch(self, start: int, stop: int) -> bytes:
        part = f", bytes {start} to {stop}"

        async def get() -> bytes:
            data: bytes = await self._fs._cat_file(self._path, start=start, end=stop)
            if len(data) > stop - start:
                raise RemoteError(
                    f"{self.shown}{part}: got {len(data)} bytes: the server does not support "
                    "ranges of bytes; copy the file to a disk, or to a server that does"
                )
            if len(data) < stop - start:
                raise ConnectionError(f"got {len(data)} bytes of {stop - start}")
            return data

        async with self._slots:
            if time.monotonic() - self._checked_at >= RECHECK_SECONDS:
                self._checked_at = time.monotonic()
                await self._retry(self._refuse_change, part)
            return await self._retry(get, part)

    async def _retry(self, call: Callable[[], Coroutine[Any, Any, Value]], part: str = "") -> Value:
        """Return the result of `call`, repeated after failures that may be temporary."""
        failure: BaseException | None = None
        started = time.monotonic()
        for attempt, wait in enumerate(WAITS):
            await asyncio.sleep(wait)
            try:
                # A time limit for each attempt: after a long suspension of this process there is
                # another one.
                async with asyncio.timeout(self.patience):
                    if attempt and self.version:  # the failure may come from a changed object
                        await self._refuse_change()
                    return await call()
            except RemoteError:
                raise
            except Exception as error:  # each store's client has its own exceptions
                answer = self._answer(error)
                self._refuse(answer, part)
                if failure is None or not isinstance(answer, TimeoutError):
                    failure = answer
        reason = f"{type(failure).__name__}: {failure}".rstrip(": ")
        # No error has a client's as its cause: a traceback would show that with its secrets.
        raise RemoteError(
            f"{self.shown}{part}: no answer in {len(WAITS)} attempts and "
            f"{time.monotonic() - started:.0f} s ({self._redact(reason)}); check the network, the "
            "endpoint and the credentials, then resume the run"
        ) from None

    def _answer(self, error: Exception) -> BaseException:
        """Return what happened, where fsspec makes a FileNotFoundError of it, as of web servers."""
        is_hidden = isinstance(error, FileNotFoundError) and "http" in self._fs.protocol
        return error if error.__cause__ is None or not is_hidden else error.__cause__

    def _refuse(self, answer: BaseException, part: str) -> None:
        """Raise the `RemoteError` of an answer that another attempt would not change."""
        status = getattr(answer, "status", None)  # of a web server
        if isinstance(answer, PermissionError) or status in _REFUSALS:
            raise RemoteRefused(
                f"{self.shown}{part}: the store refuses access ({self._redact(str(answer))}); "
                "provide credentials that may read it, as the store's own tools take them (for S3: "
                "AWS_PROFILE, or AWS_ACCESS_KEY_ID and its secret), or a URL whose signature has "
                "not expired"
            ) from None
        if isinstance(answer, FileNotFoundError) or status in _ABSENCES:
            raise RemoteMissing(
                f"{self.shown}{part} does not exist: check the name, and the endpoint that the "
                "environment states"
            ) from None

    def _redact(self, text: str) -> str:
        return redact_as_quoted(text, self.url)

    async def _info(self) -> dict[str, Any]:
        self._fs.invalidate_cache(self._path)  # ask the store, not an earlier listing of it
        info: dict[str, Any] = await self._fs._info(self._path)
        return info

    async def _refuse_change(self) -> None:
        found = _version(await self._info())
        if found != self.version:
            changes = [
                f"{name} was {self.version.get(name)} and is {found.get(name)}"
                for name in sorted(self.version.keys() | found.keys())
                if self.version.get(name) != found.get(name)
            ]
            raise RemoteError(
                f"{self.shown} was changed while in use ({', '.join(changes)}): start again to "
                "read it as it is now"
            )


def _client_options(url: str) -> dict[str, Any]:
    """Return what a file system needs in addition to what the environment says."""
    if not url.startswith(("s3://", "s3a://")):
        return {}
    stated = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    # botocore's default is ten connections, for which the other requests would wait.
    return {"config_kwargs": {"max_pool_connections": PARALLEL_REQUESTS, **stated}}


def _version(info: dict[str, Any]) -> dict[str, str]:
    """Return what distinguishes the content from another: its size, and a hash or else a time."""
    content = [name for name in _CONTENT_FIELDS if info.get(name) is not None]
    times = [name for name in _TIME_FIELDS if info.get(name) is not None]
    return {name: str(info[name]) for name in ["size", *(content or times[:1])]}
