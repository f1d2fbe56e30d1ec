"""test_page.py - the web page in a real Chromium.

Owns:      issue line "Web page": send, stream, stop, retry, edit, reload, hostile markdown, errors,
           settings, keys, phone width, dark; that the page asks no other host for anything.
Does not:  start the gateway (the fixture page_url does), or judge the model's words.

Needs Debian's chromium and the Python package playwright. User text is shown as plain text; answers go
through the page's renderer, which window.gemline.render(text) calls too. Answers that a model would
not give are put in by answering the page's request in its place (`forge`).
"""

import json
import re
import time

import pytest

CHROMIUM = "/usr/bin/chromium"
WAIT_MS = 60000  # for an answer
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"
)
LONG = "Tell me everything you know about the sun, the moon and the stars."  # with no length limit
HOSTILE = """# <script>window.pwned=1</script>

<img src=x onerror="window.pwned=2"> ![pic](https://evil.example/a.png) ![](//evil.example/b.png)
[one](javascript:window.pwned=3) [two](data:text/html,<script>4</script>) [x](JaVaScRiPt:alert`5`)
[three](vbscript:x) [four](\x01javascript:window.pwned=6) <javascript:window.pwned=7> [f](file:///etc)

<iframe src="https://evil.example"></iframe><style>body{display:none}</style><svg onload=window.pwned=8>
<link rel=stylesheet href="https://evil.example/x.css"><base href="https://evil.example/"><form><input>

```html" onmouseover="window.pwned=9
</code></pre><script>window.pwned=10</script><img src="https://evil.example/c.png">
```

| <b>a</b> | [b](javascript:window.pwned=11) |
|---|---|
| <img src=x onerror=window.pwned=12> | ![z](https://evil.example/d.png) |

> - <meta http-equiv=refresh content="0;url=https://evil.example">
"""
ALLOWED_TAGS = set(
    "div p br h3 h4 h5 h6 ul ol li blockquote hr table thead tbody tr th td a em strong del "
    "code pre span button input".split()
)
ALLOWED_ATTRIBUTES = set(
    "class dir href title target rel tabindex role aria-label type scope start "
    "disabled checked".split()
)


# ---- the browser ------------------------------------------------------------------------------


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


class Visit:
    """One visitor (a cookie of its own) with the page open. Remembers what went wrong on the way."""

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

    def settings(self, **fields):
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
    """visit(**options): a Visit. At the end: no foreign request, no error, nothing against the CSP."""
    visits = []

    def start(**options):
        visits.append(Visit(browser, page_url, **options))
        return visits[-1]

    yield start
    for one in visits:
        assert not one.foreign(), "asked another host: %s" % one.foreign()
        assert not one.problems, one.problems
        one.context.close()


# ---- what is served ---------------------------------------------------------------------------


def test_headers_and_cookie(visit):
    me = visit()
    answer = me.page.request.get(me.url + "/")
    assert answer.headers["content-security-policy"].rstrip(";") == CSP
    cookies = me.context.cookies()
    assert len(cookies) == 1
    assert cookies[0]["httpOnly"] and cookies[0]["sameSite"] == "Strict"
    assert me.page.evaluate("document.cookie") == ""


def test_address_submits_nothing(visit):
    me = visit()
    me.open("/?q=Hello&prompt=Hello&message=Hello#/c/../../x?q=Hello")
    me.page.wait_for_timeout(500)
    assert not me.bodies and me.count(".user") == 0
    assert me.page.input_value("#message") == ""


# ---- answers ----------------------------------------------------------------------------------


def test_send_and_stream(visit):
    me = visit()
    me.settings(max_tokens=120)
    me.page.evaluate("""() => { window.sizes = new Set(); new MutationObserver(() => {
        const prose = document.querySelector('.answer .prose');
        if (prose && prose.textContent) window.sizes.add(prose.textContent.length);
    }).observe(document.getElementById('thread'), {subtree: true, childList: true}); }""")
    answer = me.send(LONG)
    assert answer.strip()
    assert me.page.evaluate("window.sizes.size") > 1, "the answer came in one piece"
    stats = me.page.inner_text(".answer .stats")
    assert re.search(r"[\d.]+ tokens/s", stats) and re.search(r"first token [\d.]+ s", stats)
    assert me.questions() == [LONG]
    assert answer.split()[0] in me.page.inner_text("#live")
    assert me.page.locator("#list .current").inner_text().strip().startswith(LONG[:20])


def test_second_turn_sends_only_itself(visit):
    me = visit()
    me.settings(max_tokens=16, system="Answer in one word.")
    me.send("My name is Ada.")
    me.send("What is my name?")
    first, second = me.bodies
    assert first["session"] == second["session"] and first["stream"] is True
    assert [m["role"] for m in first["messages"]] == ["system", "user"]
    assert [m["role"] for m in second["messages"]] == ["user"]
    assert len(me.stored()["turns"]) == 2


@pytest.mark.parametrize("how", ["button", "key"])
def test_stop(visit, how):
    me = visit()
    me.settings(max_tokens=4000)
    me.page.route(
        "**/v1/chat/completions",
        lambda route: route.continue_(
            post_data=json.dumps({**json.loads(route.request.post_data), "ignore_eos": True})
        ),
    )
    me.write(LONG + " [long]")
    me.page.wait_for_selector(".answer .prose p")
    if how == "button":
        me.page.click("#stop")
    else:
        me.page.keyboard.press("Escape")
    me.idle()
    assert "Stopped" in me.page.inner_text(".answer .note")
    size = len(me.answers()[0])
    me.page.wait_for_timeout(400)
    assert len(me.answers()[0]) == size
    me.page.unroute("**/v1/chat/completions")
    me.settings(max_tokens=8)
    me.send("Hello")
    assert me.questions()[-1] == "Hello" and me.count(".note.failed") == 0


def test_retry_and_edit(visit):
    me = visit()
    me.settings(max_tokens=12)
    me.send("Say one.")
    me.send("Say two.")
    me.page.click("[aria-label='Answer again']")
    me.idle()
    assert me.questions() == ["Say one.", "Say two."] and len(me.stored()["turns"]) == 2
    me.page.hover(".user >> nth=0")
    me.page.click("[aria-label='Edit and send again'] >> nth=0")
    me.page.fill(".edit textarea", "Say three.")
    me.page.keyboard.press("Enter")
    me.until("document.querySelectorAll('.user').length === 1")
    me.idle()
    assert me.questions() == ["Say three."]
    turns = me.stored()["turns"]
    assert [t["messages"][-1]["content"] for t in turns] == ["Say three."]
    assert turns[0]["answer"].split() == me.answers()[0].split()


def test_reload_keeps_the_conversation(visit):
    me = visit()
    me.settings(max_tokens=40)
    answer = me.send("Which vitamins does the sun give us?")
    me.reload()
    me.page.wait_for_selector(".answer .prose p")
    assert me.questions() == ["Which vitamins does the sun give us?"]
    assert me.answers() == [answer]
    assert "tokens/s" in me.page.inner_text(".answer .stats")
    me.page.click("#new-chat")
    assert me.count(".user") == 0
    me.page.click(".row-open >> nth=0")
    me.page.wait_for_selector(".answer .prose p")
    assert me.answers() == [answer]


def test_reload_while_answering(visit):
    me = visit()
    me.settings(max_tokens=300)
    me.write(LONG + " [sticky]")
    me.page.wait_for_selector(".answer .prose p")
    me.reload()
    me.page.wait_for_selector(".user .bubble")
    me.idle()
    assert me.questions() == [LONG + " [sticky]"]
    stored = me.stored()
    assert stored["busy"] is False
    assert me.answers()[0].split() == stored["turns"][0]["answer"].split()


def test_others_see_nothing(visit):
    one, two = visit(), visit()
    one.settings(max_tokens=8)
    one.send("A secret")
    fragment = one.page.evaluate("location.hash")
    two.open("/" + fragment)
    two.page.wait_for_selector("#notice:not([hidden])")
    assert two.count(".user") == 0 and two.count("#list li") == 0


def test_another_tab_loses_nothing(visit):
    me = visit()
    me.settings(max_tokens=8)
    me.send("One")
    tab = me.context.new_page()
    tab.goto(me.page.url)
    tab.wait_for_selector(".user")
    tab.fill("#message", "Two")
    tab.press("#message", "Enter")
    tab.wait_for_selector(".answer >> nth=1 >> .stats")
    tab.close()
    me.write("Three")
    me.idle()
    assert "changed elsewhere" in me.page.inner_text(".note.failed")
    assert [t["messages"][-1]["content"] for t in me.stored()["turns"]] == ["One", "Two"]


def test_delete(visit):
    me = visit()
    me.settings(max_tokens=8)
    me.send("Delete me")
    fragment = me.page.evaluate("location.hash")
    me.page.hover("#list li")
    me.page.click("#list .row-delete")
    me.page.click("#delete .danger")
    me.until("!document.querySelector('#list li')")
    assert me.count(".user") == 0
    status = me.page.evaluate("id => fetch('/v1/sessions/' + id).then(r => r.status)", fragment[4:])
    assert status == 404


def test_copy(visit):
    me = visit()
    me.context.grant_permissions(["clipboard-read", "clipboard-write"])
    me.forge("Some *words*\n\n```c\nint x = 1;\nint y;\n```\n")
    me.send("Show code")
    me.page.click("[aria-label='Copy code']")
    me.page.wait_for_selector(".copy-code.copied")
    assert me.page.evaluate("navigator.clipboard.readText()") == "int x = 1;\nint y;"
    me.page.click("[aria-label='Copy answer']")
    me.page.wait_for_selector(".foot .copied")
    assert me.page.evaluate("navigator.clipboard.readText()").startswith("Some *words*")


# ---- hostile text -----------------------------------------------------------------------------


def harmless(me, root):
    """Nothing below `root` but the renderer's own elements and attributes, safe addresses, no script run."""
    seen = me.page.evaluate(
        """root => [...document.querySelectorAll(root + ' *')].map(node => [
        node.localName, node.getAttributeNames(), node.getAttribute('href')])""",
        root,
    )
    assert seen
    for tag, names, address in seen:
        assert tag in ALLOWED_TAGS, tag
        assert set(names) <= ALLOWED_ATTRIBUTES, names
        assert address is None or re.match(r"https?://|mailto:", address), address
    assert me.page.evaluate("window.pwned") is None
    links = me.page.evaluate(
        "root => [...document.querySelectorAll(root + ' a')].map(a => [a.rel, a.target])", root
    )
    assert all(one == ["noopener noreferrer", "_blank"] for one in links)


def test_hostile_answer(visit):
    me = visit()
    me.forge(*re.findall(r".{1,7}", HOSTILE, re.S))
    text = me.send("Be bad")
    harmless(me, ".answer .prose")
    for part in (
        "<script>window.pwned=1</script>",
        "<iframe",
        "onerror=",
        "<meta",
        "javascript:window.pwned=3",
    ):
        assert part in text, part
    me.page.wait_for_timeout(300)
    assert not me.foreign() and me.page.evaluate("window.pwned") is None


def test_hostile_question_and_reload(visit):
    me = visit()
    me.settings(max_tokens=24)
    me.send(HOSTILE)
    for _ in range(2):
        assert me.count(".bubble *") == 0
        assert me.page.locator(".bubble").text_content() == HOSTILE.strip()
        assert me.page.locator("#list *").evaluate_all(
            "nodes => nodes.every(n => !['script', 'img', 'iframe', 'a'].includes(n.localName))"
        )
        assert me.page.evaluate("window.pwned") is None
        me.reload()
        me.page.wait_for_selector(".answer .prose")


RENDERED = [
    ("a **b** *c* ~~d~~ `e`", "<p>a <strong>b</strong> <em>c</em> <del>d</del> <code>e</code></p>"),
    (
        "***a*** and **b *c* d**",
        "<p><em><strong>a</strong></em> and <strong>b <em>c</em> d</strong></p>",
    ),
    ("snake_case_name 2*3*4 * x", "<p>snake_case_name 2<em>3</em>4 * x</p>"),
    ("# One\n## Two ##\ntext", "<h3>One</h3><h4>Two</h4><p>text</p>"),
    ("one\ntwo", "<p>one<br>two</p>"),
    ("- a\n- b\n  - c\n- d", "<ul><li>a</li><li>b<ul><li>c</li></ul></li><li>d</li></ul>"),
    ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
    ("- a\n\n- b", "<ul><li><p>a</p></li><li><p>b</p></li></ul>"),
    ("> a\n> > b", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>"),
    ("a\n\n---\nb", "<p>a</p><hr><p>b</p>"),
    (
        "|a|b|\n|:-|-:|\n|`x`|2|",
        "<div><table><thead><tr><th>a</th><th>b</th></tr></thead>"
        "<tbody><tr><td><code>x</code></td><td>2</td></tr></tbody></table></div>",
    ),
    ("`` a ` b ``", "<p><code>a ` b</code></p>"),
    (r"\*a\* \[b]", "<p>*a* [b]</p>"),
    ("&lt;b&gt; &amp; <b>", "<p>&lt;b&gt; &amp; &lt;b&gt;</p>"),
    (
        "[a](<b c>) [d]( https://e.example 't')",
        '<p>[a](&lt;b c&gt;) <a href="https://e.example/">d</a></p>',
    ),
    ("![x](https://e.example/y.png)", '<p><a href="https://e.example/y.png">x</a></p>'),
    (
        "see (https://e.example/a_(b)).",
        '<p>see (<a href="https://e.example/a_(b)">https://e.example/a_(b)</a>).</p>',
    ),
    (
        "[![x](https://e.example/1)](https://e.example/2)",
        '<p><a href="https://e.example/2">x</a></p>',
    ),
    ("**unfinished", "<p>**unfinished</p>"),
    ("", ""),
]


def test_renderer(visit):
    me = visit()
    for text, want in RENDERED:
        got = me.page.evaluate(
            """text => { const node = window.gemline.render(text);
            for (const one of node.querySelectorAll('*')) for (const name of one.getAttributeNames())
                if (!['href', 'start'].includes(name)) one.removeAttribute(name);
            return node.innerHTML; }""",
            text,
        )
        assert got == want, text


def test_renderer_code_is_verbatim(visit):
    me = visit()
    for language in ("", "python", "c", "js", "sql", "sh", "diff"):
        code = "if x: # 'it' \"\n  /* a */ `b` -- c // d\n\n\t<b>&amp;</b> 0x1F \\"
        got = me.page.evaluate(
            "text => window.gemline.render(text).querySelector('pre').textContent",
            "```%s\n%s\n```" % (language, code),
        )
        assert got == code.replace("\t", "    "), language


def test_renderer_stays_quick(visit):
    """Texts that make a careless parser take quadratic time or nest without end."""
    me = visit()
    for unit in (
        "*a **b ",
        "[",
        "![a](",
        "](",
        "`",
        "> ",
        "- ",
        "**",
        "_a",
        "~~",
        "<",
        "&",
        "|a",
        "(",
        "\\",
        "#",
        "\n> ",
        "[a](b",
        "http://a)",
        "*a_",
        "a*",
        "1. ",
        "\n- ",
        "|-\n",
        "```\n",
        "* ",
        "\t",
    ):
        text = unit * (30000 // len(unit))
        spent = me.page.evaluate(
            """text => { const from = performance.now();
            document.body.append(window.gemline.render(text)); document.body.lastChild.remove();
            return performance.now() - from; }""",
            text,
        )
        assert spent < 2000, "%r took %d ms" % (unit, spent)


# ---- trouble ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status, code, headers, sentence",
    [
        (429, None, {"Retry-After": "3"}, "Too many requests at once. Wait 3 s."),
        (503, None, {}, "is loading"),
        (400, "context_length_exceeded", {}, "longer than the model can read"),
        (413, None, {}, "too long to send"),
    ],
)
def test_errors_are_sentences(visit, status, code, headers, sentence):
    me = visit()
    me.settings(max_tokens=8)
    me.forge(
        status=status,
        headers=headers,
        body={"error": {"message": "The model is loading.", "code": code}},
    )
    me.write("Hello")
    me.page.wait_for_selector(".note.failed")
    assert sentence in me.page.inner_text(".note.failed")
    me.unforge()
    me.page.click(".note.failed button")
    me.until("!document.querySelector('.note.failed')")
    me.idle()
    assert me.questions() == ["Hello"] and me.answers()[0].strip()


def test_error_in_the_stream(visit):
    me = visit()
    me.settings(max_tokens=8)
    me.forge(
        "Half an", end='data: {"error":{"message":"The pipeline lost a shard.","code":null}}\n\n'
    )
    me.write("Hello")
    me.page.wait_for_selector(".note.failed")
    assert me.page.inner_text(".note.failed").startswith("The pipeline lost a shard.")
    me.unforge()
    me.send("Another")
    assert me.questions() == ["Another"]  # what was not kept is not shown as if it were
    assert len(me.stored()["turns"]) == 1


def test_broken_stream_goes_on(visit):
    me = visit()
    me.forge("Half an", end="")
    chunk = json.dumps({"choices": [{"index": 0, "delta": {"content": "Half an answer."}}]})
    me.page.route(
        "**/stream?from=0",
        lambda route: route.fulfill(
            status=200,
            headers={"Content-Type": "text/event-stream"},
            body="data: %s\n\ndata: [DONE]\n\n" % chunk,
        ),
    )
    assert me.send("Hello").strip() == "Half an answer."
    assert me.count(".note.failed") == 0


def test_key_is_asked_for(visit):
    me = visit()

    def gate(route):
        if route.request.headers.get("authorization") == "Bearer gm-1-secret":
            body = {"object": "list", "data": [{"id": "gemma3-270m", "max_model_len": 4096}]}
            route.fulfill(
                status=200, body=json.dumps(body if "models" in route.request.url else {"data": []})
            )
        else:
            route.fulfill(status=401, body='{"error":{"message":"no","code":null}}')

    me.page.route("**/v1/**", gate)
    me.page.reload()
    me.page.wait_for_selector("#key[open]")
    me.page.fill("#key input", "wrong")
    me.page.keyboard.press("Enter")
    me.until("/Try another/.test(document.querySelector('#key[open] .why')?.textContent)")
    me.page.fill("#key input", "gm-1-secret")
    me.page.keyboard.press("Enter")
    me.until("document.getElementById('model').textContent === 'gemma3-270m'")
    assert not me.page.is_visible("#key")
    assert "gm-1-secret" not in me.page.evaluate("JSON.stringify({...localStorage})")


# ---- settings, keys, sizes, colours -----------------------------------------------------------


def test_settings(visit):
    me = visit()
    me.settings(temperature=0, top_p=0.9, top_k=40, seed=7, max_tokens=5, system="Be brief.")
    me.reload()
    me.send("Hello")
    body = me.bodies[-1]
    assert {k: body[k] for k in ("temperature", "top_p", "top_k", "seed", "max_tokens")} == {
        "temperature": 0,
        "top_p": 0.9,
        "top_k": 40,
        "seed": 7,
        "max_tokens": 5,
    }
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    me.page.click("#open-settings")
    me.page.fill("#settings [name=temperature]", "9")
    me.page.click("#settings .primary")
    assert "Temperature takes a number from 0 to 2." in me.page.inner_text("#settings .problem")
    me.page.click("#defaults")
    me.page.click("#settings .primary")
    me.page.click("#new-chat")
    me.forge("Hi")
    me.send("Hello")
    assert not {"temperature", "top_p", "top_k", "seed", "max_tokens"} & set(me.bodies[-1])


def test_keys(visit):
    me = visit()
    me.forge("Fine.")
    me.page.focus("#message")
    me.page.keyboard.type("one")
    me.page.keyboard.press("Shift+Enter")
    me.page.keyboard.type("two")
    me.page.keyboard.press("Enter")
    me.idle()
    assert me.page.locator(".bubble").text_content() == "one\ntwo"
    me.page.keyboard.press("Control+Shift+O")
    assert me.count(".user") == 0
    assert me.page.evaluate("document.activeElement.id") == "message"


def test_tab_reaches_everything(visit):
    me = visit(reduced_motion="reduce")
    me.forge("Some `code`:\n\n```c\nint x;\n```\n\n[a link](https://example.org)")
    me.send("Hello")
    me.page.evaluate("document.activeElement.blur()")
    want = me.page.evaluate(
        """() => { const all = [...document.querySelectorAll('button, a[href], textarea, pre')]
        .filter(n => n.checkVisibility() && !n.disabled && n.tabIndex >= 0);
        all.forEach((n, i) => n.dataset.tab = i); return all.length; }"""
    )
    reached = set()
    for _ in range(want + 6):
        me.page.keyboard.press("Tab")
        here = me.page.evaluate(
            """() => { const n = document.activeElement; if (n === document.body) return null;
            const s = getComputedStyle(n), f = n.closest('form') ? getComputedStyle(n.closest('form')) : s;
            const name = n.getAttribute('aria-label') || n.textContent.trim() || (n.labels && n.labels[0].textContent);
            return [n.dataset.tab, s.outlineStyle !== 'none' || f.borderColor !== 'rgb(228, 224, 216)', name]; }"""
        )
        if here and here[0] is not None:
            assert here[1], "focus does not show on %s" % here[2]
            assert here[2], "an element without a name"
            reached.add(here[0])
    assert len(reached) == want


def test_phone(visit):
    me = visit(viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    me.forge(
        "x" * 300
        + "\n\n```c\n"
        + "int y; " * 60
        + "\n```\n\n|"
        + "wide cell|" * 12
        + "\n|"
        + "---|" * 12
        + "\n"
    )
    me.send("W" * 200)
    assert me.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert me.page.evaluate("document.getElementById('scroll').scrollWidth <= 360")
    assert me.page.evaluate("document.getElementById('side').inert")
    me.page.tap("#open-side")
    me.until("document.getElementById('side').getBoundingClientRect().left === 0")
    assert me.page.evaluate("document.getElementById('main').inert")
    assert me.page.get_attribute("#open-side", "aria-expanded") == "true"
    small = me.page.locator("button:visible").evaluate_all(
        "all => all.filter(b => b.id !== 'scrim').map(b => [b.id || b.className, b.getBoundingClientRect().height])"
    )
    assert all(height >= 40 for name, height in small if name != "copy-code"), small
    me.page.keyboard.press("Escape")
    me.until("document.getElementById('side').inert")


def contrast(me, selector):
    """The contrast of an element's text against the first opaque colour behind it."""
    return me.page.evaluate(
        """selector => {
        const parse = s => s.match(/[\\d.]+/g).map(Number);
        const light = c => { const [r, g, b] = c.slice(0, 3).map(v => { v /= 255;
            return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
        let node = document.querySelector(selector);
        const ink = light(parse(getComputedStyle(node).color));
        for (; node; node = node.parentElement) { const c = parse(getComputedStyle(node).backgroundColor);
            if (c.length === 3 || c[3] === 1) { const paper = light(c);
                return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05); } }
        return 0; }""",
        selector,
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours(visit, scheme):
    me = visit(color_scheme=scheme)
    paper = "getComputedStyle(document.body).backgroundColor"
    system = me.page.evaluate(paper)
    dark = sum(int(n) for n in re.findall(r"\d+", system)[:3]) < 200
    assert dark == (scheme == "dark")
    me.forge(
        "Text, `code`, [link](https://example.org)\n\n```python\nreturn 1 # why\n```\n\n> quote"
    )
    me.send("Hello")
    for selector in (
        ".bubble",
        ".prose p",
        ".prose a",
        ".prose p code",
        ".prose blockquote",
        ".code-head",
        ".code .word",
        ".code .number",
        ".code .remark",
        "#list h2",
        ".row-open",
        "#model",
        ".keys",
    ):
        assert contrast(me, selector) >= 4.5, selector
    me.page.click("#theme")
    other = me.page.evaluate(paper)
    assert other != system
    me.reload()
    assert me.page.evaluate(paper) == other


def test_little_motion(visit):
    me = visit(reduced_motion="reduce")
    assert me.page.evaluate(
        "getComputedStyle(document.querySelector('.send')).transitionDuration"
    ) in ("0s", "")
