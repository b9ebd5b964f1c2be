"""HTML, safe by construction: `tag` escapes every text that is not `Markup`, and a page asks nothing of the network."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

_VOID = frozenset(('img', 'meta', 'link'))


class Markup(str):
    """A string that is HTML already."""

    __slots__ = ()


def join(*parts: Any) -> Markup:
    """The parts one after the other; text is escaped, None left out, sequences flattened."""
    pieces: list[str] = []
    for part in parts:
        if part is None:
            continue
        if isinstance(part, Markup):
            pieces.append(part)
        elif isinstance(part, list | tuple):
            pieces.append(join(*part))
        else:
            pieces.append(html.escape(str(part)))
    return Markup(''.join(pieces))


def tag(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """An element. `class_='x'` is the attribute class; attributes that are None are left out; children as in `join`."""
    written = ''.join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"' for key, value in attributes.items() if value is not None
    )
    end = '' if name in _VOID else f'{join(*children)}</{name}>'
    return Markup(f'<{name}{written}>{end}')


def section(title: str, *children: Any, lead: str | None = None) -> tuple[str, Markup]:
    """A titled part of a page: its title and its body; parts whose children are all None are dropped by `page`."""
    children = tuple(child for child in children if child is not None)
    if not children:
        return title, Markup('')
    return title, join(tag('p', lead, class_='lead') if lead else None, *children)


def table(headers: Sequence[Any], rows: Iterable[Sequence[Any]], *, numeric: Iterable[int] = (), caption: str | None = None) -> Markup:
    """A table that scrolls sideways where it is too wide; the columns `numeric` are aligned to the right; no headers, no head."""
    right = frozenset(numeric)

    def cells(name: str, row: Sequence[Any]) -> Markup:
        return tag('tr', [tag(name, cell, class_='n' if i in right else None) for i, cell in enumerate(row)])

    body = tag('tbody', [cells('td', row) for row in rows])
    head = tag('thead', cells('th', headers)) if headers else None
    return tag('div', tag('table', tag('caption', caption) if caption else None, head, body), class_='wide')


def figure(uri: str, caption: str, *, alt: str | None = None) -> Markup:
    """A plot from a data URI with its caption."""
    return tag('figure', tag('img', src=uri, alt=alt or caption, class_='plot'), tag('figcaption', caption))


def cards(items: Iterable[tuple[str, Any, Any]]) -> Markup:
    """Headline numbers: (name, figure, what it is to be compared with)."""
    return tag(
        'div',
        [
            tag('div', tag('div', name, class_='name'), tag('div', value, class_='value'), tag('div', note, class_='note'), class_='card')
            for name, value, note in items
        ],
        class_='cards',
    )


def details(summary: str, *children: Any) -> Markup:
    """A part that opens on a click."""
    return tag('details', tag('summary', summary), *children)


def page(title: str, subtitle: str, sections: Iterable[tuple[str, Markup]]) -> str:
    """A whole self-contained document: sections in order with a table of contents; those without a body are left out."""
    parts = [(f's{i}', name, body) for i, (name, body) in enumerate(sections) if body]
    contents = tag('nav', [tag('a', name, href=f'#{key}') for key, name, _ in parts], aria_label='Contents')
    body = join(
        tag('header', tag('h1', title), tag('p', subtitle, class_='lead')),
        contents,
        tag('main', [tag('section', tag('h2', name), content, id=key) for key, name, content in parts]),
    )
    head = join(
        tag('meta', charset='utf-8'),
        # The browser itself refuses whatever is not in the file.
        Markup('<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src \'unsafe-inline\'">'),
        tag('meta', name='viewport', content='width=device-width, initial-scale=1'),
        tag('meta', name='color-scheme', content='light dark'),
        tag('title', title),
        # An empty icon: otherwise a browser asks the server for one.
        tag('link', rel='icon', href='data:,'),
        tag('style', Markup(CSS)),
    )
    return f'<!DOCTYPE html>\n{tag("html", tag("head", head), tag("body", body), lang="en")}\n'


# Plots are drawn for a white ground; in the dark they are inverted and their hues turned back.
CSS = """
:root { --ink: #1b1f24; --soft: #5b6570; --line: #dde2e7; --ground: #fff; --raised: #f6f8fa; --accent: #0072b2; --good: #00754f; --bad: #b3470a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #9aa4ae; --line: #343b43; --ground: #14171a; --raised: #1d2226; --accent: #6db6e8; --good: #3fc294; --bad: #f08c4f; }
  img.plot { filter: invert(1) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 1080px; color: var(--ink); background: var(--ground);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .7rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: .6rem 0 .3rem; }
p { margin: .4rem 0; max-width: 75ch; }
.lead { color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin-top: 1rem; font-size: .9rem; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: .8rem; }
.card { background: var(--raised); border: 1px solid var(--line); border-radius: 8px; padding: .8rem 1rem; }
.card .name { color: var(--soft); font-size: .85rem; }
.card .value { font-size: 1.65rem; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums; }
.card .note { color: var(--soft); font-size: .85rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .soft { color: var(--soft); }
.wide { overflow-x: auto; margin: .6rem 0; max-height: 48rem; overflow-y: auto; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td { padding: .28rem .8rem .28rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; position: sticky; top: 0; background: var(--ground); }
.n { text-align: right; white-space: nowrap; }
code, pre { font: .86em/1.45 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
code { overflow-wrap: anywhere; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: .4rem 1.4rem; align-items: start; }
figure { margin: .5rem 0; } figcaption { color: var(--soft); font-size: .88rem; }
img.plot { max-width: 100%; height: auto; display: block; }
.mistakes { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 1rem .9rem; }
.mistakes figcaption strong { color: var(--ink); }
.mistakes figure { margin: 0; font-size: .85rem; overflow-wrap: anywhere; }
.mistakes .frame { background: var(--raised); border: 1px solid var(--line); border-radius: 6px; display: flex; justify-content: center; padding: 6px; }
.mistakes img { height: 128px; max-width: 100%; object-fit: contain; image-rendering: auto; } .mistakes img.tiny { image-rendering: pixelated; }
.said { max-width: 38rem; overflow-wrap: anywhere; }
.from { color: var(--soft); font-size: .76rem; }
.sentence { margin: .7rem 0; padding: .5rem .8rem; background: var(--raised); border: 1px solid var(--line); border-radius: 6px; line-height: 1.9; }
.sentence .line { display: grid; grid-template-columns: 5.2rem 1fr; align-items: baseline; } .sentence .from { line-height: 1.4; }
.sentence .which { color: var(--soft); font-size: .82rem; }
mark { color: inherit; background: var(--ground); border: 1px solid var(--line); border-bottom: 3px solid var(--e); border-radius: 4px; padding: 0 .3em; }
mark small { color: var(--soft); font-size: .72em; margin-left: .45em; } mark.wrong { border-color: var(--e); outline: 1px solid var(--e); font-weight: 600; }
.e0 { --e: #0072b2; } .e1 { --e: #d55e00; } .e2 { --e: #009e73; } .e3 { --e: #cc79a7; } .e4 { --e: #e69f00; } .e5 { --e: #56b4e9; } .e6 { --e: #b8a800; }
details { margin: .7rem 0; } summary { cursor: pointer; color: var(--accent); }
ul.columns { columns: 20rem; } ul.columns li { overflow-wrap: anywhere; }
ul { padding-left: 1.2rem; margin: .4rem 0; }
"""
