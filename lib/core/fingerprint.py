"""A hash of the code that makes an artifact: the builder and every definition that it reaches.

The files are parsed, never imported. Comments, docstrings, annotations, the names of modules and
functions and the aliases of imports do not count; a changed constant, default or statement does.
Code that only moves data (PLUMBING) is left out, and so are installed packages, whose versions the
manifest records.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import symtable
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lib.core.paths import ROOT

PLUMBING = "store files executor cluster workers progress paths fingerprint".split()
PLUMBING = {f"lib.core.{name}" for name in PLUMBING}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Stamp = tuple[int, int]  # modification time in ns, bytes


class CodeError(RuntimeError):
    """The code of a builder cannot be read; the message says why."""


@dataclass
class Module:
    """The top-level names of one file: statements that define them, and what imports stand for."""

    name: str
    path: Path
    stamp: Stamp
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, str] = field(default_factory=dict)  # local name -> dotted name


@dataclass(frozen=True)
class Definition:
    """A top-level name of a module of this checkout; the name "*" stands for all of them."""

    module: str
    name: str


def source_file(module: str, root: Path = ROOT) -> Path | None:
    """The file of a module of this checkout, None for any other module."""
    if not module or not all(part.isidentifier() for part in module.split(".")):
        return None
    if not (root / module.partition(".")[0] / "__init__.py").is_file():
        return None
    path = root.joinpath(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)


def fingerprint(builder: str, root: Path = ROOT) -> str:
    """16 hex digits over the code that `module:function` reaches; renewed when a file changed."""
    cached = _computed.get((builder, root))
    if cached and all(_stamp(path) == stamp for path, stamp in cached[1].items()):
        return cached[0]
    if any(_stamp(path) != module.stamp for path, module in _parsed.items()):
        _resolved.clear()  # names may lead elsewhere now
    module, _, function = builder.partition(":")
    closure = Closure(root)
    closure.number(Definition(module, function))
    value = hashlib.sha256("\n".join(closure.texts()).encode()).hexdigest()[:16]
    _computed[builder, root] = (
        value,
        {read.path: read.stamp for read in closure.modules.values() if read},
    )
    return value


def reached(cells: list[str], root: Path = ROOT) -> dict[Path, str]:
    """Of each file whose code a notebook's cells reach, a hash of what they reach there."""
    from IPython.core.inputtransformer2 import TransformerManager  # cells may hold magics

    source = "\n".join(TransformerManager().transform_cell(cell) for cell in cells)
    closure, function = Closure(root), ast.parse("def cells(): pass").body[0]
    try:
        function.body = ast.parse(source).body or function.body
    except SyntaxError:
        return {}  # running the notebook says where
    notebook = Module("notebook", root / "notebook", (0, 0))
    closure.modules[notebook.name] = notebook
    references: dict[Definition, int] = {}
    closure.normalised(notebook, function, references)
    for definition in references:
        closure.number(definition)
    texts: dict[str, list[str]] = {}
    for definition, (text, used) in closure.walk():
        names = [f"{other.module}.{other.name}" for other in used]
        texts.setdefault(definition.module, []).append(" ".join([text, definition.name, *names]))
    files = {closure.module(name).path: "\n".join(sorted(code)) for name, code in texts.items()}
    return {path: hashlib.sha256(code.encode()).hexdigest()[:16] for path, code in files.items()}


def plain_code(path: Path) -> str:
    """A file's code without comments, docstrings and annotations."""
    return ast.unparse(_Plain().visit(ast.parse(path.read_text(encoding="utf-8"))))


_computed: dict[tuple[str, Path], tuple[str, dict[Path, Stamp]]] = {}
_parsed: dict[Path, Module] = {}
_resolved: dict[
    tuple[Path, Definition], tuple[str, list[Definition], dict[str, Module | None]]
] = {}


def kind_of(builder: str, root: Path = ROOT) -> str | None:
    """The kind in `@artifact("kind")` above `module:function`, None without such a builder."""
    module, _, function = builder.partition(":")
    path = source_file(module, root)
    statements = _read(module, path).definitions.get(function, []) if path else []
    calls = [
        call
        for node in statements
        if isinstance(node, FUNCTIONS)
        for call in node.decorator_list
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("artifact")
    ]
    return next(
        (
            call.args[0].value
            for call in calls
            if call.args and isinstance(call.args[0], ast.Constant)
        ),
        None,
    )


class Closure:
    """The definitions that a builder reaches, numbered in the order in which they are met."""

    def __init__(self, root: Path):
        self.root = root
        self.modules: dict[str, Module | None] = {}
        self.numbers: dict[Definition, int] = {}

    def module(self, name: str) -> Module | None:
        if name not in self.modules:
            path = source_file(name, self.root)
            self.modules[name] = _read(name, path) if path else None
        return self.modules[name]

    def number(self, definition: Definition) -> str:
        return f"_{self.numbers.setdefault(definition, len(self.numbers))}"

    def walk(self) -> Iterator[tuple[Definition, tuple[str, list[Definition]]]]:
        """Each definition with its code and the definitions to which that refers."""
        done = 0
        while done < len(self.numbers):
            definition = list(self.numbers)[done]
            text, references = self.resolved(definition)
            for reference in references:
                self.number(reference)
            yield definition, (text, references)
            done += 1

    def texts(self) -> Iterator[str]:
        """The code of each definition with names that mean the same whatever they are called."""
        for definition, (text, references) in self.walk():
            numbers = " ".join(map(self.number, references))
            yield f"{self.number(definition)} {numbers}: {text}"

    def resolved(self, definition: Definition) -> tuple[str, list[Definition]]:
        """The code of a definition and the definitions to which it refers, in order of number."""
        if (self.root, definition) not in _resolved:
            references: dict[Definition, int] = {}
            other = Closure(self.root)  # to learn which modules decide what the names mean
            module, statements = other.module(definition.module), other.statements(definition)
            text = "\n".join(
                other.normalised(module, statement, references) for statement in statements
            )
            _resolved[self.root, definition] = text, list(references), other.modules
        text, references, modules = _resolved[self.root, definition]
        self.modules |= modules
        return text, references

    def statements(self, definition: Definition) -> list[ast.stmt]:
        module = self.module(definition.module)
        if definition.name == "*":
            return [node for nodes in module.definitions.values() for node in nodes]
        if definition.name not in module.definitions:
            raise CodeError(f"{definition.module} defines no {definition.name!r}")
        return module.definitions[definition.name]

    def normalised(
        self, module: Module, statement: ast.stmt, references: dict[Definition, int]
    ) -> str:
        """The statement as text; global names are numbers or, outside this checkout, full names."""
        plain = _Plain().visit(copy.deepcopy(statement))
        text = ast.unparse(ast.fix_missing_locations(plain))
        imports = dict(_imports(plain, module))
        names = _global_names(symtable.symtable(text, "definition", "exec")) | set(imports)
        if isinstance(plain, (*FUNCTIONS, ast.ClassDef)):
            plain.name = "_"
        return ast.unparse(_Resolved(self, module.name, names, imports, references).visit(plain))

    def resolve(self, module: str, name: str, imports: dict[str, str]) -> str:
        """What a name of a module stands for: `lib.data.imageset.load`; itself if built in."""
        own = self.module(module)
        if name in imports:
            return imports[name]
        if name in own.definitions:
            return f"{module}.{name}"
        return own.imports.get(name, name)

    def locate(self, dotted: str) -> tuple[Definition | None, str]:
        """The definition to which a dotted name leads, and the attributes that are left over."""
        parts = dotted.split(".")
        end = next((i for i in range(len(parts), 0, -1) if self.module(".".join(parts[:i]))), 0)
        if not end:
            return None, dotted
        module, rest = self.module(".".join(parts[:end])), parts[end:]
        if not rest:
            return Definition(module.name, "*"), ""
        if rest[0] in module.definitions:
            return Definition(module.name, rest[0]), ".".join(rest[1:])
        if rest[0] in module.imports:
            return self.locate(".".join([module.imports[rest[0]], *rest[1:]]))
        return None, dotted


class _Plain(ast.NodeTransformer):
    """Removes what changes no result: docstrings, annotations, the decorator of a builder."""

    def _body(self, node):
        self.generic_visit(node)
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        if isinstance(node, ast.Module):
            return node
        node.decorator_list = [
            call
            for call in node.decorator_list
            if not (isinstance(call, ast.Call) and ast.unparse(call.func).endswith("artifact"))
        ]
        return node

    def visit_FunctionDef(self, node):
        node.returns = None
        return self._body(node)

    visit_AsyncFunctionDef = visit_FunctionDef
    visit_ClassDef = visit_Module = _body

    def visit_arg(self, node):
        node.annotation = None
        return node

    def visit_AnnAssign(self, node):
        self.generic_visit(node)
        node.annotation = ast.Constant(None)  # the field of a dataclass stays
        return node


class _Resolved(ast.NodeTransformer):
    """Replaces global names, alone or at the head of attributes, by what they stand for."""

    def __init__(
        self,
        closure: Closure,
        module: str,
        names: set[str],
        imports: dict[str, str],
        references: dict[Definition, int],
    ):
        self.closure, self.module, self.names, self.imports = closure, module, names, imports
        self.references = references

    def _named(self, node: ast.expr, name: str, attributes: list[str]) -> ast.expr | None:
        """The node that replaces a name with attributes, None where the name is local."""
        if name not in self.names:
            return None
        dotted = ".".join([self.closure.resolve(self.module, name, self.imports), *attributes])
        definition, rest = self.closure.locate(dotted)
        head = self._head(definition) if definition else ""
        return ast.copy_location(ast.Name(".".join(filter(None, [head, rest]))), node)

    def visit_Name(self, node):
        return self._named(node, node.id, []) or node

    def visit_Attribute(self, node):
        attributes, inner = [node.attr], node.value
        while isinstance(inner, ast.Attribute):
            attributes.insert(0, inner.attr)
            inner = inner.value
        replaced = self._named(node, inner.id, attributes) if isinstance(inner, ast.Name) else None
        return replaced or self.generic_visit(node)

    def _head(self, definition: Definition) -> str:
        """What stands for a definition; other builders have their own keys and count as kinds."""
        kind = kind_of(f"{definition.module}:{definition.name}", self.closure.root)
        if kind or definition.module in PLUMBING:
            return kind or f"plumbing.{definition.name}"
        return f"_{self.references.setdefault(definition, len(self.references))}"

    def visit_Import(self, node):
        return ast.copy_location(
            ast.Pass(), node
        )  # what the names stand for is written where they are used

    visit_ImportFrom = visit_Import


def _global_names(table: symtable.SymbolTable) -> set[str]:
    """Names that a definition takes from its module or from the builtins."""
    top = table.get_type() == "module"
    names = {symbol.get_name() for symbol in table.get_symbols() if top or symbol.is_global()}
    return names.union(*(_global_names(child) for child in table.get_children()))


def _imports(tree: ast.AST, module: Module) -> Iterator[tuple[str, str]]:
    """Names that imports anywhere in the tree bind, and the dotted name of each."""
    package = module.name if module.path.name == "__init__.py" else module.name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield (
                    name.asname or name.name.partition(".")[0],
                    name.name if name.asname else name.name.partition(".")[0],
                )
        elif isinstance(node, ast.ImportFrom):
            above = (
                package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            )
            source = ".".join([*above, *filter(None, [node.module])])
            for name in node.names:
                yield name.asname or name.name, f"{source}.{name.name}"


def _read(name: str, path: Path) -> Module:
    """A parsed file; refused where it changed after its import: the old code would run."""
    stamp, parsed = _stamp(path), _parsed.get(path)
    if parsed and parsed.stamp == stamp and parsed.name == name:
        return parsed
    module = Module(name, path, stamp)
    for statement in ast.parse(path.read_text(encoding="utf-8"), str(path)).body:
        _index(module, statement)
    loaded = getattr(sys.modules.get(name), "__file__", None) == str(path)
    if parsed and loaded and _plain_text(parsed) != _plain_text(module):
        raise CodeError(
            f"{path} changed after this process loaded it. "
            "Restart the kernel, so that the new code runs"
        )
    _parsed[path] = module
    return module


def _plain_text(module: Module) -> str:
    """All that can change a result; an edited comment needs no new kernel."""
    statements = [node for nodes in module.definitions.values() for node in nodes]
    texts = [ast.unparse(_Plain().visit(copy.deepcopy(node))) for node in statements]
    return repr((texts, module.imports))


def _index(module: Module, statement: ast.stmt) -> None:
    """Enter a top-level statement under each name that it defines or changes."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        module.imports.update(_imports(statement, module))
        return
    if isinstance(statement, ast.If) and "__main__" in ast.unparse(statement.test):
        return
    if isinstance(statement, ast.If | ast.Try | ast.With | ast.For | ast.While):
        module.imports.update(_imports(statement, module))
    for name in dict.fromkeys(_bound(statement)):
        module.definitions.setdefault(name, []).append(statement)


def _bound(node: ast.AST) -> Iterator[str]:
    """Names that a statement binds or changes: `x = 1`, `x.y = 1`, `x.append(1)`, `def x`."""
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            yield from _heads(target)
    elif isinstance(node, ast.Expr):
        if isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
            yield from _heads(node.value.func)
    elif isinstance(node, ast.stmt):
        yield from (
            name
            for child in ast.walk(node)
            if child is not node and isinstance(child, ast.stmt)
            for name in _bound(child)
        )


def _heads(target: ast.expr) -> Iterator[str]:
    """The names at the head of an assignment's target."""
    if isinstance(target, ast.Tuple | ast.List):
        for element in target.elts:
            yield from _heads(element)
    elif isinstance(target, ast.Name):
        yield target.id
    elif isinstance(target, ast.Attribute | ast.Subscript | ast.Starred):
        yield from _heads(target.value)


def _stamp(path: Path) -> Stamp:
    if not path.is_file():
        return 0, 0
    status = path.stat()
    return status.st_mtime_ns, status.st_size
