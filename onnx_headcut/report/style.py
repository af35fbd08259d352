"""The page's style: light and dark by the reader's setting, for phones, and for paper."""

CSS = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2328; --faint: #59636e;
  --line: #d1d9e0; --soft: #f6f8fa; --accent: #0b62d6; --good: #1a7f37; --bad: #c4232c;
  --doubt: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --paper: #10151c; --ink: #e6edf3; --faint: #9aa5b1;
  --line: #38414c; --soft: #1a212a; --accent: #6cb0ff; --good: #56d364; --bad: #ff8179;
  --doubt: #e3b341; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.25rem; max-width: 62rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line);
  padding-bottom: .25rem; }
p { margin: .5rem 0; } ul { margin: .5rem 0; padding-left: 1.25rem; }
li, dd, p { overflow-wrap: anywhere; }
.verdict { border: 2px solid; border-radius: .5rem; padding: .75rem 1rem; margin: 1rem 0; }
.verdict strong { font-size: 1.35rem; }
.passed { border-color: var(--good); } .passed strong { color: var(--good); }
.failed { border-color: var(--bad); } .failed strong { color: var(--bad); }
.inconclusive { border-color: var(--doubt); } .inconclusive strong { color: var(--doubt); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: .75rem 0; }
dt { color: var(--faint); } dd { margin: 0; }
.faint { color: var(--faint); } .bad { color: var(--bad); font-weight: 600; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; min-width: 100%; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--faint); padding: .25rem 0; }
caption span { display: inline-block; position: sticky; left: 0; max-width: calc(100vw - 2.5rem); }
td:not(.number) { min-width: 6.5rem; }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
thead th { vertical-align: bottom; line-height: 1.25; }
tbody th { font-weight: 500; overflow-wrap: anywhere; min-width: 8rem; }
th.number, td.number { text-align: right; } td.number { white-space: nowrap; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
code { display: block; font: .88em/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
figure { margin: 1rem 0; } figcaption { color: var(--faint); font-size: .92rem; }
svg { max-width: 100%; height: auto; }
.scroll svg { min-width: 34rem; width: 100%; display: block; }
.plots svg { width: 100%; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: .75rem; }
.pair svg { width: 100%; display: block; border-radius: .3rem; }
.picture { break-inside: avoid; margin: 1.6rem 0; } .picture h3 { font-size: 1rem; margin: 0;
  color: var(--ink); overflow-wrap: anywhere; }
.switch { display: none; border: 0; margin: 0; padding: 0; font-size: .92rem; min-width: 0; }
.aloud { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%);
  white-space: nowrap; }
.switch label { display: inline-block; padding: .35rem .9rem .35rem 0; cursor: pointer; }
.switch input { accent-color: var(--accent); }
@supports selector(:has(a)) { @media screen { .switch { display: block; }
  .picture:has([value="original"]:checked) .cut, .picture:has([value="cut"]:checked) .original {
  display: none; }
  .picture:has(:checked:not([value="both"])) .pair { grid-template-columns: minmax(0, 42rem); } } }
.bar { display: inline-block; height: .8rem; background: var(--accent); min-width: 2px; }
details > summary { cursor: pointer; padding: .4rem 0; }
footer { margin-top: 3rem; color: var(--faint); font-size: .9rem; }
@media (max-width: 40rem) { body { padding: .8rem; } dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .4rem; } .pair { grid-template-columns: 1fr; } }
@media print { :root { color-scheme: light; --paper: #fff; --ink: #000; --faint: #444;
  --line: #bbb; --soft: #fff; --accent: #0b4fae; --good: #0a5c22; --bad: #a31118;
  --doubt: #6d4700; } body { max-width: none; padding: 0; font-size: 10pt; }
  h2, h2 + p, h3, caption { break-after: avoid; } h2 { margin-top: 1.4rem; }
  figure, table, tr { break-inside: avoid; } .scroll { overflow: visible; }
  .scroll svg { min-width: 0; }
  table { font-size: 8.5pt; } th, td { padding-right: .5rem; }
  tbody th, td:not(.number) { min-width: 0; }
  .pair p, .faint { font-size: 8.5pt; } summary { list-style: none; }
  details::details-content { content-visibility: visible; display: block; height: auto; } }
"""
