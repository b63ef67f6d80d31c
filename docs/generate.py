"""Pages made of the code's own docstrings: rules, errors, the API. Run by mkdocs, never by hand."""

import ast
from pathlib import Path

import mkdocs_gen_files

import firstlight
from firstlight.diagnosis import all_rules

SOURCE = Path(firstlight.__file__).parent


def rules() -> str:
    """One section for each rule: its docstring, as `firstlight explain` prints it."""
    parts = ["# Rules of check\n\n`firstlight explain CODE` prints the same texts.\n"]
    parts += [f"## {rule.code} {rule.name}\n\n{rule.page()}\n" for rule in all_rules()]
    return "\n".join(parts)


def errors() -> str:
    """Every error that can be raised, by its slug: the cause and the way out, as the code says them."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for file in sorted(SOURCE.rglob("*.py")):
        for call in ast.walk(ast.parse(file.read_text("utf-8"))):
            slug = _slug(call)
            if isinstance(call, ast.Call) and slug and len(call.args) >= 2:
                where = file.relative_to(SOURCE).with_suffix("").as_posix().replace("/", ".")
                found.setdefault(slug, []).append((_text(call.args[0]), _text(call.args[1]), where))
    head = "# Errors\n\nEvery message has the call, the cause and the way out; its slug (`error.slug`) names it here.\n"
    parts = [head]
    for slug, places in sorted(found.items()):
        parts.append(f"## {slug}\n")
        parts += [f"- {cause}\n\n    **Way out:** {way} (`{where}`)\n" for cause, way, where in dict.fromkeys(places)]
    return "\n".join(parts)


def _slug(call: ast.AST) -> str:
    if not isinstance(call, ast.Call):
        return ""
    values = [word.value for word in call.keywords if word.arg == "slug"]
    values += (
        [call.args[2]] if len(call.args) == 3 and isinstance(call.func, ast.Name) and call.func.id == "_error" else []
    )
    return next((v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)), "")


def _text(node: ast.AST) -> str:
    """A message as written, with what is filled in shown by its expression."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            f"`{ast.unparse(v.value)}`" if isinstance(v, ast.FormattedValue) else _text(v) for v in node.values
        )
    return f"`{ast.unparse(node)}`"


def api() -> str:
    """Every public name."""
    return "# API\n\n" + "\n".join(f"::: firstlight.{name}\n" for name in sorted(firstlight.__all__))


for page, text in {"rules.md": rules(), "errors.md": errors(), "api.md": api()}.items():
    with mkdocs_gen_files.open(page, "w") as file:
        file.write(text)
