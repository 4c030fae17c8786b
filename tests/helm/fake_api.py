"""An API server that remembers what helm sends it: enough for install, upgrade, rollback and uninstall with real helm.

Every write is held to schemas.py and answered 422 where it fails. No admission, no controllers, no garbage collection:
pods never run here, and `helm test` needs a cluster.
"""

from __future__ import annotations

import json
import re
import threading
import urllib.parse
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import yaml
from tests.helm import protobuf, schemas

KINDS: Final[dict[str, str]] = {
    "ConfigMap": "v1",
    "PersistentVolumeClaim": "v1",
    "Pod": "v1",
    "Secret": "v1",
    "Service": "v1",
    "ServiceAccount": "v1",
    "Deployment": "apps/v1",
    "HorizontalPodAutoscaler": "autoscaling/v2",
    "NetworkPolicy": "networking.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1",
    "Role": "rbac.authorization.k8s.io/v1",
    "RoleBinding": "rbac.authorization.k8s.io/v1",
    "RayService": "ray.io/v1",
    "ScaledObject": "keda.sh/v1alpha1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
    "GRPCRoute": "gateway.networking.k8s.io/v1",
}
"""Kind → group and version; all live in namespaces."""
PATH: Final = re.compile(
    r"/apis?/(?P<version>v1|[^/]+/[^/]+)/namespaces/(?P<space>[^/]+)/(?P<plural>[^/]+)(/(?P<name>[^/]+))?"
)
VERBS: Final = ["create", "delete", "get", "list", "patch", "update", "watch"]


def plural(kind: str) -> str:
    return re.sub(r"y$", "ie", kind.lower()) + "s"


class Refused(Exception):
    """A Status other than success: HTTP code, reason, sentence."""

    def __init__(self, code: int, reason: str, said: str) -> None:
        super().__init__(said)
        self.code, self.reason = code, reason


class Store:
    """Objects by path. What is written is checked first."""

    def __init__(self, kube_version: str = "1.33") -> None:
        self.kube_version = kube_version
        self.objects: dict[str, dict[str, Any]] = {}
        self.writes = 0

    def names(self) -> set[str]:
        """`Kind/name` of all but helm's own records."""
        return {f"{one['kind']}/{one['metadata']['name']}" for one in self.objects.values() if one["kind"] != "Secret"}

    def get(self, path: str) -> dict[str, Any]:
        if path not in self.objects:
            raise Refused(404, "NotFound", f"{path} not found")
        return self.objects[path]

    def put(self, path: str, found: dict[str, Any], *, dry: bool) -> dict[str, Any]:
        if found["kind"] != "Secret" and (wrong := schemas.complaints(_as_sent(found), self.kube_version)):
            raise Refused(422, "Invalid", "; ".join(wrong))
        self.writes += 1
        old = self.objects.get(path, {}).get("metadata", {})
        own = {"uid": old.get("uid", str(uuid.uuid4())), "resourceVersion": str(self.writes)}
        stored = {**found, "metadata": {**found["metadata"], **own}}
        if not dry:
            self.objects[path] = stored
        return stored

    def below(self, path: str, selector: str) -> list[dict[str, Any]]:
        wanted = dict(part.split("=", 1) for part in selector.replace("==", "=").split(",") if "=" in part)
        found = [one for name, one in self.objects.items() if name.rpartition("/")[0] == path]
        return [one for one in found if wanted.items() <= (one["metadata"].get("labels") or {}).items()]


def _as_sent(found: Mapping[str, Any]) -> dict[str, Any]:
    ours = {"uid", "resourceVersion", "managedFields", "creationTimestamp"}
    metadata = {key: value for key, value in found["metadata"].items() if key not in ours}
    return {**found, "metadata": metadata}


def merge(old: Any, patch: Any) -> Any:
    """RFC 7386. A strategic patch is taken for one: its lists replace, its directives are left out."""
    if not isinstance(patch, Mapping):
        return patch
    whole = dict(old) if isinstance(old, Mapping) else {}
    for key, value in patch.items():
        if key.startswith("$"):
            continue
        if value is None:
            whole.pop(key, None)
        else:
            whole[key] = merge(whole.get(key), value)
    return whole


class Handler(BaseHTTPRequestHandler):
    """One request. The server carries the store."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base class's name
        self.server.log.append(format % arguments)

    def _answer(self, code: int, body: Mapping[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _serve(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        asked = {key: values[-1] for key, values in urllib.parse.parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            with self.server.lock:
                found = discovery(url.path) if self.command == "GET" else None
                self._answer(200, found or self._objects(url.path, asked, body))
        except Refused as refused:
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "metadata": {}}
            self._answer(
                refused.code, {**status, "reason": refused.reason, "code": refused.code, "message": str(refused)}
            )

    def _objects(self, path: str, asked: Mapping[str, str], body: bytes) -> Mapping[str, Any]:
        where = PATH.fullmatch(path)
        if where is None:
            raise Refused(404, "NotFound", path)
        dry = "dryRun" in asked
        if where["name"]:
            return self._one(path, body, dry=dry)
        if self.command == "POST":
            return self._made(path, body, dry=dry)
        return self._listed(path, where, asked.get("labelSelector", ""))

    def _one(self, path: str, body: bytes, *, dry: bool) -> Mapping[str, Any]:
        store = self.server.store
        match self.command:
            case "PUT":
                return store.put(path, {**store.get(path), **self._read(body)}, dry=dry)
            case "PATCH" if "apply-patch" in self.headers["Content-Type"]:
                return store.put(path, self._read(body), dry=dry)
            case "PATCH":
                return store.put(path, merge(store.get(path), self._read(body)), dry=dry)
            case "DELETE" if not dry:
                return store.objects.pop(path, None) or store.get(path)
        return store.get(path)

    def _made(self, path: str, body: bytes, *, dry: bool) -> Mapping[str, Any]:
        made = self._read(body)
        target = f"{path}/{made['metadata']['name']}"
        if target in self.server.store.objects:
            raise Refused(409, "AlreadyExists", f"{target} already exists")
        return self.server.store.put(target, made, dry=dry)

    def _listed(self, path: str, where: re.Match[str], selector: str) -> Mapping[str, Any]:
        store, kind = self.server.store, {plural(kind): kind for kind in KINDS}[where["plural"]]
        found = {"kind": f"{kind}List", "apiVersion": where["version"], "items": store.below(path, selector)}
        return {**found, "metadata": {"resourceVersion": str(store.writes)}}

    def _read(self, body: bytes) -> dict[str, Any]:
        if self.headers["Content-Type"] == protobuf.CONTENT_TYPE:
            return protobuf.secret(body)
        tree: dict[str, Any] = yaml.safe_load(body)
        return tree

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - the base class's names


def discovery(path: str) -> Mapping[str, Any] | None:
    """What there is. None: it is not discovery that is asked."""
    versions = sorted(set(KINDS.values()))
    match path.strip("/").split("/"):
        case ["version"]:
            return {"major": "1", "minor": "33", "gitVersion": "v1.33.0", "platform": "linux/amd64"}
        case ["api"]:
            return {"kind": "APIVersions", "versions": ["v1"]}
        case ["apis"]:
            return {
                "kind": "APIGroupList",
                "apiVersion": "v1",
                "groups": [_group(one) for one in versions if "/" in one],
            }
        case ["api", "v1"]:
            return _resources("v1")
        case ["apis", group, version]:
            return _resources(f"{group}/{version}")
        case ["openapi", "v3"]:
            return {
                "paths": {_root(one): {"serverRelativeURL": f"/openapi/v3/{_root(one)}?hash=1"} for one in versions}
            }
        case ["openapi", "v3", *root]:
            return _openapi("/".join(root[1:]), "/".join(root))
    return None


def _root(version: str) -> str:
    return f"apis/{version}" if "/" in version else f"api/{version}"


def _group(version: str) -> dict[str, Any]:
    named = {"groupVersion": version, "version": version.partition("/")[2]}
    return {"name": version.partition("/")[0], "versions": [named], "preferredVersion": named}


def _resources(version: str) -> dict[str, Any]:
    of_kind = {"namespaced": True, "singularName": "", "verbs": VERBS}
    found = [{**of_kind, "name": plural(kind), "kind": kind} for kind, one in KINDS.items() if one == version]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": found}


def _openapi(version: str, root: str) -> dict[str, Any]:
    """Only that the server checks fields itself, which is what helm looks for before it sends anything."""
    group, _, number = version.rpartition("/")
    checked = [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}]
    paths = {
        f"/{root}/namespaces/{{namespace}}/{plural(kind)}/{{name}}": {
            "patch": {
                "parameters": checked,
                "responses": {},
                "x-kubernetes-action": "patch",
                "x-kubernetes-group-version-kind": {"group": group, "version": number, "kind": kind},
            }
        }
        for kind, one in KINDS.items()
        if one == version
    }
    return {"openapi": "3.0.0", "info": {"title": "fake", "version": "1"}, "paths": paths}


class Server(ThreadingHTTPServer):
    """The store, behind a port of this machine."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.store, self.lock, self.log = Store(), threading.Lock(), list[str]()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def running() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
