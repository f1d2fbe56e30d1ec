"""report.py - the table of a run: on the terminal, in docs/performance.md.

Owns:      the columns, how a number is written, the markers of the page.
Does not:  measure, or draw (plot.py).
"""
import os
import shutil

from base import ROOT, Failed

PAGE = os.path.join(ROOT, "docs", "performance.md")
OPEN, SHUT = "<!-- table -->", "<!-- /table -->"
HEADS = ("row", "figure", "unit", "ours", "peer", "ratio", "limit", "share", "goal", "met", "note")
RIGHT = {"ours", "peer", "ratio", "limit", "share"}


def number(value):
    """Four digits that count, without an exponent."""
    if value is None:
        return ""
    size = abs(value)
    places = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 else 4
    return "%.*f" % (places, value)


def cells(row, line):
    """One line of the table as texts."""
    met = {True: "yes", False: "no", None: ""}[line["met"]]
    share = "" if line["share"] is None else "%.0f %%" % (100 * line["share"])
    ratio = "" if line["ratio"] is None else "%.2f" % line["ratio"]
    return (row, line["figure"], line["unit"], number(line["ours"]), number(line["peer"]), ratio,
            number(line["limit"]), share, line["goal"], met, line["note"])


def table(results):
    """Markdown with aligned columns."""
    rows = [HEADS] + [cells(r["row"], line) for r in results for line in r["figures"]]
    wide = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    lines = []
    for at, row in enumerate(rows):
        lines.append("| " + " | ".join(
            text.rjust(w) if head in RIGHT else text.ljust(w)
            for text, w, head in zip(row, wide, HEADS)) + " |")
        if at == 0:
            lines.append("|" + "|".join("-" * (w + 1) + (":" if head in RIGHT else "-")
                                        for w, head in zip(wide, HEADS)) + "|")
    return "\n".join(lines)


def commands(results):
    """Under each row's number the commands that it ran."""
    lines = []
    for result in results:
        lines += ["row %s:" % result["row"]] + ["    " + c for c in result["commands"]]
    return "\n".join(lines)


def about(record):
    """One paragraph: when, where, with what."""
    run = record["run"]
    speed = run["bandwidth"]
    text = ("%s, %s, %d threads a side, rounds of ours, peer, peer, ours: %d; medians. "
            % (run["date"], run["cpu"], run["threads"], run["rounds"]))
    if speed:
        text += ("Read bandwidth in this run: median %.1f GB/s, best pass %.1f GB/s. "
                 % (speed["median"] / 1e9, speed["best"] / 1e9))
    text += "The peer: %s." % run["peer"]
    return text + (" A QUICK RUN: no figure counts." if run["quick"] else "")


def write_page(record, plots):
    """Puts the table between the markers of docs/performance.md, and the plots beside it."""
    with open(PAGE, encoding="utf-8") as file:
        text = file.read()
    if text.count(OPEN) != 1 or text.count(SHUT) != 1:
        raise Failed("docs/performance.md needs one %s and one %s" % (OPEN, SHUT))
    before, rest = text.split(OPEN)
    after = rest.split(SHUT)[1]
    parts = [OPEN, "", about(record), "", table(record["results"]), ""]
    for path, title in plots:
        if os.path.isfile(path):
            name = os.path.basename(path)
            shutil.copyfile(path, os.path.join(os.path.dirname(PAGE), name))
            parts += ["![%s](%s)" % (title, name), ""]
    with open(PAGE, "w", encoding="utf-8") as file:
        file.write(before + "\n".join(parts + [SHUT]) + after)
