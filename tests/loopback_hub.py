"""A small Hugging Face Hub on the loopback, for tests with real clients: repositories in memory, nothing on disk.

    with LoopbackHub() as hub:
        hub.fail_next("POST", "/commit/", 503)                       # the next commit is answered with 503
        subprocess.run(program, env=hub.environment(tmp_path, TOKEN))  # any library, in a process of its own
        assert hub.count("POST", "/commit/") == 1

It answers what `huggingface_hub` asks to create repositories, commit (large files by Git LFS), tag, list and download,
and what other libraries ask when they load from the Hub. Xet is not spoken: `environment` switches it off.
"""

import base64
import hashlib
import json
import os
import random
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


OWNER = "me"
TOKEN, READ_TOKEN = "hf_TheOwnersOwnToken", "hf_ReadsButMayNotWrite"
LFS_SUFFIXES = (".safetensors", ".parquet", ".bin", ".png", ".gif", ".mp4")
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()

# What stands before the repository's part of a path. Folders in a path are quoted (%2F) where they are one parameter.
API = "/api/(?P<kind>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)"
PLACE = "/(?:(?P<kind>datasets|spaces)/)?(?P<id>[^/]+/[^/]+)"
REVISION = "(?P<revision>[^/]+)"


class Refusal(Exception):
    """An answer other than yes: HTTP status, the Hub's code for it, and the message."""

    def __init__(self, status: int, message: str, code: str = ""):
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Answer:
    """What is sent back; a route may return a JSON value instead."""

    content: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


Failure = int | str | Answer  # what goes wrong on the way, see `fail_next`
FAULTS = (500, 429, "drop", "lose", "hang", Answer(b'["no answer of a Hub"]'))


@dataclass
class Request:
    """A request, as routes see it and the log keeps it.

    `parts` is what the route's pattern took out of the path; `status` is `None` where the connection ended unanswered.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: Any
    body: bytes = b""
    parts: dict[str, str] = field(default_factory=dict)
    status: int | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")


@dataclass(frozen=True)
class File:
    content: bytes
    is_lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        size = len(self.content)
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {size}\n".encode()

    @property
    def blob_id(self) -> str:
        blob = self.pointer if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    def lfs(self, name_of_hash: str) -> dict:
        """The entry about LFS, whose hash is called `oid` in a tree and `sha256` among siblings."""
        if not self.is_lfs:
            return {}
        return {
            "lfs": {name_of_hash: self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)},
        }


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    files: dict[str, File]


class Repo:
    """A repository with one branch, `main`."""

    def __init__(self, kind: str, repo_id: str, private: bool, sdk: str | None):
        self.kind, self.id, self.private, self.sdk = kind, repo_id, private, sdk
        self.commits: list[Commit] = []
        self.tags: dict[str, str] = {}
        self.lfs: dict[str, bytes] = {}
        readme = {"README.md": File(b"---\nsdk: static\n---\n")} if kind == "spaces" else {}
        self.commit("initial commit", {".gitattributes": File(GIT_ATTRIBUTES)} | readme)

    @property
    def head(self) -> Commit:
        return self.commits[-1]

    def commit(self, title: str, files: dict[str, File]) -> None:
        """Put a commit with just these files on top."""
        parts = [self.id, title, self.head.oid if self.commits else ""]
        parts += [f"{path} {file.blob_id}" for path, file in sorted(files.items())]
        self.commits.append(Commit(hashlib.sha1("\n".join(parts).encode()).hexdigest(), title, files))

    def at(self, revision: str) -> Commit:
        """The commit that a branch, a tag, or at least seven digits of a commit name."""
        named = {"main": self.head.oid} | self.tags
        oid = named.get(revision, revision)
        for commit in self.commits:
            if commit.oid == oid or (len(oid) >= 7 and commit.oid.startswith(oid)):
                return commit
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")


class LoopbackHub:
    """The server. Use it as a context manager.

    `repos` maps `(kind, id)`, such as `("datasets", "me/ted-6k")`, to a [`Repo`]; `log` has all requests;
    `tokens` maps a token to its user and whether it may write.
    """

    def __init__(self):
        self.repos: dict[tuple[str, str], Repo] = {}
        self.log: list[Request] = []
        self.tokens = {TOKEN: (OWNER, True), READ_TOKEN: (OWNER, False)}
        self._failures: list[list] = []
        self.fail_at_random(0, seed=0)
        self._lock = threading.RLock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    # What tests use.

    def hold(self, folder: str | os.PathLike, repo_id: str, kind: str = "datasets") -> Repo:
        """A public repository, made if there is none, whose last commit has the files of a folder and no others."""
        repo = self.repos.setdefault((kind, repo_id), Repo(kind, repo_id, False, None))
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        files = {path.relative_to(folder).as_posix(): path for path in paths}
        repo.commit(
            f"files of {Path(folder).name}",
            {name: File(path.read_bytes(), path.suffix in LFS_SUFFIXES) for name, path in files.items()},
        )
        return repo

    def environment(self, home: str | os.PathLike, token: str | None = None) -> dict[str, str]:
        """The environment for a process that knows no other Hub, has nothing cached and, if given, this token."""
        foreign = ("HF_", "HUGGING", "TRANSFORMERS_", "DATASETS_", "DIFFUSERS_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        own = {"HF_ENDPOINT": self.url, "HF_HOME": str(Path(home) / "hf_home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        own |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1"}
        return kept | own | ({"HF_TOKEN": token} if token else {})

    def fail_next(self, method: str, path: str, failure: Failure = 500, times: int = 1) -> None:
        """Let the next `times` requests fail whose path has the regular expression `path` in it.

        Args:
            method (`str`): of HTTP.
            path (`str`): regular expression.
            failure (`int`, `str` or `Answer`): an HTTP status; `"drop"`: the connection ends in the middle of the
                request; `"lose"`: the request is carried out, and the connection ends before the answer; `"hang"`:
                it is never answered; an [`Answer`]: it is carried out, and this is sent instead of its answer.
            times (`int`): how often.
        """
        self._failures.append([method, path, failure, times])

    def fail_at_random(self, rate: float, seed: int, faults: tuple[Failure, ...] = FAULTS) -> None:
        """Let this share of the requests fail, each in one of the ways of [`fail_next`], the same ones for a seed."""
        self._rate, self._random, self._faults = rate, random.Random(seed), faults

    def stop_failing(self) -> None:
        self._failures.clear()
        self._rate = 0

    def requests(self, method: str, path: str) -> list[Request]:
        """The logged requests whose path has the regular expression `path` in it."""
        return [request for request in self.log if request.method == method and re.search(path, request.path)]

    def count(self, method: str, path: str) -> int:
        return len(self.requests(method, path))

    # From a request to its answer.

    def planned_failure(self, request: Request) -> Failure | None:
        with self._lock:
            for planned in self._failures:
                method, path, failure, times = planned
                if times > 0 and method == request.method and re.search(path, request.path):
                    planned[3] -= 1
                    return failure
            return self._random.choice(self._faults) if self._random.random() < self._rate else None

    def answer(self, request: Request) -> Answer:
        try:
            with self._lock:
                if request.token and request.token not in self.tokens:
                    raise Refusal(401, "Invalid credentials in Authorization header")
                for methods, pattern, route in ROUTES:
                    found = re.fullmatch(pattern, request.path)
                    if found and request.method in methods:
                        request.parts = {name: unquote(part) for name, part in found.groupdict().items() if part}
                        value = route(self, request)
                        return value if isinstance(value, Answer) else _json(value)
            raise Refusal(404, "Not found here", "RepoNotFound")
        except Refusal as refusal:
            said = {"X-Error-Message": str(refusal)} | ({"X-Error-Code": refusal.code} if refusal.code else {})
            return _json({"error": str(refusal)}, refusal.status, said)

    def _repo(self, request: Request, write: bool = False) -> Repo:
        """The repository of a request, if who asks may see it and, with `write`, change it."""
        user, may_write = self.tokens.get(request.token, (None, False))
        repo = self.repos.get((request.parts.get("kind", "models"), request.parts["id"]))
        if repo is None or (repo.private and repo.id.split("/")[0] != user):
            raise Refusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user is None:
            raise Refusal(401, "Invalid username or password.")
        if write and not (may_write and repo.id.split("/")[0] == user):
            raise Refusal(403, "You don't have the rights to write here")
        return repo

    # Routes: who is calling, and changes.

    def whoami(self, request: Request) -> dict:
        if not request.token:
            raise Refusal(401, "Invalid username or password.")
        user, may_write = self.tokens[request.token]
        role = "write" if may_write else "read"
        return {"type": "user", "name": user, "orgs": [], "auth": {"accessToken": {"role": role}}}

    def create_repo(self, request: Request) -> Answer:
        wanted = request.json
        user, may_write = self.tokens.get(request.token, (None, False))
        if user is None:
            raise Refusal(401, "Invalid username or password.")
        if not may_write or wanted.get("organization") not in (None, user):
            raise Refusal(403, "You don't have the rights to create a repository under this namespace")
        kind, repo_id = f"{wanted.get('type', 'model')}s", f"{user}/{wanted['name']}"
        if kind == "spaces" and not wanted.get("sdk"):
            raise Refusal(400, "sdk is missing")
        url = f"{self.url}/{'' if kind == 'models' else f'{kind}/'}{repo_id}"
        if (kind, repo_id) in self.repos:
            return _json({"error": "You already created this repo", "url": url}, 409)
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))  # newer and older clients
        self.repos[kind, repo_id] = Repo(kind, repo_id, private, wanted.get("sdk"))
        return _json({"url": url, "name": repo_id})

    def validate_yaml(self, request: Request) -> Answer:
        front = re.match(r"---\n(.*?)\n---", request.json["content"], re.DOTALL)
        try:
            yaml.safe_load(front[1] if front else "")
        except yaml.YAMLError as error:
            return _json({"errors": [{"message": str(error).splitlines()[0]}], "warnings": []}, 400)
        return _json({"errors": [], "warnings": [] if front else [{"message": "empty or missing yaml metadata"}]})

    def preupload(self, request: Request) -> dict:
        files = self._repo(request, write=True).at(request.parts["revision"]).files
        answers = []
        for wanted in request.json["files"]:
            old = files.get(wanted["path"])
            mode = "lfs" if wanted["path"].endswith(LFS_SUFFIXES) else "regular"
            oid = {"oid": old.sha256 if old.is_lfs else old.blob_id} if old else {}
            answers.append({"path": wanted["path"], "uploadMode": mode, "shouldIgnore": False} | oid)
        return {"files": answers}

    def lfs_batch(self, request: Request) -> dict:
        repo, objects = self._repo(request, write=True), []
        for wanted in request.json["objects"]:
            place = f"{self.url}/lfs/{repo.kind}/{repo.id}/{wanted['oid']}"
            # As on the Hub, the storage asks for no token: the address is signed.
            actions = {"upload": {"href": f"{place}?Signature=secret"}, "verify": {"href": f"{place}/verify"}}
            objects.append(wanted | ({} if wanted["oid"] in repo.lfs else {"actions": actions}))
        return {"transfer": "basic", "objects": objects}

    def lfs_put(self, request: Request) -> Answer:
        if (
            request.query.get("Signature") != "secret"
            or hashlib.sha256(request.body).hexdigest() != request.parts["oid"]
        ):
            raise Refusal(400, "The signature or the content's hash is wrong")
        self.repos[request.parts["kind"], request.parts["id"]].lfs[request.parts["oid"]] = request.body
        return Answer()

    def lfs_verify(self, request: Request) -> Answer:
        if len(self._repo(request, write=True).lfs.get(request.parts["oid"], b"")) != request.json["size"]:
            raise Refusal(404, "The object is not in the storage")
        return Answer()

    def commit(self, request: Request) -> dict:
        repo = self._repo(request, write=True)
        lines = [json.loads(line) for line in request.body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit", repo.head.oid) != repo.head.oid:
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.at(request.parts["revision"]).files)
        for line in lines[1:]:
            key, value = line["key"], line["value"]
            if key == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]))
            elif key == "lfsFile" and value["oid"] in repo.lfs:
                files[value["path"]] = File(repo.lfs[value["oid"]], is_lfs=True)
            elif key == "deletedFile" and value["path"] in files:
                del files[value["path"]]
            else:
                raise Refusal(400, f"Cannot do {key} of {value['path']}")
        repo.commit(header["summary"], files)
        return {"commitUrl": f"{self.url}/{repo.id}/commit/{repo.head.oid}", "commitOid": repo.head.oid}

    def create_tag(self, request: Request) -> Answer:
        repo, tag = self._repo(request, write=True), request.json["tag"]
        if tag in repo.tags:
            raise Refusal(409, "Reference already exists")
        repo.tags[tag] = repo.at(request.parts["revision"]).oid
        return Answer()

    # Routes: listing and downloading.

    def refs(self, request: Request) -> dict:
        repo = self._repo(request)
        tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": oid} for tag, oid in repo.tags.items()]
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.head.oid}
        return {"branches": [main], "converts": [], "tags": tags, "pullRequests": []}

    def info(self, request: Request) -> dict:
        repo = self._repo(request)
        commit = repo.at(request.parts.get("revision", "main"))
        siblings = [
            {"rfilename": path, "size": len(file.content), "blobId": file.blob_id} | file.lfs("sha256")
            for path, file in sorted(commit.files.items())
        ]
        date = "2026-01-01T00:00:00.000Z"
        found = {"id": repo.id, "author": OWNER, "sha": commit.oid, "private": repo.private, "siblings": siblings}
        return found | {"tags": [], "sdk": repo.sdk, "lastModified": date, "createdAt": date, "downloads": 0}

    def tree(self, request: Request) -> list[dict]:
        commit, folder = self._repo(request).at(request.parts["revision"]), request.parts.get("path", "")
        entries = _entries(commit, folder, request.query.get("recursive", "").lower() in ("true", "1"))
        if folder and not entries:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        return list(entries.values())

    def paths_info(self, request: Request) -> list[dict]:
        entries = _entries(self._repo(request).at(request.parts["revision"]), "", recursive=True)
        is_json = "json" in request.headers.get("Content-Type", "")
        paths = (request.json if is_json else parse_qs(request.body.decode())).get("paths", [])
        return [entries[path] for path in paths if path in entries]

    def resolve(self, request: Request) -> Answer:
        commit = self._repo(request).at(request.parts["revision"])
        file = commit.files.get(request.parts["path"])
        if file is None:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        etag = f'"{file.sha256 if file.is_lfs else file.blob_id}"'
        headers = {"ETag": etag, "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if file.is_lfs:
            headers |= {"X-Linked-ETag": etag, "X-Linked-Size": str(len(file.content))}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if part is None:
            return Answer(file.content, headers=headers)
        start, size = int(part[1]), len(file.content)
        end = min(int(part[2] or size), size - 1)
        if start >= size:
            raise Refusal(416, "The range is not satisfiable")
        headers["Content-Range"] = f"bytes {start}-{end}/{size}"
        return Answer(file.content[start : end + 1], 206, headers)


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    return Answer(json.dumps(value).encode(), status, {"Content-Type": "application/json"} | (headers or {}))


def _entries(commit: Commit, folder: str, recursive: bool) -> dict[str, dict]:
    """What a tree lists: files, and the folders on the way to them."""
    start = f"{folder}/" if folder else ""
    last = {"id": commit.oid, "title": commit.title, "date": "2026-01-01T00:00:00.000Z"}
    entries = {}
    for path, file in sorted(commit.files.items()):
        names = path.removeprefix(start).split("/")
        for depth in range(1, len(names) + 1 if recursive else 2) if path.startswith(start) else ():
            entry = {"path": start + "/".join(names[:depth]), "lastCommit": last}
            if depth == len(names):
                entry |= {"type": "file", "oid": file.blob_id, "size": len(file.content)} | file.lfs("oid")
            else:
                entry |= {"type": "directory", "oid": commit.oid, "size": 0}
            entries[entry["path"]] = entry
    return entries


ROUTES: list[tuple[tuple[str, ...], str, Callable[[LoopbackHub, Request], Any]]] = [
    (("GET",), "/api/whoami-v2", LoopbackHub.whoami),
    (("POST",), "/api/repos/create", LoopbackHub.create_repo),
    (("POST",), "/api/validate-yaml", LoopbackHub.validate_yaml),
    (("POST",), f"{API}/preupload/{REVISION}", LoopbackHub.preupload),
    (("POST",), rf"{PLACE}\.git/info/lfs/objects/batch", LoopbackHub.lfs_batch),
    (("PUT",), "/lfs/(?P<kind>[^/]+)/(?P<id>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})", LoopbackHub.lfs_put),
    (("POST",), "/lfs/(?P<kind>[^/]+)/(?P<id>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})/verify", LoopbackHub.lfs_verify),
    (("POST",), f"{API}/commit/{REVISION}", LoopbackHub.commit),
    (("POST",), f"{API}/tag/{REVISION}", LoopbackHub.create_tag),
    (("GET",), f"{API}/refs", LoopbackHub.refs),
    (("GET",), f"{API}(?:/revision/{REVISION})?", LoopbackHub.info),
    (("GET",), f"{API}/tree/{REVISION}(?:/(?P<path>.+))?", LoopbackHub.tree),
    (("POST",), f"{API}/paths-info/{REVISION}", LoopbackHub.paths_info),
    (("GET", "HEAD"), f"{PLACE}/resolve/{REVISION}/(?P<path>.+)", LoopbackHub.resolve),
]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: LoopbackHub


class _Handler(BaseHTTPRequestHandler):
    """Reads a request, lets the hub answer, and fails where that is planned."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and content are two writes, and the second one would wait
    server: _Server

    def _serve(self) -> None:
        hub, url = self.server.hub, urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        request = Request(self.command, url.path, query, self.headers)
        failure = hub.planned_failure(request)
        hub.log.append(request)
        try:
            if failure == "drop":
                self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            else:
                request.body = self._read_body()
            if failure == "hang":
                self.rfile.read(1)  # until the client gives up
            elif isinstance(failure, int):
                answer = _json({"error": "planned"}, failure)
            elif failure != "drop":
                answer = hub.answer(request)
            if isinstance(failure, str):
                self.close_connection = True
                return
            if isinstance(failure, Answer):
                answer = failure
            request.status = answer.status
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.content)
        except ConnectionError:  # the client has gone
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def log_message(self, *_: object) -> None:
        """Nothing on stderr: the hub keeps the log."""


def log_in(tmp_path: Path, monkeypatch: Any, token: str | None) -> None:
    """What `hf auth login` leaves behind, for the fixture `hub` of conftest.py."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    stored = tmp_path / "home" / "token"
    stored.parent.mkdir(exist_ok=True)
    stored.unlink(missing_ok=True)
    if token is not None:
        stored.write_text(token)
