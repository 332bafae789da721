"""The look of the HTML pages: text that reads well on a screen, a phone and paper, and no file beside the page."""

STYLE = """
:root { --ink: #1d2733; --soft: #5c6773; --line: #dde2e7; --ours: #c23b22; --shade: #f3f5f7; }
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; color: var(--ink);
  max-width: 1180px; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .3rem; border-top: 1px solid var(--line); padding-top: 1.2rem; }
p, li { max-width: 52rem; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
code { background: var(--shade); padding: .15rem .35rem; border-radius: 3px; font-size: .85rem;
  overflow-wrap: anywhere; }
figure { margin: .4rem 0 0; }
figure svg { max-width: 100%; height: auto; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .55rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; vertical-align: bottom; border-bottom: 2px solid var(--line); }
th.text, td.text { text-align: left; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; font-size: .88rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
"""

DARK_AND_PAPER = """
:root { color-scheme: light dark; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e7eb; --soft: #9aa5b0; --line: #36404a; --ours: #ff8a73; --shade: #232b33; }
  body { background: #14191e; }
}
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; } }
@media print { h2 { break-after: avoid; } figure, tr { break-inside: avoid; } .scroll { overflow: visible; } }
"""
"""For pages whose pictures bring their own background."""

HEADLINE = """
.headline { font-size: 2.6rem; font-weight: 650; margin: .6rem 0 0; line-height: 1.1; }
.headline small { font-size: 1rem; font-weight: 400; color: var(--soft); }
"""
"""One large number with its words beside it."""

TALL = """.tall { max-height: 34rem; overflow: auto; } @media print { .tall { max-height: none; } }
"""
"""A long table that scrolls by itself, but not on paper."""


def page_head(title: str, style: str) -> str:
    """A page's HTML down to the beginning of its body.

    Args:
        title: Or what stands for it in a template.
        style: After the look that all pages share.
    """
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}{style}</style>
</head>
<body>
"""
