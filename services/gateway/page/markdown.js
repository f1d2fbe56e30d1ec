// markdown.js - markdown to DOM nodes, and nothing else than text ever becomes markup.
//
// Owns:     blocks (paragraphs, headings, lists, tables, quotes, code), inline text, safe links,
//           and updates of an answer that is still growing.
// Does not: parse HTML (it stays text), load anything (an image becomes a link), or touch the page.

const NEST_MAX = 12;     // levels of quotes, lists and emphasis; what lies deeper stays text
const LINK_MAX = 2048;   // characters of an address
const PAINT_MAX = 40000; // characters of a code block that get colours

const ENTITIES = {
  amp: "&",
  lt: "<",
  gt: ">",
  quot: '"',
  apos: "'",
  nbsp: "\u00a0"
};
const PUNCTUATION = /[\p{P}\p{S}]/u;
const ESCAPABLE = /[!-/:-@[-`{-~]/;

function make(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

// ---- addresses ----------------------------------------------------------------------------------

/** The address as the browser would use it, or null unless it is http, https or mailto. */
export function safeAddress(text) {
  if (text.length > LINK_MAX || !/^(?:https?:\/\/|mailto:)\S+$/i.test(text)) return null;
  try {
    const url = new URL(text);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch { return null; }
}

function anchor(address, ...children) {
  const node = make("a", "", ...children);
  node.href = address;
  node.title = address;
  node.target = "_blank";
  node.rel = "noopener noreferrer";
  return node;
}

/** The end of `(address "title")` that opens at text[at], and the address; null if it is none. */
function destination(text, at) {
  const rest = text.slice(at, at + LINK_MAX + 512);
  const angled = /^\(\s*<([^<>\n]*)>/.exec(rest);
  let address;
  let end;
  if (angled) {
    address = angled[1];
    end = angled[0].length;
  } else {
    const start = /^\(\s*/.exec(rest)[0].length;
    let depth = 0;
    for (end = start; end < rest.length; end++) {
      const c = rest[end];
      if (/\s/.test(c)) break;
      if (c === "\\" && end + 1 < rest.length) end++;
      else if (c === "(" && ++depth > 32) return null;
      else if (c === ")" && depth-- === 0) break;
    }
    address = rest.slice(start, end).replace(/\\([!-/:-@[-`{-~])/g, "$1");
  }
  const tail = /^(?:\s+(?:"[^"]*"|'[^']*'|\([^()]*\)))?\s*\)/.exec(rest.slice(end));
  return tail ? { address, end: at + end + tail[0].length } : null;
}

/** A bare address without the punctuation that belongs to the sentence around it. */
function trimmed(address) {
  let end = address.length;
  let open = address.split("(").length - address.split(")").length;
  for (; end > 0; end--) {
    const c = address[end - 1];
    if (c === ")" && open < 0) open++;
    else if (!/[.,;:!?'"*_~\]]/.test(c)) break;
  }
  return address.slice(0, end);
}

// ---- inline text --------------------------------------------------------------------------------

/** Positions of all backtick runs by length, so that a code span's end is found without a scan. */
function backtickRuns(text) {
  const runs = new Map();
  for (const match of text.matchAll(/`+/g)) {
    const length = match[0].length;
    if (!runs.has(length)) runs.set(length, { at: [], next: 0 });
    runs.get(length).at.push(match.index);
  }
  return runs;
}

function closingRun(runs, length, after) {
  const run = runs.get(length);
  while (run.next < run.at.length && run.at[run.next] < after) run.next++;
  return run.next < run.at.length ? run.at[run.next] : -1;
}

function delimiter(text, at, length) {
  const before = at > 0 ? text[at - 1] : " ";
  const after = at + length < text.length ? text[at + length] : " ";
  const left = !/\s/.test(after) &&
    (!PUNCTUATION.test(after) || /\s/.test(before) || PUNCTUATION.test(before));
  const right = !/\s/.test(before) &&
    (!PUNCTUATION.test(before) || /\s/.test(after) || PUNCTUATION.test(after));
  const word = text[at] === "_";
  return {
    mark: text[at],
    count: length,
    opens: left && (!word || !right || PUNCTUATION.test(before)),
    closes: right && (!word || !left || PUNCTUATION.test(after)),
  };
}

/** Items (nodes and emphasis marks) to nodes: pairs of marks become em, strong and del. */
function emphasize(items) {
  const out = [];   // { node, depth }
  const open = [];  // { at: place in out, mark, count, both }
  const floor = {}; // below this place of `open` no partner is left for such a closing mark
  const text = (string) => ({ node: document.createTextNode(string), depth: 0 });

  function partner(item) {
    const key = item.mark + (item.opens ? "o" : "c") + (item.count % 3);
    const low = Math.min(floor[key] || 0, open.length);
    for (let i = open.length - 1; i >= low; i--) {
      const one = open[i];
      if (one.mark !== item.mark) continue;
      const odd = (one.both || item.opens) && (one.count + item.count) % 3 === 0 &&
        (one.count % 3 || item.count % 3);
      if (!odd) return i;
    }
    floor[key] = open.length;
    return -1;
  }

  for (const item of items) {
    if (item.node) {
      out.push(item);
      continue;
    }
    let count = item.count;
    while (count > 0 && item.closes) {
      const found = partner(item);
      if (found < 0) break;
      const one = open[found];
      const depth = 1 + out.slice(one.at + 1).reduce((most, x) => Math.max(most, x.depth), 0);
      if (depth > NEST_MAX) break;
      const used = item.mark === "~" ? 2 : Math.min(2, one.count, count);
      const tag = item.mark === "~" ? "del" : used === 2 ? "strong" : "em";
      const inner = out.splice(one.at + 1).map((x) => x.node);
      open.length = found + 1;
      one.count -= used;
      count -= used;
      if (one.count === 0) {
        out.pop();
        open.pop();
      } else {
        out[one.at].node.data = item.mark.repeat(one.count);
      }
      out.push({ node: make(tag, "", ...inner), depth });
    }
    if (count === 0) continue;
    if (item.opens) open.push({ at: out.length, mark: item.mark, count, both: item.closes });
    out.push(text(item.mark.repeat(count)));
  }
  return out;
}

/** One scan over a paragraph's text; `link` and the like push what they find on `items`. */
class Inline {
  constructor(text) {
    this.text = text;
    this.at = 0;
    this.items = [];
    this.plain = "";
    this.brackets = []; // places in items where a [ or ![ stands
    this.runs = backtickRuns(text);
  }

  push(item) {
    if (this.plain) {
      this.items.push({ node: document.createTextNode(this.plain), depth: 0 });
      this.plain = "";
    }
    if (item) this.items.push(item);
  }

  sticky(pattern) {
    pattern.lastIndex = this.at;
    return pattern.exec(this.text);
  }

  nodes() {
    while (this.at < this.text.length) this.step();
    this.push(null);
    return emphasize(this.items).map((item) => item.node);
  }

  /** Plain text up to the next character that may mean something. */
  step() {
    const some = this.sticky(/[^\\`*_~[\]!<&\nh]+/y);
    if (some) {
      this.plain += some[0];
      this.at += some[0].length;
      return;
    }
    const c = this.text[this.at];
    const taken = c === "\\" ? this.escape() :
      c === "`"              ? this.code() :
      c === "<"              ? this.angled() :
      c === "&"              ? this.entity() :
      c === "\n"             ? this.lineBreak() :
      c === "h"              ? this.bare() :
      c === "[" || c === "!" ? this.bracket(c) :
      c === "]"              ? this.close() :
                               this.marks(c);
    if (!taken) {
      this.plain += c;
      this.at++;
    }
  }

  escape() {
    const next = this.text[this.at + 1];
    if (next === undefined || !ESCAPABLE.test(next)) return false;
    this.plain += next;
    this.at += 2;
    return true;
  }

  code() {
    const length = this.sticky(/`+/y)[0].length;
    const end = closingRun(this.runs, length, this.at + length);
    if (end < 0) {
      this.plain += "`".repeat(length);
      this.at += length;
      return true;
    }
    let inside = this.text.slice(this.at + length, end).replace(/\n/g, " ");
    if (/^ .*[^ ].* $/.test(inside)) inside = inside.slice(1, -1);
    this.push({ node: make("code", "", inside), depth: 0 });
    this.at = end + length;
    return true;
  }

  angled() {
    const match = this.sticky(/<((?:https?:\/\/|mailto:)[^\s<>]{1,2048})>/iy);
    const address = match && safeAddress(match[1]);
    if (!address) return false;
    this.push({ node: anchor(address, match[1].replace(/^mailto:/i, "")), depth: 0 });
    this.at += match[0].length;
    return true;
  }

  entity() {
    const match = this.sticky(/&(amp|lt|gt|quot|apos|nbsp|#39);/y);
    if (!match) return false;
    this.plain += match[1] === "#39" ? "'" : ENTITIES[match[1]];
    this.at += match[0].length;
    return true;
  }

  lineBreak() {
    this.plain = this.plain.replace(/ {1,8}$/, "");
    this.push({ node: make("br"), depth: 0 });
    this.at++;
    return true;
  }

  bare() {
    if (this.at > 0 && /[\p{L}\p{N}_]/u.test(this.text[this.at - 1])) return false;
    const match = this.sticky(/https?:\/\/[^\s<>"`]{1,2048}/iy);
    const shown = match && trimmed(match[0]);
    const address = shown && safeAddress(shown);
    if (!address) return false;
    this.push({ node: anchor(address, shown), depth: 0 });
    this.at += shown.length;
    return true;
  }

  bracket(c) {
    const image = c === "!";
    if (image && this.text[this.at + 1] !== "[") return false;
    this.push(null);
    this.brackets.push({ at: this.items.length, image });
    this.push({ node: document.createTextNode(image ? "![" : "["), depth: 0 });
    this.at += image ? 2 : 1;
    return true;
  }

  close() {
    const opener = this.brackets.pop();
    if (!opener || this.text[this.at + 1] !== "(") return false;
    const target = destination(this.text, this.at + 1);
    const address = target && safeAddress(target.address);
    if (!address) return false;
    this.push(null);
    const inner = emphasize(this.items.splice(opener.at).slice(1));
    const node = anchor(address, ...inner.map((item) => item.node));
    for (const link of [...node.querySelectorAll("a")]) link.replaceWith(...link.childNodes);
    if (opener.image) node.className = "picture";
    if (!node.textContent.trim()) node.append(address);
    this.items.push({ node, depth: inner.reduce((most, x) => Math.max(most, x.depth), 0) });
    this.at = target.end;
    if (!opener.image) this.brackets = []; // a link holds no link
    return true;
  }

  marks(c) {
    if (c !== "*" && c !== "_" && c !== "~") return false;
    const length = this.sticky(c === "*" ? /\*+/y : c === "_" ? /_+/y : /~+/y)[0].length;
    if (c === "~" && length !== 2) this.plain += c.repeat(length);
    else this.push(delimiter(this.text, this.at, length));
    this.at += length;
    return true;
  }
}

const inline = (text) => new Inline(text).nodes();

// ---- blocks -------------------------------------------------------------------------------------

const FENCE = /^( {0,3})(`{3,}(?=[^`]*$)|~{3,})(.*)$/;
const HEADING = /^ {0,3}(#{1,6})(?=[ \t]|$)(.*)$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const MARKER = /^( *)([-*+]|\d{1,9}[.)])( +|$)/;

const indentOf = (line) => /^ */.exec(line)[0].length;
const isBlank = (line) => line.trim() === "";

/** The cells of a table's row. */
function cells(line) {
  const row = line.trim().replace(/^\|/, "");
  const found = [""];
  for (let i = 0; i < row.length; i++) {
    if (row[i] === "\\" && row[i + 1] === "|") {
      found[found.length - 1] += "|";
      i++;
    } else if (row[i] === "|") found.push("");
    else found[found.length - 1] += row[i];
  }
  if (found.length > 1 && isBlank(found[found.length - 1])) found.pop();
  return found.map((cell) => cell.trim());
}

/** The columns' alignment if a table opens at this line, else null. */
function tableAt(lines, at) {
  if (at + 1 >= lines.length || !lines[at].includes("|") ||
    !/^[\s|:-]*-[\s|:-]*$/.test(lines[at + 1])) {
    return null;
  }
  const rule = cells(lines[at + 1]);
  if (!rule.every((cell) => /^:?-+:?$/.test(cell)) || rule.length !== cells(lines[at]).length)
    return null;
  return rule.map(
    (cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : "left"));
}

/** Whether this line ends a paragraph by opening something else. */
function interrupts(lines, at) {
  const line = lines[at];
  if (FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line)) return true;
  const marker = MARKER.exec(line);
  if (marker && marker[1].length < 4 && marker[3] &&
    (!/\d/.test(marker[2]) || parseInt(marker[2], 10) === 1)) {
    return true;
  }
  return tableAt(lines, at) !== null;
}

function fenceAt(lines, at) {
  const [, indent, fence, info] = FENCE.exec(lines[at]);
  const end =
    new RegExp("^ {0,3}" + (fence[0] === "`" ? "`" : "~") + "{" + fence.length + ",}\\s*$");
  let to = at + 1;
  while (to < lines.length && !end.test(lines[to])) to++;
  const strip = new RegExp("^ {0," + indent.length + "}");
  const code = lines.slice(at + 1, to).map((line) => line.replace(strip, "")).join("\n");
  return {
    type: "fence",
    to: Math.min(to + 1, lines.length),
    code,
    info: info.trim().split(/\s+/)[0]
  };
}

function quoteAt(lines, at) {
  const inner = [];
  let to = at;
  for (; to < lines.length; to++) {
    if (QUOTE.test(lines[to])) inner.push(lines[to].replace(QUOTE, ""));
    else if (isBlank(lines[to]) || isBlank(inner[inner.length - 1]) || interrupts(lines, to)) break;
    else inner.push(lines[to]);
  }
  return { type: "quote", to, inner };
}

/** A list from its first marker to the last line that belongs to it. Items are arrays of lines. */
function listAt(lines, at) {
  const first = MARKER.exec(lines[at]);
  const kind = (mark) => (/\d/.test(mark) ? mark[mark.length - 1] : mark);
  const list = {
    type: "list",
    items: [],
    ordered: /\d/.test(first[2]),
    start: parseInt(first[2], 10),
    loose: false
  };
  let to = at;
  let content = 0; // columns that an item's own lines are indented by
  let base = 0;
  let blank = false;
  for (; to < lines.length; to++) {
    const line = lines[to];
    const indent = indentOf(line);
    const marker = MARKER.exec(line);
    const item = list.items[list.items.length - 1];
    if (isBlank(line)) {
      blank = true;
      item.push("");
    } else if (item && indent >= Math.min(content, base + 2) && (indent >= content || marker)) {
      if (blank && indent >= content && !marker) list.loose = true;
      item.push(line.slice(Math.min(indent, content)));
      blank = false;
    } else if (marker && kind(marker[2]) === kind(first[2]) && !RULE.test(line)) {
      if (blank && item) list.loose = true;
      base = indent;
      content =
        base + marker[2].length + (marker[3].length > 4 ? 1 : Math.max(marker[3].length, 1));
      list.items.push([line.slice(content)]);
      blank = false;
    } else if (!item || blank || interrupts(lines, to)) break;
    else item.push(line.trimStart());
  }
  return {...list, to };
}

function paragraphAt(lines, at) {
  let to = at + 1;
  while (to < lines.length && !isBlank(lines[to]) && !interrupts(lines, to)) to++;
  return {
    type: "paragraph",
    to,
    text: lines.slice(at, to).map((line) => line.trimStart()).join("\n").trimEnd()
  };
}

function blockAt(lines, at) {
  const line = lines[at];
  if (FENCE.test(line)) return fenceAt(lines, at);
  const heading = HEADING.exec(line);
  if (heading) {
    const text = heading[2].trim().replace(/(^|[ \t])#{1,100}$/, "").trim();
    return { type: "heading", to: at + 1, level: heading[1].length, text };
  }
  if (RULE.test(line)) return { type: "rule", to: at + 1 };
  if (QUOTE.test(line)) return quoteAt(lines, at);
  if (MARKER.test(line) && indentOf(line) < 4) return listAt(lines, at);
  const align = tableAt(lines, at);
  if (align) {
    let to = at + 2;
    while (to < lines.length && lines[to].includes("|")) to++;
    return { type: "table", to, align, rows: [lines[at], ...lines.slice(at + 2, to)].map(cells) };
  }
  if (indentOf(line) >= 4) {
    let to = at + 1;
    while (to < lines.length && (isBlank(lines[to]) || indentOf(lines[to]) >= 4)) to++;
    const code = lines.slice(at, to).map((one) => one.slice(4)).join("\n").trimEnd();
    return { type: "fence", to, code, info: "" };
  }
  return paragraphAt(lines, at);
}

/** The blocks of these lines; `source` is what a block was made of. */
function blocks(lines) {
  const found = [];
  for (let at = 0; at < lines.length;) {
    if (isBlank(lines[at])) {
      at++;
      continue;
    }
    const block = blockAt(lines, at);
    block.source = lines.slice(at, block.to).join("\n");
    found.push(block);
    at = block.to;
  }
  return found;
}

// ---- blocks to nodes ----------------------------------------------------------------------------

const WORDS = new Set((
  "and as assert async await auto bool break case catch char class const continue def default del delete " +
  "do double elif else enum except export extends extern finally float fn for from func function goto if impl import in " +
  "int is lambda let long match mod mut new not or pass pub raise return short sizeof static struct super switch " +
  "then this throw try type typedef union unsigned use var void while with yield true false null None True False " +
  "echo fi done local esac select where insert update SELECT FROM WHERE AND OR NOT JOIN ON GROUP BY ORDER")
                        .split(" "));
const HASHED =
  /^(?:py|python|sh|bash|shell|zsh|console|ya?ml|toml|ruby|rb|perl|r|make|makefile|dockerfile)$/i;
const UNPAINTED = /^(?:|te?xt|plain|markdown|md|output|diff)$/i;

/** Code as nodes: comments, strings, numbers and words of common languages get a class. */
function painted(code, language) {
  if (UNPAINTED.test(language) || code.length > PAINT_MAX) return [code];
  const comment =
    HASHED.test(language) ? "#[^\\n]*" : "\\/\\/[^\\n]*|\\/\\*[^]*?(?:\\*\\/|$)|--[^\\n]*(?=\\n|$)";
  const marks =
    /^sql$/i.test(language) || HASHED.test(language) ? comment : comment.replace(/\|--.*$/, "");
  const pattern = new RegExp("(" + marks +
      ")|(\"(?:\\\\.|[^\"\\\\\\n])*\"?|'(?:\\\\.|[^'\\\\\\n])*'?|`(?:\\\\.|[^`\\\\])*`?)" +
      "|\\b(0x[\\da-fA-F]+|\\d[\\d_.]*(?:e[+-]?\\d+)?)\\b|([A-Za-z_$][\\w$]*)",
    "g");
  const nodes = [];
  let plain = "";
  for (let at = 0, match; at < code.length; at = pattern.lastIndex) {
    pattern.lastIndex = at;
    match = pattern.exec(code);
    plain += code.slice(at, match ? match.index : code.length);
    if (!match) break;
    const kind = match[1] ? "remark" :
      match[2]            ? "string" :
      match[3]            ? "number" :
      WORDS.has(match[4]) ? "word" :
                            "";
    if (!kind) {
      plain += match[0];
      continue;
    }
    nodes.push(plain, make("span", kind, match[0]));
    plain = "";
  }
  return [...nodes, plain];
}

function codeBlock(block) {
  const label = make("span", "language");
  const copy = make("button", "copy-code", "Copy");
  copy.type = "button";
  copy.setAttribute("aria-label", "Copy code");
  const pre = make("pre", "", make("code"));
  pre.tabIndex = 0;
  pre.dir = "ltr";
  pre.setAttribute("aria-label", "Code");
  pre.setAttribute("role", "region");
  const node = make("div", "code", make("div", "code-head", label, copy), pre);
  fillCode(node, block);
  return node;
}

function fillCode(node, block) {
  node.querySelector(".language").textContent = block.info || "text";
  node.querySelector("code").replaceChildren(...painted(block.code, block.info));
}

function table(block) {
  const body = make("tbody");
  const head = make("thead");
  block.rows.forEach((row, r) => {
    const line = make("tr");
    block.align.forEach((align, c) => {
      const cell =
        make(r ? "td" : "th", align === "left" ? "" : "to-" + align, ...inline(row[c] || ""));
      if (!r) cell.scope = "col";
      cell.dir = "auto";
      line.append(cell);
    });
    (r ? body : head).append(line);
  });
  const node = make("div", "table", make("table", "", head, body));
  node.tabIndex = 0;
  node.setAttribute("role", "region");
  node.setAttribute("aria-label", "Table");
  return node;
}

function listItem(lines, list, depth) {
  const item = make("li");
  const task = /^\[([ xX])\] /.exec(lines[0]);
  const rest = task ? [lines[0].slice(4), ...lines.slice(1)] : lines;
  if (task) {
    const box = make("input");
    box.type = "checkbox";
    box.checked = task[1] !== " ";
    box.disabled = true;
    item.className = "task";
    item.append(box);
  }
  item.dir = "auto";
  for (const block of blocks(rest)) {
    if (!list.loose && block.type === "paragraph") item.append(...inline(block.text));
    else item.append(blockNode(block, depth + 1));
  }
  return item;
}

function blockNode(block, depth) {
  if (depth > NEST_MAX) return make("p", "", block.source);
  switch (block.type) {
    case "fence": return codeBlock(block);
    case "heading": { // the page has h1 and h2 of its own
      const node =
        make("h" + Math.min(block.level + 2, 6), "level-" + block.level, ...inline(block.text));
      node.dir = "auto";
      return node;
    }
    case "rule": return make("hr");
    case "quote":
      return make("blockquote", "", ...blocks(block.inner).map((one) => blockNode(one, depth + 1)));
    case "list": {
      const node = make(block.ordered ? "ol" : "ul", block.loose ? "loose" : "");
      if (block.ordered && block.start !== 1) node.start = block.start;
      node.append(...block.items.map((lines) => listItem(lines, block, depth)));
      return node;
    }
    case "table": return table(block);
    default: {
      const node = make("p", "", ...inline(block.text));
      node.dir = "auto";
      return node;
    }
  }
}

const linesOf = (text) => text.replace(/\r\n?/g, "\n")
                            .replace(/^[ \t]+/gm, (lead) => lead.replace(/\t/g, "    "))
                            .split("\n");

/** Markdown text as one div of DOM nodes. */
export function render(text) {
  const node = make("div", "prose");
  update(node, String(text));
  return node;
}

const shown = new WeakMap(); // container -> the blocks it shows

/** Makes `container` show `text`; blocks that did not change since the last call are left alone. */
export function update(container, text) {
  const before = shown.get(container) || [];
  const now = blocks(linesOf(text));
  let same = 0;
  while (same < before.length && same < now.length && before[same].source === now[same].source &&
    before[same].type === now[same].type) {
    now[same].node = before[same].node;
    same++;
  }
  for (let i = same; i < now.length; i++) {
    const old = before[i];
    if (old && old.type === "fence" && now[i].type === "fence") {
      now[i].node = old.node;
      fillCode(old.node, now[i]);
    } else {
      now[i].node = blockNode(now[i], 0);
      if (old) old.node.replaceWith(now[i].node);
      else container.append(now[i].node);
    }
  }
  for (let i = now.length; i < before.length; i++) before[i].node.remove();
  shown.set(container, now.map(({ type, source, node }) => ({ type, source, node })));
}
