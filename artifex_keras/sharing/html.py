"""HTML as a tree of elements: whatever is not an element itself is escaped."""

import html
import types

__all__ = ["Markup", "element", "joined", "page"]

VOID = ("img", "meta", "line", "path", "circle", "rect")
# No script, no frame, no request: whatever a text manages, a browser does nothing with it.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; form-action 'none'"


class Markup(str):
    """Text that is HTML already, made by `element`."""


def joined(*children):
    """Children one after the other as `Markup`; texts are escaped, None is left out."""
    flat = []
    for child in children:
        if isinstance(child, list | tuple | types.GeneratorType):
            flat.append(joined(*child))
        elif child is not None:
            flat.append(child if isinstance(child, Markup) else html.escape(_visible(str(child))))
    return Markup("".join(flat))


def _visible(text):
    """A text without the characters that no page may hold, or that turn the order of others."""
    return "".join(c if c in "\n\t" or c.isprintable() or c == "\u00a0" else "\ufffd" for c in text)


def element(tag, *children, **attributes):
    """An element with children and attributes; `class_` is `class`, `view_box` is `view-box`.

    Attributes that are None are left out.
    """
    pairs = (
        f' {_attribute(key)}="{html.escape(_visible(str(value)))}"'
        for key, value in attributes.items()
        if value is not None
    )
    begin = f"<{tag}{''.join(pairs)}>"
    return Markup(f"{begin[:-1]}/>" if tag in VOID else f"{begin}{joined(*children)}</{tag}>")


def _attribute(key):
    return {"viewBox": key}.get(key, key.rstrip("_").replace("_", "-"))


def page(title, style, *children):
    """A whole page without scripts and without requests, as text."""
    head = joined(
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        Markup(f"<style>{style}</style>"),
    )
    body = element("body", element("main", *children))
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>{body}</html>\n'
