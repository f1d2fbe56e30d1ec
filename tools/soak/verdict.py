"""verdict.py - does a series of samples stand still? Pure functions over lists of numbers.

Owns:      the fit, the medians, what counts as growth of memory and of descriptors.
Does not:  sample or print.
"""
import statistics

FLAT_SHARE = 0.02        # of the median: the memory that a soak may gain
GRAIN_BYTES = 256 << 10  # two steps of malloc, which a process of a few MiB cannot be held below
COUNT_GRAIN = 2          # descriptors or threads that are in use just now
SAMPLES_LEAST = 20       # fewer say nothing
FIFTHS = 5


def slope(times, values):
    """Least squares: units a second."""
    middle_t, middle_v = statistics.fmean(times), statistics.fmean(values)
    spread = sum((t - middle_t) ** 2 for t in times)
    if spread == 0:
        return 0.0
    return sum((t - middle_t) * (v - middle_v) for t, v in zip(times, values)) / spread


def ends(values):
    """Medians of the first and of the last fifth."""
    part = max(len(values) // FIFTHS, 1)
    return statistics.median(values[:part]), statistics.median(values[-part:])


def growth(times, values):
    """(by the fit over the whole time, from the first fifth to the last): both in units. A leak
    shows in both, a single peak in one of them at most."""
    first, last = ends(values)
    return slope(times, values) * (times[-1] - times[0]), last - first


class Finding:
    """One series and what it did; `bad` is None or why it fails."""

    def __init__(self, what, times, values, allowed):
        self.what, self.allowed = what, allowed
        self.n, self.median = len(values), statistics.median(values) if values else 0
        self.fit, self.step = growth(times, values) if len(values) > 1 else (0, 0)
        self.bad = self._judge()

    def _judge(self):
        if self.n < SAMPLES_LEAST:
            return "%d samples, fewer than %d" % (self.n, SAMPLES_LEAST)
        if min(self.fit, self.step) > self.allowed:
            return "grows by %.0f (fit) and %.0f (fifths), more than %.0f" % (
                self.fit, self.step, self.allowed)
        return None


def memory(what, times, values, share=FLAT_SHARE):
    """Bytes: flat within a share of the median, or within two steps of malloc."""
    middle = statistics.median(values) if values else 0
    return Finding(what, times, values, max(share * middle, GRAIN_BYTES))


def share_of(what, times, values, share):
    """Any figure: flat within a share of its median."""
    middle = statistics.median(values) if values else 0
    return Finding(what, times, values, share * middle)


def count(what, times, values, grain=COUNT_GRAIN):
    """Descriptors or threads under load: those in use come and go, none stay."""
    return Finding(what, times, values, grain)


def rested(what, before, after):
    """Descriptors or threads of a pipeline at rest, before the load and after it: a sentence when
    some stayed, else None."""
    if after > before:
        return "%s: %d at rest before the load, %d after it" % (what, before, after)
    return None
