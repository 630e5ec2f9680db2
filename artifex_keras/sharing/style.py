"""The style of a report: a column of cards, in light and dark, from a phone to a desk."""

__all__ = ["COLOURS", "STYLE", "colour_rules"]

# Of runs, in light and in dark; they differ in lightness too.
COLOURS = (
    ("#1f5fa8", "#79b0f5"),
    ("#c8590a", "#ffa45c"),
    ("#1a7f4b", "#5fd39a"),
    ("#b02a6f", "#ff8fc4"),
    ("#6a42c2", "#b8a0ff"),
    ("#0d7385", "#5bd0e2"),
    ("#85590f", "#dcb266"),
    ("#59626e", "#b6bfca"),
)


def colour_rules(count):
    """The variables `--c0`, `--c1`, ... of so many colours, in light and in dark."""
    pairs = [COLOURS[i] if i < len(COLOURS) else _further(i) for i in range(count)]
    light, dark = ("".join(f"--c{i}:{pair[k]};" for i, pair in enumerate(pairs)) for k in (0, 1))
    return f":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"


def _further(index):
    hue = round(index * 137.5) % 360
    return f"hsl({hue} 65% 38%)", f"hsl({hue} 75% 72%)"


STYLE = """
:root{--page:#f6f7f9;--card:#fff;--ink:#1c2128;--soft:#5b6572;--line:#e2e6ea;--grid:#e9ecef;
--chip:#eef1f5;--note:#fff7e6;--noteline:#f0c36d}
@media(prefers-color-scheme:dark){:root{--page:#11151a;--card:#1a2027;--ink:#e6eaef;--soft:#9aa5b1;
--line:#2c343d;--grid:#2a323b;--chip:#242c35;--note:#2b2413;--noteline:#7a5f1e}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main{max-width:1120px;margin:0 auto;padding:32px 20px 48px}
header{margin-bottom:22px}
h1{font-size:clamp(23px,4.5vw,32px);line-height:1.2;margin:0 0 6px;letter-spacing:-.015em;
overflow-wrap:anywhere}
h2{font-size:18px;margin:36px 0 12px;letter-spacing:-.005em}
h3{font-size:15px;margin:20px 0 8px;overflow-wrap:anywhere}
p{margin:6px 0}.soft,figcaption,.unit{color:var(--soft)}
.card,figure,details{background:var(--card);border:1px solid var(--line);border-radius:10px}
.card{padding:14px 16px;overflow-x:auto}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(130px,1fr));gap:10px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:10px 14px}
.tile b{display:block;font-size:21px;font-weight:620;letter-spacing:-.01em;line-height:1.3;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.tile span{color:var(--soft);font-size:13px}
.notes{background:var(--note);border:1px solid var(--noteline);border-radius:10px;
padding:10px 16px;margin:14px 0}
.notes ul{margin:4px 0;padding-left:20px}.notes li{overflow-wrap:anywhere}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:12px}
figure{margin:0;padding:12px 14px 10px}
.charts b{font-weight:620;overflow-wrap:anywhere}
.legend{display:flex;flex-wrap:wrap;gap:2px 14px;font-size:13px;color:var(--soft);
font-variant-numeric:tabular-nums;margin:2px 0 6px}
.legend>span{white-space:nowrap;max-width:100%;overflow:hidden;text-overflow:ellipsis}
.key{display:inline-block;width:18px;height:0;border-top:3px solid var(--c);border-radius:2px;
vertical-align:middle;margin:0 5px 0 0}.legend .key.dashed{margin-left:9px}
.key.dashed{border-top:2px dashed var(--c);border-radius:0;width:21px}
svg{display:block;width:100%;height:auto}
svg text{fill:var(--soft);font:11px system-ui,sans-serif;font-variant-numeric:tabular-nums}
.grid{stroke:var(--grid);stroke-width:1}
.curve{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round;stroke-linecap:round}
.curve.dashed{stroke-dasharray:5 4;stroke-width:1.6}
circle{fill:var(--c)}.near{fill:transparent}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:6px 14px 6px 0;border-bottom:1px solid var(--line);
vertical-align:top}
tr:last-child td{border-bottom:0}
th{color:var(--soft);font-weight:500;font-size:13px;white-space:nowrap}
td.number,th.number{text-align:right}td.number{overflow-wrap:normal}td .unit{white-space:nowrap}
td{overflow-wrap:anywhere;min-width:64px}td:first-child{min-width:110px}
code,pre{font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0;max-height:420px;overflow-y:auto}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr));gap:12px;
align-items:start}
.pictures img{display:block;width:100%;height:auto;background:#fff;border-radius:6px}
.pictures figcaption{font-size:13px;margin-top:8px;overflow-wrap:anywhere}
details{padding:10px 16px;margin:10px 0}summary{cursor:pointer;font-weight:600}
details[open] summary{margin-bottom:8px}
.command{margin-top:12px}
footer{margin-top:40px;color:var(--soft);font-size:13px}
@media(max-width:520px){main{padding:20px 12px 36px}.card{padding:10px 12px}
.tiles{grid-template-columns:1fr 1fr}}
@media print{body{background:#fff}details{break-inside:avoid}figure{break-inside:avoid}}
"""
