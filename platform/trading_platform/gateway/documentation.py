"""/docs: the OpenAPI document as one page without scripts or anything from elsewhere. Nginx shows it inside only."""

from __future__ import annotations

from html import escape
from typing import Any, Final

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code{font-family:ui-monospace,monospace}h2{margin-top:2.5rem;font-size:1.1rem}"
    "td,th{text-align:left;padding:.15rem 1rem .15rem 0;vertical-align:top;font-weight:normal}th{color:#666}"
)


def page(openapi: dict[str, Any]) -> str:
    """Every operation with its parameters, body and answers."""
    operations = [
        _operation(method.upper(), path, operation)
        for path, methods in sorted(openapi["paths"].items())
        for method, operation in methods.items()
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(openapi['info']['title'])}</title>"
        f"<style>{_STYLE}</style><h1>{escape(openapi['info']['title'])} {escape(openapi['info']['version'])}</h1>"
        "<p>Send the token of <code>POST /api/auth/login</code> as <code>Authorization: Bearer …</code>. "
        "Errors are problem documents (RFC 9457). The same as data: <a href=openapi.json>openapi.json</a>.</p>"
        f"{''.join(operations)}"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = [
        f"<tr><th>{escape(parameter['in'])}<td><code>{escape(parameter['name'])}</code><td>{escape(parameter.get('description', ''))}"
        for parameter in operation.get("parameters", [])
    ]
    if body := operation.get("requestBody"):
        rows.append(f"<tr><th>body<td colspan=2><code>{escape(_schema_of(body))}</code>")
    rows += [
        f"<tr><th>{escape(status)}<td><code>{escape(_schema_of(response))}</code><td>{escape(response.get('description', ''))}"
        for status, response in operation.get("responses", {}).items()
    ]
    described = escape(operation.get("description") or operation.get("summary", ""))
    return f"<h2><code>{method} {escape(path)}</code></h2><p>{described}<table>{''.join(rows)}</table>"


def _schema_of(holder: dict[str, Any]) -> str:
    """The name of what is sent: the last part of its reference."""
    for content in holder.get("content", {}).values():
        reference = content.get("schema", {}).get("$ref", "")
        return str(reference).rsplit("/", 1)[-1]
    return ""
