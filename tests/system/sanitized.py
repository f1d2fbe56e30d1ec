"""sanitized.py - the suite on a build that is not the release: slower, and with reports.

Owns:      the factor on every time limit, tests that such a build skips by name, the rule that a
           report of a sanitizer fails the test that caused it.
Does not:  set a sanitizer's options (tools/sanitizers.sh) or choose the build (conftest.BIN).
"""
import glob
import os
import subprocess

import pytest

MODE = os.environ.get("TEST_MODE", "release")
SLOWNESS = float(os.environ.get("TEST_SLOWNESS", "1"))
REPORTS = os.environ.get("TEST_REPORTS")
REPORT_CHARS = 12000  # of each one; the first errors are the cause


def scaled(seconds):
    """A time limit on this build; None stays none."""
    return None if seconds is None else seconds * SLOWNESS


class Child(subprocess.Popen):
    """A Popen whose time limits are scaled."""

    def wait(self, timeout=None):
        return super().wait(scaled(timeout))

    def communicate(self, input=None, timeout=None):
        return super().communicate(input, scaled(timeout))


def skip_measures(items):
    """Skips the tests marked release_only("why") on every sanitizer's build, those marked
    release_only("why", "tsan") on that one alone."""
    for item in items:
        mark = item.get_closest_marker("release_only")
        if mark and MODE != "release" and MODE in (mark.args[1:] or (MODE,)):
            item.add_marker(pytest.mark.skip(reason="release only: " + mark.args[0]))


class Reports:
    """The report files that the sanitizers of any process have left."""

    def __init__(self):
        self._seen = set(self._files())

    @staticmethod
    def _files():
        return sorted(glob.glob(os.path.join(REPORTS, "report.*"))) if REPORTS else []

    def new(self):
        """The texts of those since the last call, joined; empty when there is none."""
        texts = []
        for path in self._files():
            if path not in self._seen:
                self._seen.add(path)
                with open(path, errors="replace") as file:
                    texts.append("== %s\n%s" % (path, file.read(REPORT_CHARS)))
        return "\n".join(texts)
