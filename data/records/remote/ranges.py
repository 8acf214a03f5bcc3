"""Byte ranges of one remote object, through fsspec: `s3://`, `gs://`, `https://` and others.

Requests run as coroutines on fsspec's own event loop, so that any number of them are under way
without threads of ours. A connection belongs to one process: a fork opens its own at first use.
"""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

Value = TypeVar("Value")
Span = tuple[int, int]

# Requests under way in a process. Records in random order are each a request that mostly waits,
# 20 to 50 ms on S3: so many at once bring 600 to 1,600 a second.
PARALLEL_REQUESTS = 32
# Asked for ahead of a reader in order, blocks of 4 MiB eight: S3 gives a connection 50 to 90 MB/s.
AHEAD_BYTES = 32 << 20
# How often a process asks whether the object is still the one that was opened.
RECHECK_SECONDS = 60.0
WAITS = (0.0, 0.25, 1.0, 4.0)  # seconds before each try
# What fsspec's file systems say of an object's content: one of the first, or a time.
_CONTENT_FIELDS = ("ETag", "etag", "md5Hash", "Content-MD5", "generation", "VersionId")
_TIME_FIELDS = ("LastModified", "last_modified", "Last-Modified", "updated", "mtime", "created")


class RemoteError(ValueError):
    """An object that cannot be reached or read; says where, what was found, and the mend.

    No `RecordError`: a record that the network does not deliver is not a bad record, and must
    never be left out as one.
    """


class RemoteMissing(RemoteError):  # noqa: N818 - one kind of RemoteError
    """An object that does not exist."""


class _Connection:
    """A file system and its event loop, for the process that made it."""

    def __init__(self, url: str) -> None:
        self.pid = os.getpid()
        try:
            fs, self.path = fsspec.url_to_fs(url, **_client_options(url))
        except ImportError as error:
            raise RemoteError(
                f"{url}: a package for this kind of URL is missing ({error}): "
                "pip install -e '.[remote]' for s3://, or what the message names for others"
            ) from error
        except ValueError as error:
            raise RemoteError(
                f"{url}: {error}; expected a URL that fsspec knows, such as s3://bucket/train.rec"
            ) from error
        if not fs.async_impl:
            fs = AsyncFileSystemWrapper(fs, asynchronous=False)
        self.fs: AsyncFileSystem = fs
        for name in ("aiobotocore", "botocore"):  # each tells at INFO where it found its settings
            if logging.getLogger(name).level == logging.NOTSET:
                logging.getLogger(name).setLevel(logging.WARNING)
        self.slots = asyncio.Semaphore(PARALLEL_REQUESTS)
        self.checked_at = float("-inf")  # a process asks before its first range

    def start(self, work: Coroutine[Any, Any, Value]) -> Future[Value]:
        return asyncio.run_coroutine_threadsafe(work, self.fs.loop)


class RemoteObject:
    """One object of a store, of which ranges of bytes are read.

    A pickle holds URL, size and version; connections are opened where it is used. Credentials
    and endpoints are those of the environment, never of a config that a run writes down.

    Args:
        url: as fsspec takes it.
        patience: seconds that one try of a request may take.

    Attributes:
        size: bytes.
        version: what the store said of the content when it was opened: etag, size, times.

    Raises `RemoteMissing` for an object that does not exist, else `RemoteError`.
    """

    def __init__(self, url: str, *, patience: float = 30.0) -> None:
        self.url = url
        self.patience = patience
        self._connection: _Connection | None = None
        info = self._here().start(self._persistently(self._info, "")).result()
        if info.get("type") != "file" or not isinstance(info.get("size"), int):
            raise RemoteError(
                f"{url}: found {info.get('type')} of {info.get('size')} bytes, expected one file "
                "of a known size"
            )
        self._here().checked_at = time.monotonic()
        self.size: int = info["size"]
        self.version = _version(info)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_connection": None}

    def fetch(self, start: int, stop: int) -> Future[bytes]:
        """Start to read the bytes `[start, stop)` and return at once.

        The future's result is all of them, or a `RemoteError` that names URL and offset: after a
        few tries, or as soon as the object is seen to have changed.
        """
        return self._here().start(self._fetch(start, stop))

    def stream(self, spans: Iterable[Span]) -> Iterator[bytes]:
        """Yield the bytes of each span in turn, while those that follow are on their way."""
        ahead: deque[tuple[int, Future[bytes]]] = deque()
        total = 0
        try:
            for start, stop in spans:
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
        self._here().start(self._persistently(self._refuse_change, "")).result()

    def _here(self) -> _Connection:
        # Two threads may both make one at first: each works, and one of them is forgotten.
        if self._connection is None or self._connection.pid != os.getpid():
            self._connection = _Connection(self.url)
        return self._connection

    async def _fetch(self, start: int, stop: int) -> bytes:
        connection = self._here()
        place = f", bytes {start} to {stop}"

        async def once() -> bytes:
            data: bytes = await connection.fs._cat_file(connection.path, start=start, end=stop)
            if len(data) > stop - start:
                raise RemoteError(
                    f"{self.url}{place}: got {len(data)} bytes: the server does not serve ranges "
                    "of bytes; copy the file to a disk, or to a server that does"
                )
            if len(data) < stop - start:
                raise ConnectionError(f"got {len(data)} bytes of {stop - start}")
            return data

        async with connection.slots:
            now = time.monotonic()
            if now - connection.checked_at >= RECHECK_SECONDS:
                connection.checked_at = now
                await self._persistently(self._refuse_change, place)
            return await self._persistently(once, place, suspect=True)

    async def _persistently(
        self, call: Callable[[], Coroutine[Any, Any, Value]], place: str, *, suspect: bool = False
    ) -> Value:
        """Return what `call` does, tried again after failures that may pass.

        With `suspect` a failure also raises the question whether the object was changed.
        """
        failure: Exception | None = None
        started = time.monotonic()
        for wait in WAITS:
            await asyncio.sleep(wait)
            try:
                # Each try has its own time: a process that was stopped for long tries again.
                async with asyncio.timeout(self.patience):
                    return await call()
            except RemoteError:
                raise
            except FileNotFoundError as error:
                raise RemoteMissing(
                    f"{self.url}{place} does not exist: is the name right, and the endpoint that "
                    "the environment names?"
                ) from error
            except PermissionError as error:
                raise RemoteError(
                    f"{self.url}{place}: the store refuses access ({error}); give credentials "
                    "that may read it, as the store's own tools take them (for S3: AWS_PROFILE, "
                    "or AWS_ACCESS_KEY_ID and its secret)"
                ) from error
            except Exception as error:  # each store's client has exceptions of its own
                if failure is None or not isinstance(error, TimeoutError):
                    failure = error
            if suspect:
                await self._refuse_change_if_reachable()
        reason = f"{type(failure).__name__}: {failure}".rstrip(": ")
        raise RemoteError(
            f"{self.url}{place}: no answer in {len(WAITS)} tries and "
            f"{time.monotonic() - started:.0f} s ({reason}); check the network, the endpoint and "
            "the credentials, then resume the run"
        ) from failure

    async def _info(self) -> dict[str, Any]:
        connection = self._here()
        connection.fs.invalidate_cache(connection.path)  # ask the store, not a listing of it
        info: dict[str, Any] = await connection.fs._info(connection.path)
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
                f"{self.url} was changed while in use ({', '.join(changes)}): start again to read "
                "it as it is now"
            )

    async def _refuse_change_if_reachable(self) -> None:
        try:
            async with asyncio.timeout(self.patience):
                await self._refuse_change()
        except RemoteError:
            raise
        except FileNotFoundError as error:
            raise RemoteMissing(f"{self.url} was removed while in use; put it back") from error
        except Exception:  # the failure that made us ask is what will be told
            return


def _client_options(url: str) -> dict[str, Any]:
    """Return what a file system must be told, on top of what the environment says."""
    if not url.startswith(("s3://", "s3a://")):
        return {}
    stated = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    # botocore's own choice is ten connections, for which the other requests would wait.
    return {"config_kwargs": {"max_pool_connections": PARALLEL_REQUESTS, **stated}}


def _version(info: dict[str, Any]) -> dict[str, str]:
    """Return what tells one content from another: its size, and a hash of it or else a time."""
    content = [name for name in _CONTENT_FIELDS if info.get(name) is not None]
    times = [name for name in _TIME_FIELDS if info.get(name) is not None]
    return {name: str(info[name]) for name in ["size", *(content or times[:1])]}
