"""test_page.py - the web page in a real Chromium.

Owns:      sending, streaming, stopping, retry, edit, reload, the list, settings, keys, the width of
           a phone, light and dark.
Does not:  look at hostile text, the renderer and errors (test_page_text.py), or judge the model.
"""
import json
import re

import pytest

from page_visit import browser, page_url, visit  # noqa: F401  (fixtures)

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"
)
LONG = "Tell me everything you know about the sun, the moon and the stars."


# ---- what is served ---------------------------------------------------------------------------


def test_headers_and_cookie(visit):
    me = visit()
    answer = me.page.request.get(me.url + "/")
    assert set(CSP.split("; ")) <= set(answer.headers["content-security-policy"].split("; "))
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
    me.write(LONG)
    me.page.wait_for_selector(".answer .prose *")
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
    assert me.questions()[-1] == "Hello"
    assert me.page.locator(".note.failed").all_inner_texts() == []


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
    assert turns[0]["answer"]["content"].split() == me.answers()[0].split()


def test_reload_keeps_the_conversation(visit):
    me = visit()
    me.settings(max_tokens=40)
    answer = me.send("Which vitamins does the sun give us?")
    me.reload()
    me.page.wait_for_selector(".answer .prose *")
    assert me.questions() == ["Which vitamins does the sun give us?"]
    assert me.answers() == [answer]
    assert "tokens/s" in me.page.inner_text(".answer .stats")
    me.page.click("#new-chat")
    assert me.count(".user") == 0
    me.page.click(".row-open >> nth=0")
    me.page.wait_for_selector(".answer .prose *")
    assert me.answers() == [answer]


def test_reload_while_answering(visit):
    me = visit()
    me.settings(max_tokens=300)
    me.write(LONG)
    me.page.wait_for_selector(".answer .prose *")
    me.reload()
    me.page.wait_for_selector(".user .bubble")
    me.idle()
    assert me.questions() == [LONG + ""]
    stored = me.stored()
    assert stored["busy"] is False
    assert me.answers()[0].split() == stored["turns"][0]["answer"]["content"].split()


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


# ---- settings, keys, sizes, colours -----------------------------------------------------------


def test_settings(visit):
    me = visit()
    me.settings(temperature=0, top_p=0.9, top_k=40, max_tokens=5, system="Be brief.")
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
            const s = getComputedStyle(n), form = n.closest('form');
            const edge = getComputedStyle(form || n).borderColor;
            const name = n.getAttribute('aria-label') || n.textContent.trim() ||
                (n.labels && n.labels[0].textContent);
            return [n.dataset.tab, s.outlineStyle !== 'none' || edge !== 'rgb(228, 224, 216)',
                name]; }"""
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
        """all => all.filter(b => b.id !== 'scrim').map(b =>
            [b.id || b.className, b.getBoundingClientRect().height])"""
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
            return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
            return .2126 * r + .7152 * g + .0722 * b; };
        let node = document.querySelector(selector);
        const ink = light(parse(getComputedStyle(node).color));
        for (; node; node = node.parentElement) {
            const c = parse(getComputedStyle(node).backgroundColor);
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
