"""The house in figures: `python -m tests.house`. What must hold is asked by tests/test_house.py.

A folder directly below sintra/ is a layer. A module stands one floor above the highest module that
it imports; imports inside functions count like those at the top.
"""

from __future__ import annotations

import ast
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from sintra.cli.docs.modules import LAYERS

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 100


class House:
    """The modules of sintra/ and what they import of each other."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        files = sorted((root / "sintra").rglob("*.py"))
        self.text = {self.name(path): path.read_text() for path in files}
        self.path = {self.name(path): path for path in files}
        self.tree = {name: ast.parse(text) for name, text in self.text.items()}

    def name(self, path: Path) -> str:
        """A file's dotted module name."""
        parts = path.relative_to(self.root).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def imported(self, tree: ast.AST) -> set[str]:
        """Own modules that a tree imports, wherever the statement stands, as known names."""
        found = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                below = {f"{node.module}.{alias.name}" for alias in node.names}
                modules = below & set(self.text)
                found |= modules | ({node.module} if modules != below else set())
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "lazy.module":
                found |= {a.value for a in node.args if isinstance(a, ast.Constant)}
        return found & set(self.text)

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """Module -> own modules that it imports."""
        return {name: self.imported(tree) - {name} for name, tree in self.tree.items()}

    def cycles(self) -> list[list[str]]:
        """Groups of modules that import each other in a circle."""
        return [sorted(group) for group in components(self.imports) if len(group) > 1]

    def floors(self) -> dict[str, int]:
        """Module -> floor, from 1; modules of a circle share one."""
        floor: dict[str, int] = {}
        for group in components(self.imports):
            below = {other for name in group for other in self.imports[name]} - set(group)
            height = 1 + max((floor[other] for other in below), default=0)
            floor |= dict.fromkeys(group, height)
        return floor

    def upward(self) -> list[str]:
        """Imports of a module in a higher layer, as `module -> module`."""
        return [
            f"{name} -> {other}"
            for name, others in self.imports.items()
            for other in sorted(others)
            if layer(name) is not None and (layer(other) or 0) > (layer(name) or 0)
        ]

    def folders(self) -> dict[str, int]:
        """Folder -> modules in it, `__init__.py` left out."""
        modules = [p for p in self.path.values() if p.name != "__init__.py"]
        return dict(sorted(Counter(str(p.parent.relative_to(self.root)) for p in modules).items()))

    def stems(self) -> list[str]:
        """File names that stand in more than one folder."""
        names = Counter(p.stem for p in self.path.values() if p.name != "__init__.py")
        return sorted(f"{name} x{count}" for name, count in names.items() if count > 1)

    def functions(self) -> list[tuple[int, str]]:
        """(lines, place) of every function, the longest first."""
        found = []
        for name, tree in self.tree.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    lines = (node.end_lineno or node.lineno) - node.lineno + 1
                    found.append((lines, f"{name}:{node.name}"))
        return sorted(found, reverse=True)

    def inner_imports(self) -> list[str]:
        """Imports of own modules inside functions."""
        found = []
        for name, tree in self.tree.items():
            for function in ast.walk(tree):
                if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                    for node in ast.walk(function):
                        if isinstance(node, ast.ImportFrom | ast.Import) and self.imported(node):
                            found.append(f"{name}:{node.lineno}")
        return sorted(set(found))

    def count(self, text: str) -> int:
        """How often a text stands in the sources."""
        return sum(source.count(text) for source in self.text.values())

    def wide(self) -> list[str]:
        """Lines of more than 100 columns, in every Python file of the repository."""
        folders = ("sintra", "tests", "bench", "models", "examples")
        files = [p for folder in folders for p in sorted((self.root / folder).rglob("*.py"))]
        return [
            f"{path.relative_to(self.root)}:{number}"
            for path in [*files, self.root / "dodo.py", self.root / "setup.py"]
            for number, line in enumerate(path.read_text().splitlines(), 1)
            if len(line) > WIDTH
        ]


def layer(module: str) -> int | None:
    """The height of a module's layer; None for what stands directly in sintra/."""
    parts = module.split(".")
    return LAYERS.index(parts[1]) if len(parts) > 1 and parts[1] in LAYERS else None


def components(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """Strongly connected components, those that are imported first (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            found.append(stack[at:])
            del stack[at:]

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return iter(found)


def figures(house: House) -> Iterator[str]:
    """The lines that are printed."""
    folders = house.folders()
    yield f"modules in the package's root: {folders.get('sintra', 0)}"
    for folder, modules in folders.items():
        yield f"  {folder:<40}{modules:>4}" + ("  over 12" if modules > 12 else "")
    floors = defaultdict(list)
    for name, floor in house.floors().items():
        floors[floor].append(name)
    yield f"floors: {len(floors)}"
    yield f"cycles: {len(house.cycles())}"
    yield from (f"  {' <-> '.join(group)}" for group in house.cycles())
    yield f"upward imports: {len(house.upward())}"
    yield from (f"  {line}" for line in house.upward())
    yield f"file names in more than one folder: {', '.join(house.stems()) or 'none'}"
    sizes = [lines for lines, _ in house.functions()]
    tenth = statistics.quantiles(sizes, n=10)[-1]
    yield f"function lines: median {statistics.median(sizes):g}, p90 {tenth:g}, max {max(sizes)}"
    yield from (f"  {lines:>4} {place}" for lines, place in house.functions()[:5])
    yield f"lines over {WIDTH} columns: {len(house.wide())}"
    yield from (f"  {place}" for place in house.wide()[:5])
    yield f"dict[str, Any]: {house.count('dict[str, Any]')}"
    yield f"# fmt: skip: {house.count('# fmt: skip')}"
    yield f"own imports inside functions: {len(house.inner_imports())}"


if __name__ == "__main__":
    print("\n".join(figures(House())))
