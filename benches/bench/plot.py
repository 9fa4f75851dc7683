"""Horizontal bars as SVG, readable on light and on dark."""
from html import escape

STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #24292f } .title { font-weight: 600; font-size: 14px } .value, .small { fill: #57606a; font-size: 11px }
.axis { stroke: #d0d7de } .spread { stroke: #24292f; stroke-width: 1.2 }
.c0 { fill: #0969da } .c1 { fill: #54aeff } .c2 { fill: #8250df } .c3 { fill: #afb8c1 } .c4 { fill: #bf8700 } .c5 { fill: #1a7f37 } .c6 { fill: #cf222e }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .value, .small { fill: #9198a1 } .axis { stroke: #3d444d } .spread { stroke: #e6edf3 }
.c0 { fill: #4493f8 } .c1 { fill: #1f6feb } .c2 { fill: #ab7df8 } .c3 { fill: #656c76 } .c4 { fill: #d29922 } .c5 { fill: #3fb950 } .c6 { fill: #f85149 } }
</style>"""
WIDTH, LEFT, RIGHT, BAR, GAP, HEAD = 860, 220, 130, 16, 6, 30


class Plot:
    """Groups of bars, one above the other; each group has its own scale."""

    def __init__(self, title):
        self.parts, self.height = [], 0
        self.text(0, 18, title, "title")
        self.height = 34

    def text(self, x, y, words, kind="", anchor="start"):
        self.parts.append(f'<text x="{x:.0f}" y="{y:.0f}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>')

    def bars(self, head, rows):
        """Rows are name, colour, value, smallest, largest and what is written behind the bar."""
        self.text(0, self.height + 14, head, "title")
        y, scale = self.height + HEAD, (WIDTH - LEFT - RIGHT) / max(row[4] for row in rows)
        for name, colour, value, low, high, note in rows:
            self.text(LEFT - 8, y + BAR - 4, name, anchor="end")
            self.parts.append(f'<rect x="{LEFT}" y="{y}" width="{max(1, value * scale):.1f}" height="{BAR}" rx="2" class="c{colour}"/>')
            middle, ends = y + BAR / 2, [LEFT + end * scale for end in (low, high)]
            self.parts.append(f'<path d="M{ends[0]:.1f} {middle}H{ends[1]:.1f}M{ends[0]:.1f} {middle - 3}v6M{ends[1]:.1f} {middle - 3}v6" class="spread"/>')
            self.text(LEFT + max(value, high) * scale + 6, y + BAR - 4, note, "value")
            y += BAR + GAP
        self.parts.append(f'<path d="M{LEFT} {self.height + HEAD - 4}V{y}" class="axis"/>')
        self.height = y + 12

    def stacks(self, legend, rows):
        """Rows are a name, its parts and what is written behind them."""
        x, y = 0, self.height + 14
        for colour, word in enumerate(legend):
            self.parts.append(f'<rect x="{x}" y="{y - 10}" width="10" height="10" class="c{colour}"/>')
            self.text(x + 14, y, word, "small")
            x += 34 + 6.5 * len(word)
        y, scale = y + 12, (WIDTH - LEFT - RIGHT) / max(sum(parts) for _, parts, _ in rows)
        for name, parts, note in rows:
            self.text(LEFT - 8, y + BAR - 4, name, anchor="end")
            x = LEFT
            for colour, part in enumerate(parts):
                self.parts.append(f'<rect x="{x:.1f}" y="{y}" width="{part * scale:.1f}" height="{BAR}" class="c{colour}"/>')
                x += part * scale
            self.text(x + 6, y + BAR - 4, note, "value")
            y += BAR + GAP
        self.height = y + 12

    def write(self, path):
        head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{self.height}" viewBox="0 0 {WIDTH} {self.height}">'
        with open(path, "w") as f:
            f.write("\n".join([head, STYLE, *self.parts, "</svg>"]) + "\n")
