# Copyright: the gpuops.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring a model's files from its hub to this host, before the server starts that reads them.

They lie as the hub's own library would put them (blobs, snapshots and refs below CACHE/hub), so vLLM finds them without
asking anybody. Each file is checked against the checksum that the hub lists, what was cut goes on where it ended, and
what is complete is not asked for again: a branch stays at the commit that was found first.

It needs nothing outside Python's own library. It prints one line of JSON, {"changed": bool, "commit": str, "bytes":
int}, or with --look {"complete": bool}. A failure is one sentence on standard error, and exit status 1.
"""

from __future__ import annotations

import argparse
import codecs
import fcntl
import hashlib
import http.client
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import quote, urlsplit

TRIES = 6  # in a row, each without a single byte
SOCKET_TIMEOUT_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 60.0
SPARE_BYTES = 1 << 30  # left for logs and compiled kernels
CHUNK_BYTES = 1 << 20
LARGEST_LIST_BYTES = 64 << 20
USER_AGENT = "gpuops-fleet/0.1 (+https://github.com/gpuops/fleet)"
# The same weights for other programs, which vLLM never reads.
FOREIGN = (".gguf", ".h5", ".msgpack", ".onnx", ".onnx_data", ".ot", ".pth", ".tflite", ".mlmodel")
FOREIGN_DIRECTORIES = ("original", "onnx", "openvino", "coreml", "metal", "gguf")


class FetchError(Exception):
    """A sentence for people, without the token."""


class TryAgain(Exception):
    """What may be over in a moment: the reason, and how many seconds the hub asked for."""


@dataclass(frozen=True)
class File:
    """One file of a model. The checksum is a SHA-256 (64 digits), or Git's own of a small file (40 digits)."""

    path: str
    size: int
    checksum: str


class SameServerRedirect(urllib.request.HTTPRedirectHandler):
    """Takes the token along only to the same server: large files lie elsewhere, and nobody there needs it."""

    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Any:
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        token = req.unredirected_hdrs.get("Authorization")
        if following is not None and token and urlsplit(newurl)[:2] == urlsplit(req.full_url)[:2]:
            following.add_unredirected_header("Authorization", token)
        return following


class Hub:
    def __init__(self, url: str, model: str, revision: str, token: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise FetchError("vllm_hub_url is not an address; write https://HOST, such as https://huggingface.co.")
        if token and parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise FetchError(f"vllm_hub_url is {url}, which is not encrypted, so vllm_hub_token is not sent there.")
        if token and not re.fullmatch(r"[!-~]+", token):
            raise FetchError("vllm_hub_token is no token: it has a space or a line's end in it.")
        self.url, self.host = url.rstrip("/"), parts.hostname
        self.model, self.revision, self._token = model, revision, token
        self._opener = urllib.request.build_opener(SameServerRedirect())

    def open(self, path: str, start: int = 0) -> http.client.HTTPResponse:
        """Raises FetchError where asking again is of no use, and TryAgain elsewhere."""
        request = urllib.request.Request(self.url + path, headers={"User-Agent": USER_AGENT})  # noqa: S310 (checked)
        if start:
            request.add_header("Range", f"bytes={start}-")
        if self._token:
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        try:
            answer: http.client.HTTPResponse = self._opener.open(request, timeout=SOCKET_TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            error.close()
            raise self._refusal(error.code, error.headers.get("Retry-After") or "") from None
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            raise TryAgain(f"it can't be asked ({reason})") from None
        return answer

    def _refusal(self, status: int, retry_after: str) -> Exception:
        if status in (416, 429) or status >= 500:
            asked = (float(retry_after),) if retry_after.isdecimal() else ()
            return TryAgain(f"it answers with status {status}", *asked)
        if status in (401, 403) and self._token:
            return FetchError(
                f"{self.host} doesn't give {self.model} for this vllm_hub_token (status {status}). Accept the model's "
                "terms with the token's account, take a token that may read it, or correct vllm_model."
            )
        if status in (401, 403):
            return FetchError(
                f"{self.host} doesn't give {self.model} without a token (status {status}): it is private, gated or not "
                "there. Correct vllm_model, or set vllm_hub_token."
            )
        if status == 404:
            return FetchError(
                f"{self.host} has no model {self.model} with the revision {self.revision}, or not all of its files. "
                "Correct vllm_model or vllm_model_revision."
            )
        return FetchError(f"{self.host} answers with status {status} when it is asked for {self.model}.")

    def list(self) -> tuple[str, list[File]]:
        """The commit that the revision is now, and what vLLM needs of it."""
        path = f"/api/models/{quote(self.model)}/revision/{quote(self.revision, safe='')}?blobs=true"
        with self.open(path) as answer:
            try:
                about = json.loads(answer.read(LARGEST_LIST_BYTES))
            except (OSError, ValueError, http.client.HTTPException):
                raise TryAgain("its answer was cut, or isn't JSON") from None
        commit, siblings = (about.get("sha"), about.get("siblings")) if isinstance(about, Mapping) else (None, None)
        if not isinstance(siblings, list) or not re.fullmatch(r"[0-9a-f]{40}", str(commit)):
            raise FetchError(f"{self.host} lists no files of {self.model}: it is no model hub. Correct vllm_hub_url.")
        files = wanted([self._file(entry) for entry in siblings])
        if not any(file.path.endswith((".safetensors", ".bin", ".pt")) for file in files):
            raise FetchError(
                f"{self.model} at {self.host} has no weights that vLLM reads: it needs *.safetensors, and GGUF is not "
                "read. Take the model's own repository."
            )
        return str(commit), files

    def _file(self, entry: Any) -> File:
        path, lfs = str(entry.get("rfilename")), entry.get("lfs") or {}
        checksum, size = lfs.get("sha256") or entry.get("blobId"), lfs.get("size", entry.get("size"))
        whole = PurePosixPath(path)
        if (
            path == "."
            or whole.is_absolute()
            or ".." in whole.parts
            or str(whole) != path
            or re.search(r"[\x00-\x1f\\]", path)
        ):
            raise FetchError(f"{self.host} lists a file {path!r} of {self.model}, which is no name of a file.")
        if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", str(checksum)) or not isinstance(size, int) or size < 0:
            raise FetchError(
                f"{self.host} doesn't say how long {path} of {self.model} is and what its checksum is, so it can't be "
                "verified. Take another vllm_hub_url, or set vllm_prefetch to false."
            )
        return File(path, size, str(checksum))


def wanted(files: list[File]) -> list[File]:
    """Without what other programs read, and without pickled weights where the same ones lie beside as safetensors."""
    safe = {PurePosixPath(file.path).parent for file in files if file.path.endswith(".safetensors")}

    def needed(file: File) -> bool:
        path = PurePosixPath(file.path)
        if path.parts[0] in FOREIGN_DIRECTORIES or path.suffix in FOREIGN:
            return False
        return not (path.parent in safe and path.suffix in (".bin", ".pt"))

    return [file for file in files if needed(file)]


def is_right(path: Path, file: File) -> bool:
    """Whether these are the bytes that the hub listed."""
    if path.stat().st_size != file.size:
        return False
    if len(file.checksum) == 64:
        digest = hashlib.sha256()
    else:  # as Git names a blob
        digest = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    with path.open("rb") as source:
        while chunk := source.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest() == file.checksum


class Fetch:
    """One revision of one model in one cache."""

    def __init__(self, hub: Hub, cache: Path, sleep: Callable[[float], None] = time.sleep) -> None:
        self._hub, self._sleep = hub, sleep
        self._home = cache / "hub" / f"models--{hub.model.replace('/', '--')}"
        self._notes = self._home / "gpufleet" / f"{quote(hub.revision, safe='')}.json"
        self._ref = self._home / "refs" / hub.revision
        self._commit = ""
        self._verified: dict[str, list[int]] = {}  # by path: length and time of the last change, in nanoseconds

    def run(self) -> dict[str, Any]:
        """Raises FetchError. Another run on this host is waited for."""
        self._notes.parent.mkdir(parents=True, exist_ok=True)
        with (self._notes.parent / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            files = self._plan()
            if changed := not self.is_complete():
                self._bring(files)
        return {"changed": changed, "commit": self._commit, "bytes": sum(file.size for file in files)}

    def is_complete(self) -> bool:
        """Whether nothing is missing, by what was noted; nobody is asked, and no large file is read."""
        files = self._noted()
        return bool(files) and self._refers() and all(self._is_verified(file) and self._leads(file) for file in files)

    def _bring(self, files: list[File]) -> None:
        missing = [file for file in files if not self._have(file)]
        self._check_space(missing)
        for file in missing:
            if not self._have(file):  # two files may be the same
                self._download(file)
            self._note(files)
        for file in files:
            if not self._leads(file):
                self._link(file)
        if not self._refers():
            self._ref.parent.mkdir(parents=True, exist_ok=True)
            replace(self._ref, self._commit)
        self._note(files)

    def _refers(self) -> bool:
        """Whether the server, who knows the revision, finds the commit."""
        return self._hub.revision == self._commit or (self._ref.is_file() and self._ref.read_text() == self._commit)

    def _plan(self) -> list[File]:
        """What was begun is gone on with, also when the branch has moved meanwhile."""
        files = self._noted()
        if not files:
            self._commit, files = self._patiently(self._hub.list)
            self._note(files)
        return files

    def _noted(self) -> list[File]:
        try:
            notes = json.loads(self._notes.read_text())
            files = [File(str(one["path"]), int(one["size"]), str(one["checksum"])) for one in notes["files"]]
            self._commit, self._verified = str(notes["commit"]), dict(notes["verified"])
        except (OSError, ValueError, KeyError, TypeError):
            return []
        return files

    def _note(self, files: list[File]) -> None:
        notes = {"commit": self._commit, "files": [asdict(file) for file in files], "verified": self._verified}
        replace(self._notes, json.dumps(notes, indent=1, sort_keys=True))

    def _blob(self, file: File, state: str = "") -> Path:
        return self._home / "blobs" / f"{file.checksum}{state}"

    def _have(self, file: File) -> bool:
        """Whether it lies here whole. What changed since it was verified is read again, and removed if wrong."""
        if self._state(file) and not self._is_verified(file):
            if not is_right(self._blob(file), file):
                self._blob(file).unlink()
            self._verified[file.path] = self._state(file)
        return self._is_verified(file)

    def _is_verified(self, file: File) -> bool:
        return bool(self._state(file)) and self._verified.get(file.path) == self._state(file)

    def _state(self, file: File) -> list[int]:
        """Length and time of the last change, or nothing where it is not there."""
        try:
            found = self._blob(file).stat()
        except FileNotFoundError:
            return []
        return [found.st_size, found.st_mtime_ns]

    def _check_space(self, missing: list[File]) -> None:
        parts = [self._blob(file, ".incomplete") for file in missing]
        needed = sum(file.size for file in missing) - sum(part.stat().st_size for part in parts if part.is_file())
        disk = os.statvfs(self._home)
        free = disk.f_bavail * disk.f_frsize
        if missing and free < needed + SPARE_BYTES:
            raise FetchError(
                f"{self._hub.model} needs {needed / 2**30:.1f} GiB more in {self._home}, and one beside, but only "
                f"{free / 2**30:.1f} GiB are free there. Make room, or put vllm_data_directory on another disk."
            )

    def _download(self, file: File) -> None:
        partial, began_again = self._blob(file, ".incomplete"), False
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        while True:
            self._patiently(lambda: self._append(file, partial), lambda: partial.stat().st_size)
            if is_right(partial, file):
                break
            if began_again:
                raise FetchError(
                    f"{file.path} of {self._hub.model} came from {self._hub.host} with a wrong checksum, twice. Try "
                    "again later; a proxy or mirror on the way may have changed it."
                )
            partial.unlink()  # the beginning may be of another day
            partial.touch()
            began_again = True
        partial.replace(self._blob(file))
        self._verified[file.path] = self._state(file)

    def _append(self, file: File, partial: Path) -> None:
        """Raises TryAgain until the file has its length."""
        start = partial.stat().st_size
        if start >= file.size:
            return
        path = f"/{quote(self._hub.model)}/resolve/{self._commit}/{quote(file.path)}"
        with self._hub.open(path, start) as answer, partial.open("r+b") as target:
            if not (answer.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
                target.truncate(0)  # all of it comes, because it knows no parts; the checksum tells
                start = 0
            target.seek(start)
            self._copy(answer, target, file.size - start)
        if partial.stat().st_size < file.size:
            raise TryAgain("it cut the connection")

    def _copy(self, answer: IO[bytes], target: IO[bytes], length: int) -> None:
        while length > 0:
            try:
                chunk = answer.read(min(CHUNK_BYTES, length))
            except (OSError, http.client.HTTPException) as error:
                raise TryAgain(f"it cut the connection ({type(error).__name__})") from None
            if not chunk:
                return
            target.write(chunk)  # a full disk is a sentence of the system's own
            length -= len(chunk)

    def _patiently(self, ask: Callable[[], Any], progress: Callable[[], int] = lambda: 0) -> Any:
        """Asks again, with longer and longer pauses; what moved on counts as the first try."""
        failures = 0
        while True:
            before = progress()
            try:
                return ask()
            except TryAgain as problem:
                failures = 1 if progress() > before else failures + 1
                if failures >= TRIES:
                    raise FetchError(
                        f"{self._hub.model} can't be had from {self._hub.host}: {problem.args[0]}, {TRIES} times in "
                        "a row. Look at the network and at vllm_hub_url, and run it again: it goes on where it ended."
                    ) from None
                pause = problem.args[1] if len(problem.args) > 1 else 2.0 ** (failures - 1)
                self._sleep(min(pause, LONGEST_PAUSE_SECONDS))

    def _place(self, file: File) -> Path:
        return self._home / "snapshots" / self._commit / file.path

    def _leads(self, file: File) -> bool:
        return self._place(file).is_symlink() and self._place(file).resolve() == self._blob(file).resolve()

    def _link(self, file: File) -> None:
        place = self._place(file)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(os.path.relpath(self._blob(file), place.parent))


def replace(path: Path, text: str) -> None:
    whole = path.with_name(f"{path.name}.new")
    whole.write_text(text)
    whole.replace(path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Bring a model's files from its hub, before they are needed.")
    parser.add_argument("model")
    parser.add_argument("--hub", required=True, metavar="URL")
    parser.add_argument("--revision", default="main")
    parser.add_argument("--cache", type=Path, required=True, help="what HF_HOME is for the server")
    parser.add_argument("--token-file", type=Path, help="the token is read from there before rights are given up")
    parser.add_argument("--look", action="store_true", help="only say whether all is there")
    parser.add_argument("--uid", type=int, required=True)
    parser.add_argument("--gid", type=int, required=True)
    options = parser.parse_args(arguments)
    try:
        token = options.token_file.read_text().strip() if options.token_file else ""
        if os.geteuid() == 0 and options.uid:
            # The server may write there as well, so root must not follow what lies there.
            # Loaded late otherwise, by the first look-up of a name, when there are no rights to read it any more.
            codecs.lookup("idna")
            os.setgroups([])
            os.setgid(options.gid)
            os.setuid(options.uid)
        os.umask(0o027)
        fetch = Fetch(Hub(options.hub, options.model, options.revision, token), options.cache)
        result = {"complete": fetch.is_complete()} if options.look else fetch.run()
    except (FetchError, OSError) as problem:
        print(f"{problem}", file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
