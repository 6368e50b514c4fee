"""The root of an image as a plain folder: the machine's Python in place of a registry's base image,
and installed distributions in place of downloaded ones.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement

VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_PREFIX = Path("usr/local")
_TOOLS = ("sh", "chown", "date", "mkdir", "mv")
"""The programs of the base image that steps and compose.yaml call."""
_PRESENT = (
    *("libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0", "libresolv.so.2", "librt.so.1"),
    *("libgcc_s.so.1", "libstdc++.so.6", "libutil.so.1"),
)
"""Libraries that the base image has, and that distributions may rely on: those that the standard
manylinux names, as far as they come with the C and C++ runtimes."""
_UNUSED = shutil.ignore_patterns(
    *("test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "config-*", "lib2to3"),
    *("site-packages", "dist-packages"),
)
_LIBRARY = re.compile(r"^\s*(?:\S+ => )?(/\S+) \(0x", re.M)
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n"
_GROUP = "root:x:0:\nnogroup:x:65534:\n"


def site_packages(root: Path, prefix: str) -> Path:
    """Where the Python with that prefix in the root has its distributions."""
    return root / prefix.lstrip("/") / "lib" / VERSION / "site-packages"


def make_base(root: Path) -> None:
    """A root with the machine's Python and its pip below /usr/local, and a shell."""
    for folder in ("bin", "lib", "lib64", "sbin"):
        (root / "usr" / folder).mkdir(parents=True)
        (root / folder).symlink_to(f"usr/{folder}")
    for folder in ("dev", "etc", "proc", "root", "run/secrets", "run/tokens", "tmp", "var/tmp"):
        (root / folder).mkdir(parents=True)
    (root / "etc/passwd").write_text(_PASSWD)
    (root / "etc/group").write_text(_GROUP)
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    (root / "etc/nsswitch.conf").write_text("hosts: files dns\n")
    for name in _TOOLS:
        shutil.copy2(_program(name), root / "usr/bin" / name)
    _copy_python(root)
    copy_distribution(distribution("pip"), site_packages(root, str(_PREFIX)))
    pip = root / _PREFIX / "bin/pip"
    pip.write_text("#!/usr/local/bin/python\nfrom pip import main\nraise SystemExit(main())\n")
    pip.chmod(0o755)
    _copy_libraries(root)


def copy_root(source: Path, target: Path) -> None:
    """The same root once more; files outside of /etc are the same ones."""
    copy_tree(source, target)
    shutil.rmtree(target / "etc")
    shutil.copytree(source / "etc", target / "etc", symlinks=True)


def copy_tree(source: Path, target: Path) -> None:
    """The folder with its links, its files linked."""
    shutil.copytree(source, target, symlinks=True, copy_function=_link, dirs_exist_ok=True)


def install_locked(requirements: Iterable[Requirement], folder: Path) -> list[str]:
    """Copy the distributions of these requirements from the environment of the tests, as pip would
    install them; their names. Raises AssertionError where that one has another version."""
    names = []
    for requirement in requirements:
        found = distribution(requirement.name)
        assert requirement.specifier.contains(found.version, prereleases=True), (
            f"{requirement} is locked, and the tests have {found.version}: run `make setup`"
        )
        copy_distribution(found, folder)
        names.append(requirement.name)
    return names


def locked(text: str) -> Iterator[Requirement]:
    """The requirements of a lock for this machine. Raises AssertionError for one that has no hash
    or no exact version."""
    for entry in re.sub(r"\s*\\\n\s*", " ", text).splitlines():
        if not entry.strip() or entry.startswith("#"):
            continue
        requirement = Requirement(entry.partition(" --hash=")[0])
        assert " --hash=sha256:" in entry, entry
        assert str(requirement.specifier).startswith("=="), entry
        if requirement.marker is None or requirement.marker.evaluate():
            yield requirement


def copy_distribution(found: Distribution, folder: Path) -> None:
    """Copy the files of an installed distribution, with their compiled form where there is one."""
    for file in found.files or ():
        path = PurePosixPath(file)
        source = Path(str(found.locate_file(file)))
        # What lies beside its packages are scripts and manuals.
        if path.parts[0] == ".." or not source.is_file():
            continue
        _copy_into(folder, source, path)
        compiled = (
            source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
        )
        if source.suffix == ".py" and compiled.is_file():
            _copy_into(folder, compiled, path.parent / "__pycache__" / compiled.name)


def _copy_into(folder: Path, source: Path, path: PurePosixPath) -> None:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def _copy_python(root: Path) -> None:
    programs = root / _PREFIX / "bin"
    programs.mkdir(parents=True)
    executable = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    shutil.copy2(executable, programs / VERSION)
    for name in ("python", "python3"):
        (programs / name).symlink_to(VERSION)
    library = sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix})
    shutil.copytree(library, root / _PREFIX / "lib" / VERSION, symlinks=True, ignore=_UNUSED)
    site_packages(root, str(_PREFIX)).mkdir()


def _copy_libraries(root: Path) -> None:
    """What the programs and Python's own extensions are linked with, where the loader looks."""
    local = root / _PREFIX
    programs = [*(root / "usr/bin").iterdir(), local / "bin" / VERSION]
    extensions = sorted((local / "lib" / VERSION / "lib-dynload").glob("*.so"))
    # As they are on this machine, where their own search paths lead somewhere.
    told = subprocess.run(
        ["ldd", _program("python"), *programs, *extensions],
        env={**os.environ, "LD_LIBRARY_PATH": f"{sys.base_prefix}/lib"},
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    for library in sorted(set(_LIBRARY.findall(told))):
        # The loader itself has its place.
        folder = root / "lib64" if library.startswith("/lib64/") else root / "usr/lib"
        shutil.copy2(Path(library).resolve(), folder / Path(library).name)
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    places = [Path("/usr/lib", multiarch), Path("/lib", multiarch), Path("/usr/lib64")]
    for name in _PRESENT:
        (source, *_) = [it / name for it in places if (it / name).exists()]
        shutil.copy2(source.resolve(), root / "usr/lib" / name)


def _program(name: str) -> Path:
    if name == "python":
        return Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if found is None:
        raise FileNotFoundError(f"{name} is not installed")
    return Path(found).resolve()


def _link(source: str, target: str) -> None:
    os.link(source, target, follow_symlinks=False)
