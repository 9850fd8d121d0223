"""How the report looks: one style sheet, for light and dark, wide and narrow."""

from blt_jax.reports.figures.style import BLACK, SHOT_LOOKS, look

# Colours of Okabe and Ito, and a lighter one of the same hue for a dark ground.
_ON_DARK = {
    "#0072B2": "#4FA8E0",
    "#D55E00": "#FF8548",
    "#009E73": "#34C79C",
    "#CC79A7": "#E6A1C8",
    "#E69F00": "#F2B84B",
    "#56B4E9": "#8FD0F5",
    BLACK: "#E4E7EA",
}
RUN_STYLES = 7  # runs that differ in colour; then dashes tell them apart as well
# Parts of a run's time, in the order of `history.TIME_PARTS`.
_TIME_COLOURS = ("#D55E00", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
_DASHES = ("none", "7 3", "2 2.5", "9 3 2 3")

_SHEET = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);line-height:1.55;
 font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
main,header,nav ul,footer{max-width:1120px;margin:0 auto;padding:0 24px}
header{padding-top:44px}
h1{font-size:2rem;line-height:1.2;margin:0 0 .4rem;letter-spacing:-.015em;
 overflow-wrap:anywhere}
h2{font-size:1.3rem;margin:0 0 .3rem;letter-spacing:-.01em}
h3{font-size:1rem;margin:1.4rem 0 .3rem}
p{margin:.4rem 0;max-width:46rem;overflow-wrap:anywhere}
.lead{font-size:1.1rem}
.kicker{color:var(--accent);font-weight:600;margin:0}
.note,.faint,figcaption,footer{color:var(--faint)}
a{color:var(--accent)}
code{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:.88em}
nav{margin-top:20px;border-block:1px solid var(--rule)}
nav ul{display:flex;flex-wrap:wrap;gap:2px 20px;list-style:none;padding-block:8px;
 font-size:.92rem}
nav a{text-decoration:none;display:inline-block;padding:4px 0}
nav a:hover{text-decoration:underline}
section{padding:30px 0 26px;border-bottom:1px solid var(--rule)}
section:last-child{border:0}
.figures{display:grid;gap:18px 26px;margin-top:14px;
 grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr))}
figure{margin:0;min-width:0;max-width:480px}
figcaption{font-size:.88rem;margin-bottom:4px}
figcaption b{color:var(--ink);font-size:.95rem}
.chart{display:block;width:100%;height:auto;overflow:visible}
.chart text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
 fill:var(--faint)}
.chart .label{fill:var(--ink)}
.grid{stroke:var(--rule)}
.axis{stroke:var(--faint);fill:none}
.divide{stroke:var(--faint);stroke-dasharray:2 3}
.diagonal{--c:var(--faint);--d:2 3}
.line{fill:none;stroke:var(--c);stroke-width:1.8;stroke-linejoin:round;
 stroke-dasharray:var(--d,none)}
.dot{fill:var(--c)}
.points .dot{fill-opacity:.7}
.bar{fill:var(--c)}
.ground{fill:none;stroke:var(--rule)}
.cell{fill:var(--accent)}
.legend{display:flex;flex-wrap:wrap;gap:2px 18px;list-style:none;margin:12px 0 0;
 padding:0;font-size:.92rem}
.legend svg{width:30px;height:12px;margin-right:6px;vertical-align:-1px}
.told{margin:14px 0}
.told>p{font-size:.88rem}
.scroll{overflow-x:auto;max-width:max-content;width:100%}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.94rem}
th,td{padding:6px 14px 6px 0;text-align:right;border-bottom:1px solid var(--rule);
 white-space:nowrap;vertical-align:baseline}
thead th{border-bottom:1px solid var(--faint);font-weight:600}
th:first-child{text-align:left;position:sticky;left:0;background:var(--ground);
 font-weight:600;max-width:20rem;white-space:normal;overflow-wrap:break-word;
 min-width:5rem}
td.text,th.text{text-align:left}
td:last-child,th:last-child{padding-right:2px}
.tables{display:flex;flex-wrap:wrap;gap:0 48px}
.tables .told{min-width:0}
.delta{color:var(--faint);margin-left:.45em}
.missing{border-left:3px solid var(--accent);padding:2px 0 2px 14px}
.missing code{display:block;overflow-x:auto;white-space:nowrap;margin-top:4px}
.triples{display:grid;gap:16px 28px;margin-top:14px;
 grid-template-columns:repeat(auto-fill,minmax(min(100%,330px),1fr))}
.triple div{display:grid;grid-template-columns:repeat(3,1fr);gap:6px}
.triple img{width:100%;aspect-ratio:1;image-rendering:pixelated;display:block;
 border-radius:3px;background:var(--rule)}
.triple figcaption{margin-top:6px}
.stack{display:flex;height:22px;border-radius:3px;overflow:hidden;gap:1px}
.stack span{background:var(--c);min-width:1px}
.swatch{display:inline-block;width:.75em;height:.75em;border-radius:2px;
 margin-right:.5em;background:var(--c)}
details{margin-top:14px}
summary{cursor:pointer;color:var(--accent)}
pre{overflow-x:auto;font-size:.82rem;line-height:1.45}
footer{padding-block:20px 40px;font-size:.88rem}
@media (max-width:600px){main,header,nav ul,footer{padding-inline:16px}
 header{padding-top:24px}h1{font-size:1.6rem}section{padding:24px 0 20px}
 th:first-child{max-width:9rem}td.text{white-space:normal;min-width:6rem}
 .lead{font-size:1.02rem}}
@media print{nav{display:none}section,figure{break-inside:avoid}}
"""


def style_sheet() -> str:
    """The whole style sheet; colours as variables, dark ones where that is wished."""
    return (
        "<style>:root{color-scheme:light dark;--ground:#fff;--ink:#1b1f24;"
        "--faint:#5b636c;--rule:#e1e4e8;--accent:#0066a1}"
        f"{_colours(dark=False)}{_SHEET}"
        "@media (prefers-color-scheme:dark){:root{--ground:#14171a;--ink:#e8eaed;"
        "--faint:#a2a9b1;--rule:#2d3339;--accent:#62b5f0}"
        f"{_colours(dark=True)}}}</style>"
    )


def run_style(number: int) -> str:
    """The class of the number-th run's series."""
    return f"r{number % RUN_STYLES} d{number // RUN_STYLES % len(_DASHES)}"


def _colours(*, dark: bool) -> str:
    named = {f"g-{name}": one.colour for name, one in SHOT_LOOKS.items()}
    named |= {f"r{number}": look(number).colour for number in range(RUN_STYLES)}
    named |= {f"t{number}": colour for number, colour in enumerate(_TIME_COLOURS)}
    rules = [f".{n}{{--c:{_ON_DARK[c] if dark else c}}}" for n, c in named.items()]
    if not dark:
        rules += [f".d{n}{{--d:{dashes}}}" for n, dashes in enumerate(_DASHES)]
        rules.append(".g-overall{--d:5 3}")
    return "".join(rules)
