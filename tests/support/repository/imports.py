"""Who imports whom, read from the sources: no module is executed for it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_DYNAMIC = ("import_module", "__import__")


@dataclass(frozen=True)
class Import:
    """One import, wherever in the file it stands: also in a function, also by a constant name."""

    importer: str
    imported: str
    """The module itself where `from package import name` names a module of the tree."""
    where: str
    """As `outbox/relay/relay.py:12`."""
    for_types_only: bool
    """It stands under `if TYPE_CHECKING:`, and so is never executed."""


class Sources:
    """The modules of some packages below one folder."""

    def __init__(self, root: Path, packages: Sequence[str]) -> None:
        self._root = root
        self.files = {
            _module_name(path.relative_to(root)): path
            for package in packages
            for path in sorted((root / package).rglob("*.py"))
        }
        """Module name -> its file."""
        self._imports: dict[str, list[Import]] = {}

    def imports_of(self, module: str) -> list[Import]:
        """What the module imports, in the order of its lines. Each file is read once."""
        if module not in self._imports:
            self._imports[module] = self._read(module)
        return self._imports[module]

    def all_imports(self) -> list[Import]:
        """What all modules import."""
        return [found for module in self.files for found in self.imports_of(module)]

    def _read(self, module: str) -> list[Import]:
        path = self.files[module]
        file = path.relative_to(self._root).as_posix()
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        tree = ast.parse(path.read_text("utf-8"), filename=file)
        types_only = {id(node) for guard in _type_guards(tree) for node in ast.walk(guard)}
        return [
            Import(module, imported, f"{file}:{node.lineno}", id(node) in types_only)
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom | ast.Call)
            for imported in self._imported(node, package)
        ]

    def _imported(
        self, node: ast.Import | ast.ImportFrom | ast.Call, package: str
    ) -> Iterator[str]:
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom():
                base = _absolute(node, package)
                for alias in node.names:
                    name = f"{base}.{alias.name}"
                    yield name if name in self.files else base
            case ast.Call(args=[ast.Constant(value=str() as name), *_]):
                if ast.unparse(node.func).rpartition(".")[2] in _DYNAMIC:
                    yield name
            case _:
                return


def within(module: str, *packages: str) -> bool:
    """Whether the module is one of the packages, or in one of them."""
    return any(module == package or module.startswith(package + ".") for package in packages)


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    base = package.split(".")
    base = base[: len(base) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def _type_guards(tree: ast.Module) -> Iterator[ast.stmt]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If):
            test = node.test
            name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
            if name == "TYPE_CHECKING":
                yield from node.body
