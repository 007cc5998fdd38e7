"""Writes each role's table of variables into its README, from the role's argument specification.

    .venv/bin/python tests/static/role_tables.py [role …]

The table stands between two comments; a README without them gets it at its end. Nothing else is touched.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).parents[2] / "roles"
BEGIN, END = "<!-- variables -->", "<!-- /variables -->"


def table(options: dict[str, dict[str, Any]]) -> str:
    """A Markdown table, one row a variable."""
    rows = ["| variable | type | default | meaning |", "|---|---|---|---|"]
    for name, option in options.items():
        description = option["description"]
        text = " ".join((" ".join(description) if isinstance(description, list) else description).split())
        text = re.sub(r"\b[VCO]\(([^)]*)\)", r"`\1`", text)  # Ansible's markup
        rows.append(f"| `{name}` | {option.get('type', 'str')} | {default(option)} | {text} |".replace("||", "\\|\\|"))
    return "\n".join(rows)


def default(option: dict[str, Any]) -> str:
    if "default" not in option:
        return "required" if option.get("required") else "none"
    value = option["default"]
    text = " ".join(value.split()) if isinstance(value, str) else json.dumps(value)
    return f"`{text}`".replace("|", "\\|") if text else "empty"


def written(readme: str, options: dict[str, dict[str, Any]]) -> str:
    """The README with its table as the specification says."""
    if BEGIN not in readme:
        readme = f"{readme.rstrip()}\n\n## Variables\n\n{BEGIN}\n{END}\n"
    before, rest = readme.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    return f"{before}{BEGIN}\n{table(options)}\n{END}{after}"


def main(names: list[str]) -> None:
    for role in sorted(ROLES.iterdir()):
        readme, specification = role / "README.md", role / "meta/argument_specs.yml"
        if (names and role.name not in names) or not readme.exists() or not specification.exists():
            continue
        options = yaml.safe_load(specification.read_text())["argument_specs"]["main"].get("options") or {}
        text = readme.read_text()
        new = written(text, options) if options else text
        if new != text:
            readme.write_text(new)
            print(readme.relative_to(ROLES.parent))


if __name__ == "__main__":
    main(sys.argv[1:])
