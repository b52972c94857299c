"""Files behind a network, by fsspec: nothing is written there."""

import errno
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urlsplit

from padim.errors import MissingExtraError, UnreachableError, redact
from padim.places.entry import MOST_BYTES, Entry, RefusedError, Store, is_safe_name

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
_HTTP = ("http", "https")
_PAGE = "text/html"  # what a folder is by HTTP
_LISTED_S = 10  # how long a listing is believed
_WAIT_S = 30  # for a connection, and for more bytes
_CONNECTIONS = 32
_PIECE_BYTES = 2**20
_CHANGED = ("LastModified", "Last-Modified", "last_modified", "updated")  # S3, HTTP, Azure, Google
_REFUSED = (401, 403, 407)
# Bases of what aiohttp, botocore and Python raise where there is no answer
_NETWORK = {"ClientConnectionError", "ClientPayloadError", "BotoCoreError", "ConnectionError"}


class UrlStore(Store):
    """What a kind of URL leads to. Whole URLs are the names in it; threads may share it."""

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme
        self._opened: dict[int, AbstractFileSystem] = {}  # by process: it survives no fork
        self._lock = threading.Lock()

    def find(self, inside: str) -> Entry | None:
        """What there is of a URL, which asks once."""
        fs = self._connect()
        try:
            with _translate(inside):
                return _make_entry(fs.info(_without_slash(inside)))
        except FileNotFoundError:
            return None

    def list(self, inside: str) -> list[Entry]:
        """What is in a folder, which asks once for up to a thousand names."""
        fs = self._connect()
        with _translate(inside):
            listed = fs.ls(_without_slash(inside), detail=True)
        entries = (_make_entry(facts) for facts in listed)
        if self.scheme in _HTTP:  # what a page links to
            names = (facts["name"].rstrip("/").rpartition("/")[0] for facts in listed)
            beside = inside.partition("?")[0].rstrip("/")
            pairs = zip(entries, names, strict=True)
            entries = (entry for entry, folder in pairs if folder == beside)
        kept = {
            entry.name: entry
            for entry in entries
            if is_safe_name(entry.name, may_have_drive=os.name != "nt")
            and entry.name[0] not in "?#"
        }
        return list(kept.values())

    def read(self, inside: str, known: Entry | None = None) -> bytes:
        """The bytes of a file, which asks once."""
        fs = self._connect()
        if known is not None and (known.n_bytes or 0) > MOST_BYTES:
            raise _too_large(inside)
        with _translate(inside):
            if self.scheme not in _HTTP:
                return bytes(fs.cat_file(inside))
            pieces: list[bytes] = []  # the length may be unknown, or without end
            n_bytes = 0
            # Of a size that is given it does not ask first; without blocks it is one stream.
            with fs.open(inside, "rb", block_size=0, size=1) as stream:
                while piece := stream.read(_PIECE_BYTES):
                    pieces.append(piece)
                    n_bytes += len(piece)
                    if n_bytes > MOST_BYTES:
                        raise _too_large(inside)
            return b"".join(pieces)

    def read_part(self, inside: str, start: int, stop: int) -> bytes:
        """Some of the bytes of a file, which asks once."""
        fs = self._connect()
        with _translate(inside):
            content = bytes(fs.cat_file(inside, start=start, end=stop))
        if len(content) > stop - start:
            raise _no_parts(inside)
        return content

    def open(self, inside: str) -> BinaryIO:
        """Open a file whose parts are asked for as they are read."""
        fs = self._connect()
        with _translate(inside):
            stream = fs.open(inside, "rb")
        if not stream.seekable():
            stream.close()
            raise _no_parts(inside)
        return _Translated(stream, inside)  # type: ignore[return-value]  # as much of it as is used

    def save(self, inside: str, target: Path) -> None:
        """Write the bytes of a file to one of this machine."""
        fs = self._connect()
        try:
            with _translate(inside):
                fs.get_file(inside, str(target))
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    def _connect(self) -> "AbstractFileSystem":
        """The file system of fsspec; one for all threads, so that they share its connections."""
        with self._lock:
            fs = self._opened.get(os.getpid())
            if fs is None:
                fs = self._opened[os.getpid()] = _open_file_system(self.scheme)
            return fs


class _Translated:
    """A file whose errors are ours."""

    def __init__(self, stream: Any, url: str) -> None:
        self._stream, self._url = stream, url

    def read(self, n_bytes: int = -1) -> bytes:
        with _translate(self._url):
            return bytes(self._stream.read(n_bytes))

    def __enter__(self) -> "_Translated":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _open_file_system(scheme: str) -> "AbstractFileSystem":
    try:
        import fsspec
    except ModuleNotFoundError as error:
        raise MissingExtraError("fsspec", "remote") from error
    options: dict[str, object] = {
        "use_listings_cache": True,
        "listings_expiry_time": _LISTED_S,
        "skip_instance_cache": True,  # one of ours, which nobody else has changed
    }
    try:
        if scheme in _HTTP:
            from aiohttp import ClientTimeout

            waits = ClientTimeout(total=None, sock_connect=_WAIT_S, sock_read=_WAIT_S)
            options["client_kwargs"] = {"timeout": waits, "trust_env": True}
        elif scheme == "s3":
            options["config_kwargs"] = {"max_pool_connections": _CONNECTIONS}
        return fsspec.filesystem(scheme, **options)
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        if package is None:
            raise MissingExtraError("aiohttp", "remote") from error
        raise MissingExtraError(package) from error


def _without_slash(url: str) -> str:
    return url.rstrip("/")


def _make_entry(facts: Mapping[str, object]) -> Entry:
    """What fsspec says of something, as an entry; its words are those of each store."""
    name = str(facts["name"]).rstrip("/").rpartition("/")[2]
    is_folder = facts["type"] == "directory" or facts.get("mimetype") == _PAGE
    changed = next((facts[word] for word in _CHANGED if facts.get(word)), None)
    said = facts.get("size")
    size = said if isinstance(said, int) else None
    # Not both: some say the time to the second of one file, and closer of many
    version = facts.get("ETag") or facts.get("etag") or changed
    identity = None if version is None else (str(version).strip('"'), size)
    return Entry(name, is_folder, size, 0, _to_seconds(changed), identity)


def _to_seconds(changed: object) -> float:
    """A time since 1970, of whatever form; 0 where there is none."""
    try:
        if isinstance(changed, str):
            changed = (
                parsedate_to_datetime(changed)
                if "," in changed
                else datetime.fromisoformat(changed)
            )
    except ValueError:
        return 0.0
    return changed.timestamp() if isinstance(changed, datetime) else 0.0


def _too_large(url: str) -> OSError:
    return OSError(errno.EFBIG, f"it has more than {MOST_BYTES >> 20} MiB", url)


def _no_parts(url: str) -> OSError:
    return OSError(
        errno.ESPIPE, "its server gives no parts of files, which this needs; copy it here", url
    )


@contextmanager
def _translate(url: str) -> Iterator[None]:
    """Make few errors of all that the libraries of stores can raise.

    One file that is missing or cannot be read is an ``OSError``; a store that refuses, or that is
    not there, an `UnreachableError`.
    """
    try:
        yield
    except UnreachableError:
        raise
    except Exception as error:
        raise _find_own(error, url) from error


def _find_own(error: BaseException, url: str) -> Exception:
    cause = error.__cause__
    is_missing = isinstance(error, FileNotFoundError)
    if is_missing and cause is not None and _is_more(cause):  # which HTTP hides
        return _find_own(cause, url)
    if is_missing:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url)
    status = getattr(error, "status", None) or getattr(error, "code", None)
    host = "://".join(urlsplit(redact(url))[:2])
    reason = redact(" ".join(str(error).split())).rstrip(".") or type(error).__name__
    if isinstance(error, PermissionError) or status in _REFUSED or _is_of_credentials(error):
        return RefusedError(
            f"{redact(url)} may not be read ({reason}). Check the credentials and their rights."
        )
    if isinstance(error, TimeoutError) or _names(error) & _NETWORK:
        return UnreachableError(
            f"{host} cannot be reached ({reason}). Check the address and the network."
        )
    if status is not None:
        return OSError(errno.EIO, f"its server answers {status}", url)
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, error.strerror or reason, url)
    return OSError(errno.EIO, f"its store says {reason}", url)


def _is_more(cause: BaseException) -> bool:
    """Whether what made a file seem missing says something else."""
    return getattr(cause, "status", 404) != 404 or bool(_names(cause) & _NETWORK)


def _is_of_credentials(error: BaseException) -> bool:
    """Whether a library says by the name of an error that credentials are missing or wrong."""
    return any(word in name for name in _names(error) for word in ("Credential", "Auth"))


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}
