"""What builds and runs an image for the tests: Docker where it runs, else buildah as root, without a daemon.

Both run it as the chart does: its own user, a root that cannot be written to, no way to more rights, on this network.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from services import sbom

DOCKERFILE: Final = "services/Dockerfile"
WRITABLE: Final = ("/tmp", "/var/lib/headrace")  # noqa: S108  inside the image
IN_THE_IMAGE: Final = """
root=$1; shift
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
for folder in /tmp /var/lib/headrace; do mount -t tmpfs -o mode=1777 tmpfs "$root$folder"; done
mount -o remount,bind,ro "$root"
exec setpriv --no-new-privs chroot --userspec=10001:10001 "$root" env -C /var/lib/headrace -i "$@"
"""
"""A container by hand: buildah has no read-only root, and no runtime is needed for that."""


class Engine(Protocol):
    """Images by the name of their target."""

    def build(self, target: str) -> None:
        """Before anything else is asked of it."""

    def configuration(self, target: str) -> Mapping[str, Any]:
        """As in Docker's format: User, Entrypoint, Cmd, Env, StopSignal, Healthcheck."""

    def start(self, target: str, *command: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Run a command in a container of its own; both its outputs are one."""

    def signal(self, process: subprocess.Popen[str], number: int) -> None:
        """To the container's first process, if it still runs."""

    def close(self) -> None:
        """Keep what makes the next build fast, nothing else."""


def run(engine: Engine, target: str, *command: str) -> str:
    """What a command in the image prints. Fails where its exit code is not 0."""
    process = engine.start(target, *command)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


class Docker:
    """The base image is the Dockerfile's own."""

    def build(self, target: str) -> None:
        index = os.environ.get("HEADRACE_TORCH_INDEX", "")
        arguments = ["--build-arg", f"TORCH_INDEX={index}"] if index else []
        _call(
            "docker",
            "build",
            "--target",
            target,
            "--tag",
            f"headrace-test:{target}",
            *arguments,
            "--file",
            DOCKERFILE,
            ".",
        )

    def configuration(self, target: str) -> Mapping[str, Any]:
        (found,) = json.loads(_call("docker", "image", "inspect", f"headrace-test:{target}"))
        configured: Mapping[str, Any] = found["Config"]
        return configured

    def start(self, target: str, *command: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        variables = [f"--env={name}={value}" for name, value in (environment or {}).items()]
        folders = [f"--tmpfs={folder}:mode=1777" for folder in WRITABLE]
        hardened = ["--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=host"]
        image = f"--entrypoint={command[0]}", f"headrace-test:{target}", *command[1:]
        return _start("docker", "run", "--rm", *hardened, *folders, *variables, *image)

    def signal(self, process: subprocess.Popen[str], number: int) -> None:
        process.send_signal(signal.SIGTERM if number == signal.SIGKILL else number)  # its client passes on all but that

    def close(self) -> None:
        """Its containers are gone when they end, and its layers are its own business."""


class Buildah:
    """On a base of Debian's packages, from wheels that pip has fetched before: a build needs no registry of images."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folder = root / "build" / "image"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._roots: dict[str, Path] = {}

    def build(self, target: str) -> None:
        if not self._has("headrace-base"):
            self._make_base()
        offline = self._folder / "pip.conf"
        offline.write_text("[global]\nno-index = true\n")
        given = [
            "--build-arg",
            "BASE_IMAGE=localhost/headrace-base",
            "--build-context",
            f"wheels={self._wheels(target)}",
        ]
        how = ["--isolation=chroot", "--pull=never", "--format=docker", "--layers", "--secret", f"id=pip,src={offline}"]
        self._buildah("bud", *how, *given, "--target", target, "--tag", f"headrace-{target}", "--file", DOCKERFILE, ".")
        container = self._buildah("from", "--pull=never", f"localhost/headrace-{target}")
        self._roots[target] = Path(self._buildah("mount", container))

    def configuration(self, target: str) -> Mapping[str, Any]:
        found = json.loads(self._buildah("inspect", "--type=image", f"localhost/headrace-{target}"))
        configured: Mapping[str, Any] = found["Docker"]["config"]
        return configured

    def start(self, target: str, *command: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        variables = [*self.configuration(target)["Env"], *(f"{n}={v}" for n, v in (environment or {}).items())]
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec", IN_THE_IMAGE, "sh"]
        return _start(*apart, str(self._roots[target]), *variables, *command)

    def signal(self, process: subprocess.Popen[str], number: int) -> None:
        if process.poll() is None:
            for first in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
                os.kill(int(first), number)

    def close(self) -> None:
        self._buildah("rm", "--all")
        self._roots.clear()

    def _buildah(self, *arguments: str) -> str:
        places = ["--root", str(self._folder / "storage"), "--runroot", str(self._folder / "run")]
        return _call("buildah", "--storage-driver", "overlay", *places, *arguments, cwd=self._root).strip()

    def _has(self, image: str) -> bool:
        return f"localhost/{image}:" in self._buildah("images", "--format", "{{.Name}}:{{.Tag}}")

    def _make_base(self) -> None:
        """Debian with its Python, from wherever this machine has its packages from."""
        wanted = ["--variant=minbase", "--include=python3,python3-venv,ca-certificates", "bookworm"]
        found = _call(
            "apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Codename: bookworm"
        )
        container = self._buildah("from", "scratch")
        mounted = self._buildah("mount", container)
        _call("debootstrap", *wanted, mounted, found.split()[0])
        _call("find", f"{mounted}/var/lib/apt/lists", f"{mounted}/var/cache/apt", "-type", "f", "-delete")
        self._buildah("commit", "--rm", container, "headrace-base")

    def _wheels(self, target: str) -> Path:
        """What the environment and our own wheel are made of; fetched anew when what is wanted has changed."""
        project = tomllib.loads((self._root / "pyproject.toml").read_text())
        wanted = [f".[{','.join(sbom.TARGETS[target])}]", *project["build-system"]["requires"]]
        asked = json.dumps([project["project"], wanted]) + (self._root / "requirements.lock").read_text()
        folder = self._folder / f"wheels-{target}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"
        if not folder.exists():
            part = folder.with_suffix(".part")
            pip = [sys.executable, "-m", "pip", "download", "-qqq", "--constraint", "requirements.lock"]
            _call(*pip, "--dest", str(part), *wanted, cwd=self._root)
            part.rename(folder)
        return folder


def choose(root: Path) -> Engine | str:
    """What can build images here, or why nothing can."""
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "info"], capture_output=True, check=False).returncode == 0:
        return Docker()
    missing = [name for name in ("buildah", "debootstrap", "unshare", "setpriv") if shutil.which(name) is None]
    if missing:
        return f"no Docker, and not installed: {', '.join(missing)}"
    return Buildah(root) if os.geteuid() == 0 else "no Docker, and buildah needs root for its bare containers"


def _call(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, f"{command} ended with {done.returncode}"
    return done.stdout


def _start(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
