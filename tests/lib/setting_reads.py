"""Which fields of the settings the code reads, found in its syntax trees by following types.

A name is typed by its annotation (`rl: Rl`), by what it is assigned (`rl = settings.rl`), or, in the few signatures that say
Any, by its own name. An attribute of a typed expression is a read. `getattr` and `attrgetter` with computed names read the
fields that their file (for `Algo`, whose bounds are named in decorators, their room) names as strings or annotations.
"""

import ast
import inspect
import textwrap
from pathlib import Path
from typing import Any, get_args, get_origin

import pipeline.settings
from pipeline.settings import Algo, Section, Settings, Verify

ROOT = Path(__file__).resolve().parents[2]
BY_NAME = {"settings": Settings, "verify": Verify}
Field = tuple[type[Section], str]


def product_files() -> list[Path]:
    """All code that may read a setting; the settings' own modules only ask about them."""
    files = [path for top in ("pipeline", "megatron_patches", "stages") for path in sorted((ROOT / top).rglob("*.py"))]
    return [path for path in files if not path.is_relative_to(ROOT / "pipeline" / "settings")]


def reads() -> set[Field]:
    found: set[Field] = set()
    for path in product_files():
        visitor = _Reads(path)
        visitor.visit(visitor.tree)
        found |= visitor.found
    return found


def fields(section: type[Section] = Settings, prefix: str = "") -> dict[str, Field]:
    """Every leaf of the settings: dotted key -> the class and field that declare it."""
    leaves: dict[str, Field] = {}
    for name, field in section.model_fields.items():
        inner = [item for item in (field.annotation, *get_args(field.annotation)) if _is_section(item)]
        leaves |= fields(inner[0], f"{prefix}{name}.") if inner else {prefix + name: (section, name)}
    return leaves


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


class _Reads(ast.NodeVisitor):
    def __init__(self, path: Path):
        self.path, self.tree = path, ast.parse(path.read_text("utf-8"))
        self.found: set[Field] = set()
        self.classes = {
            alias.asname or alias.name: getattr(pipeline.settings, alias.name)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.ImportFrom) and node.module == "pipeline.settings"
            for alias in node.names
        }
        self.names: dict[str, Any] = {}
        self.attributes: dict[str, Any] = {}
        """Of `self`, in the class at hand."""

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        outer, self.attributes = self.attributes, {}
        for item in node.body:
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                self.attributes[item.target.id] = self._annotated(item.annotation)
        for inner in ast.walk(node):  # `self.x = ...` anywhere in the class, before what reads it
            if isinstance(inner, ast.FunctionDef):
                self._in_function(inner, visit=False)
        self.generic_visit(node)
        self.attributes = outer

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._in_function(node, visit=True)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.generic_visit(node)

    def _in_function(self, node: ast.FunctionDef, visit: bool) -> None:
        outer, self.names = self.names, dict(self.names)
        for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
            self.names[argument.arg] = self._annotated(argument.annotation) or self._by_name(argument.arg)
        for inner in ast.walk(node):  # in order of depth, which is enough for this code
            if isinstance(inner, ast.Assign):
                self._assign(inner.targets[0], inner.value)
            elif isinstance(inner, ast.comprehension | ast.For):
                self._iterate(inner.target, inner.iter)
        if visit:
            self.generic_visit(node)
        self.names = outer

    def _by_name(self, name: str) -> Any:
        if name == "config" and self.path.is_relative_to(ROOT / "pipeline" / "objectives"):
            return Algo
        return BY_NAME.get(name)

    def _annotated(self, node: ast.expr | None) -> Any:
        for inner in ast.walk(node) if node is not None else ():
            name = inner.id if isinstance(inner, ast.Name) else inner.value if isinstance(inner, ast.Constant) else None
            if name in self.classes:
                return self.classes[name]
        return None

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, its in zip(target.elts, value.elts, strict=False):
                self._assign(one, its)
        elif (kind := self.type_of(value)) is None:
            return
        elif isinstance(target, ast.Name):
            self.names[target.id] = kind
        elif isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self":
            self.attributes[target.attr] = kind

    def _iterate(self, target: ast.expr, over: ast.expr) -> None:
        if isinstance(over, ast.Call) and isinstance(over.func, ast.Name) and over.func.id == "enumerate":
            over, target = over.args[0], target.elts[1] if isinstance(target, ast.Tuple) else target
        kind = self.type_of(over)
        if get_origin(kind) is list and isinstance(target, ast.Name):
            self.names[target.id] = get_args(kind)[0]

    def type_of(self, node: ast.expr) -> Any:
        """A section, a list of sections, or None."""
        if isinstance(node, ast.Name):
            return self.names.get(node.id)
        if isinstance(node, ast.BoolOp):  # `config or settings.algo`
            return next((kind for value in node.values if (kind := self.type_of(value))), None)
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute) and node.func.attr == "model_copy":
                return self.type_of(node.func.value)
            if isinstance(node.func, ast.Name) and node.func.id == "as_config":
                return self.type_of(node.args[0])
            if isinstance(node.func, ast.Name) and node.func.id == "compose":
                return Settings
            if isinstance(node.func, ast.Attribute) and ast.unparse(node.func) in (
                "session.start",
                "session.with_vocabulary",
            ):
                return Settings
            return None
        if not isinstance(node, ast.Attribute):
            return None
        if isinstance(node.value, ast.Name) and node.value.id == "self" and node.attr in self.attributes:
            return self.attributes[node.attr]
        owner = self.type_of(node.value)
        if not _is_section(owner):
            return Settings if node.attr == "settings" else None
        annotation = owner.model_fields[node.attr].annotation if node.attr in owner.model_fields else None
        return annotation

    def visit_Attribute(self, node: ast.Attribute) -> None:
        owner = self.type_of(node.value)
        if _is_section(owner) and node.attr in owner.model_fields:
            self.found.add((owner, node.attr))
        elif _is_section(owner) and isinstance(found := getattr(owner, node.attr, None), property):
            self._read_in_property(owner, found)
        self.generic_visit(node)

    def _read_in_property(self, owner: type[Section], found: property) -> None:
        """Who reads a property of a section reads the fields that it is made of."""
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(found.fget)))):
            if (
                isinstance(node, ast.Attribute)
                and ast.unparse(node.value) == "self"
                and node.attr in owner.model_fields
            ):
                self.found.add((owner, node.attr))

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id == "getattr":
            owner, name = self.type_of(node.args[0]), node.args[1]
            if isinstance(name, ast.Constant):
                self._read_path(owner, name.value)
            else:
                self._read_named(owner)
        if (
            isinstance(node.func, ast.Call)
            and isinstance(node.func.func, ast.Name)
            and node.func.func.id == "attrgetter"
        ):
            self._read_named(self.type_of(node.args[0]))
        self.generic_visit(node)

    def _read_named(self, owner: Any) -> None:
        paths = sorted(self.path.parent.rglob("*.py")) if owner is Algo else [self.path]
        for path in paths if _is_section(owner) else ():
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    self._read_path(owner, node.value)
                elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                    self._read_path(owner, node.target.id)

    def _read_path(self, owner: Any, path: str) -> None:
        for part in path.split("."):
            if not _is_section(owner) or part not in owner.model_fields:
                return
            self.found.add((owner, part))
            owner = owner.model_fields[part].annotation
