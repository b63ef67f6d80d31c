"""``firstlight explain CODE``."""

import click


@click.command("explain")
@click.argument("code", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print code, name and text as JSON.")
def command(code: str | None, as_json: bool) -> int:
    """Explain a rule of `firstlight check`: what it measures, what is expected and why, usual causes, what mends it.

    CODE is a rule's code or name (FL201, symmetric-units); without it, all rules are listed.
    """
    from firstlight.cli.shared import print_json
    from firstlight.diagnosis import all_rules, find_rule

    rules = all_rules() if code is None else (find_rule(code),)
    if as_json:
        print_json([{"code": rule.code, "name": rule.name, "text": rule.page()} for rule in rules])
    elif code is None:
        for rule in rules:
            click.echo(f"{rule.code}  {rule.name:28s} {rule.page().splitlines()[0]}")
    else:
        from rich.console import Console
        from rich.markdown import Markdown

        Console().print(Markdown(f"# {rules[0].code} {rules[0].name}\n\n{rules[0].page()}"))
    return 0
