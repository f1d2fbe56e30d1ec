"""test_page_text.py - what the web page makes of text: markdown, hostile markdown, errors.

Owns:      that model text stays text and fetches nothing; the renderer; sentences for errors.
Does not:  test how the page is used (test_page.py).

What the user wrote is shown as plain text; answers go through window.gemline.render's renderer.
"""
import json
import re

import pytest

from page_visit import browser, page_url, visit  # noqa: F401  (fixtures)

HOSTILE = """# <script>window.pwned=1</script>

<img src=x onerror="window.pwned=2"> ![pic](https://evil.example/a.png) ![](//evil.example/b.png)
[one](javascript:window.pwned=3) [two](data:text/html,<script>4</script>) [x](JaVaScRiPt:alert`5`)
[three](vbscript:x) [four](\x01javascript:window.pwned=6) <javascript:window.pwned=7> [f](file:///)

<iframe src="https://evil.example"></iframe><style>body{}</style><svg onload=window.pwned=8>
<link rel=stylesheet href="https://evil.example/x.css"><base href="//evil.example/"><form><input>

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


# ---- hostile text -----------------------------------------------------------------------------


def harmless(me, root):
    """Below `root`: the renderer's own elements and attributes, safe addresses, no script run."""
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
            for (const one of node.querySelectorAll('*'))
              for (const name of one.getAttributeNames())
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
    me.idle()
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
