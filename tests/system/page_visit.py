"""page_visit.py - a visitor of the web page: Debian's Chromium, driven by playwright.

Owns:      the fixtures browser, page_url and visit; what a visitor does (send, wait, forge).
Does not:  check what the page shows (test_page.py, test_page_text.py).

Answers that a model would not give are put in by answering the page's request in the server's
place (`forge`). After each test `visit` makes sure that no other host was asked for anything, that
no script failed and that nothing ran against the page's policy.
"""
import json
import time

import pytest

CHROMIUM = "/usr/bin/chromium"
WAIT_MS = 60000  # for an answer


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, driven by playwright."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.fail("the Python package playwright is missing; run: pip install playwright")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def page_url(web):
    """Where a gateway serves the page."""
    return web.url


class Visit:
    """One visitor (a cookie of its own) with the page open. Remembers what went wrong."""

    def __init__(self, browser, url, **options):
        self.url = url.rstrip("/")
        self.context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 860}, **options}
        )
        self.requests, self.problems, self.bodies = [], [], []
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("request", self._asked)
        self.page.on("pageerror", lambda error: self.problems.append("page error: %s" % error))
        self.page.on("console", self._logged)
        self.open("/")

    def _asked(self, request):
        self.requests.append(request.url)
        if request.method == "POST" and request.url.endswith("/v1/chat/completions"):
            self.bodies.append(json.loads(request.post_data))

    def _logged(self, message):
        if "Content Security Policy" in message.text or "Uncaught" in message.text:
            self.problems.append("console: " + message.text)

    def until(self, condition, arg=None):
        """Waits until a JavaScript expression (or a function of arg) is true. Playwright's own
        wait_for_function needs eval, which the page's policy forbids."""
        end = time.monotonic() + WAIT_MS / 1000
        while not self.page.evaluate(condition, arg):
            assert time.monotonic() < end, "not within %d ms: %s" % (WAIT_MS, condition)
            self.page.wait_for_timeout(20)

    def open(self, path):
        self.page.goto(self.url + path)
        self.until("document.getElementById('model').textContent !== ''")
        return self

    def reload(self):
        self.page.reload()
        self.until("document.getElementById('model').textContent !== ''")
        return self

    def write(self, text):
        """Sends a message and returns once the page shows it as sent."""
        self.page.fill("#message", text)
        self.page.press("#message", "Enter")
        self.until(
            "text => [...document.querySelectorAll('.bubble')].pop()?.textContent === text",
            text.strip(),
        )

    def idle(self):
        """Waits until no answer is running."""
        self.until(
            "!document.querySelector('.running') && " "document.getElementById('stop').hidden"
        )

    def send(self, text):
        """Sends a message and returns the finished answer's text."""
        self.write(text)
        self.idle()
        return self.answers()[-1]

    def count(self, selector):
        return self.page.locator(selector).count()

    def answers(self):
        return self.page.locator(".answer .prose").all_inner_texts()

    def questions(self):
        return self.page.locator(".user .bubble").all_inner_texts()

    def settings(self, seed=7, **fields):
        """Fills in the settings; the seed makes a run's answers those of the last run."""
        fields["seed"] = seed
        self.page.click("#open-settings")
        for name, value in fields.items():
            self.page.fill("#settings [name=%s]" % name, str(value))
        self.page.click("#settings .primary")

    def stored(self):
        """The open conversation as the server has it."""
        return self.page.evaluate(
            "fetch('/v1/sessions/' + location.hash.slice(4)).then(r => r.json())"
        )

    def forge(self, *texts, end="data: [DONE]\n\n", status=200, body=None, headers=None):
        """The next requests for an answer get this instead of the server's."""
        event = "data: %s\n\n"
        stream = "".join(
            event % json.dumps({"choices": [{"index": 0, "delta": {"content": t}}]}) for t in texts
        )
        kind = "text/event-stream" if body is None else "application/json"
        self.page.route(
            "**/v1/chat/completions",
            lambda route: route.fulfill(
                status=status,
                body=stream + end if body is None else json.dumps(body),
                headers={"Content-Type": kind, **(headers or {})},
            ),
        )

    def unforge(self):
        self.page.unroute("**/v1/chat/completions")

    def foreign(self):
        return [one for one in self.requests if not one.startswith((self.url + "/", "data:"))]


@pytest.fixture
def visit(browser, page_url):
    """visit(**options): a Visit. At its end: no foreign request, no error of a script."""
    visits = []

    def start(**options):
        visits.append(Visit(browser, page_url, **options))
        return visits[-1]

    yield start
    for one in visits:
        assert not one.foreign(), "asked another host: %s" % one.foreign()
        assert not one.problems, one.problems
        one.context.close()
