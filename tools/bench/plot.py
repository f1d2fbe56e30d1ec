"""plot.py - a line plot as an SVG file: two lines, axes from zero, labels at the points.

Owns:      the drawing.
Does not:  measure, or need more than Python's own library.
"""
import math
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 72, 150, 48, 60
COLOURS = ("#1a73e8", "#9a6700")
GRID, INK = "#d8dee4", "#24292f"
STEPS_WANTED = 5


def nice_step(most):
    """A step of 1, 2, 2.5 or 5 times a power of ten that cuts 0 .. most into about five."""
    rough = max(most, 1e-9) / STEPS_WANTED
    power = 10 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)


def text(x, y, words, anchor="middle", size=13, colour=INK, more=""):
    return ('<text x="%.1f" y="%.1f" text-anchor="%s" font-size="%d" fill="%s"%s>%s</text>'
            % (x, y, anchor, size, colour, more, escape(words)))


def draw(title, x_title, points, names, evenly=False):
    """The SVG of points [(x, ours, peer)]. evenly: the x values are names at equal distances, not
    lengths."""
    step = nice_step(max(max(p[1:]) for p in points))
    high = step * math.ceil(max(max(p[1:]) for p in points) * 1.02 / step)
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    longest = max(p[0] for p in points) or 1

    def x_of(at):
        return LEFT + across * ((at + 0.5) / len(points) if evenly else points[at][0] / longest)

    def y_of(value):
        return TOP + down * (1 - value / high)

    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" '
           'font-family="sans-serif">' % (WIDTH, HEIGHT, WIDTH, HEIGHT),
           '<rect width="100%" height="100%" fill="#ffffff"/>',
           text(LEFT, 26, title, "start", 16, more=' font-weight="bold"')]
    for at in range(round(high / step) + 1):
        y = y_of(at * step)
        out.append('<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="%s"/>'
                   % (LEFT, LEFT + across, y, y, INK if at == 0 else GRID))
        out.append(text(LEFT - 8, y + 4, "%g" % (at * step), "end", 12))
    for at, point in enumerate(points):
        out.append('<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="%s"/>'
                   % (x_of(at), x_of(at), TOP + down, TOP + down + 5, INK))
        out.append(text(x_of(at), TOP + down + 20, "{:,}".format(point[0]), size=12))
    out.append(text(LEFT + across / 2, HEIGHT - 16, x_title))
    out.append(text(20, TOP + down / 2, "tokens/s",
                    more=' transform="rotate(-90 20 %.1f)"' % (TOP + down / 2)))
    ends = sorted((y_of(points[-1][i + 1]), i) for i in range(len(names)))
    apart = max(0.0, 16 - (ends[1][0] - ends[0][0])) / 2 if len(ends) == 2 else 0.0
    for order, (y, line) in enumerate(ends):
        colour = COLOURS[line]
        where = [(x_of(at), y_of(p[line + 1])) for at, p in enumerate(points)]
        out.append('<polyline fill="none" stroke="%s" stroke-width="2.5" points="%s"/>'
                   % (colour, " ".join("%.1f,%.1f" % w for w in where)))
        for (x, dot), point in zip(where, points):
            out.append('<circle cx="%.1f" cy="%.1f" r="4" fill="%s"/>' % (x, dot, colour))
            above = point[line + 1] >= point[2 - line]
            out.append(text(x, dot + (-10 if above else 20), "%.0f" % point[line + 1], size=12,
                            colour=colour))
        out.append(text(x_of(len(points) - 1) + 24, y + 4 + (apart if order else -apart),
                        names[line], "start", 13, colour))
    return "\n".join(out + ["</svg>", ""])
