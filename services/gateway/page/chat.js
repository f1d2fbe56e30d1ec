// chat.js - one conversation: its turns on the page, and the answers that stream into them.
//
// Owns:     sending, stopping, going on after a break, retry, edit, what is shown of a turn.
// Does not: know the list of conversations, the settings' form or the text field (app.js).

import * as api from "./api.js";
import {update} from "./markdown.js";

const SETTLE_TRIES = 16; // looks at the server after an answer was stopped ...
const SETTLE_MS = 125;   // ... this far apart
const RESUME_MS = [300, 800, 1600, 3200, 6400]; // waits before a broken stream is asked for again
const STATS_MAX = 100;                          // conversations whose speeds are remembered
const TITLE_MAX = 80;
const ELSEWHERE = "This conversation was changed elsewhere. Reload the page to see it as it is.";

export const ID = /^[A-Za-z0-9._-]{1,64}$/;

// ---- small helpers ------------------------------------------------------------------------------

/** An element with attributes and children; `onclick` and the like are listeners. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** A drawing of index.html's set. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", "#i-" + name);
  svg.append(use);
  return svg;
}

function iconButton(name, label, onclick) {
  return el("button",
    { type: "button", class: "icon-button", "aria-label": label, title: label, onclick },
    icon(name));
}

/** Puts text on the clipboard, also where the page is not in a secure context. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = el("textarea", { class: "hidden-text", "aria-hidden": "true" });
    const focused = document.activeElement;
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    if (focused) focused.focus();
    return done;
  }
}

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return "chat-" + Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}

/** A stored JSON value, or `otherwise` where there is none or it is broken. */
export function recall(store, name, otherwise) {
  try {
    return JSON.parse(store.getItem(name)) ?? otherwise;
  } catch { return otherwise; }
}

export function remember(store, name, value) {
  try {
    store.setItem(name, JSON.stringify(value));
  } catch { /* full or forbidden: the page works without */
  }
}

const wait = (ms, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, ms);
  if (signal)
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    });
});

function textOf(content) {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return "";
  return content.map((part) => (part && typeof part.text === "string" ? part.text : "")).join("");
}

const isSystem = (message) => message.role === "system" || message.role === "developer";

/** What the user said in a stored turn. */
export function questionOf(turn) {
  const said = (turn.messages || []).filter((message) => !isSystem(message));
  return said.map((message) => textOf(message.content)).join("\n\n");
}

/** The beginning of a question on one line. */
export const titleOf = (text) => text.trim().replace(/\s+/g, " ").slice(0, TITLE_MAX);

/** Enter in `area` calls `done`; Shift+Enter and an input method's Enter do not. */
export function onEnter(area, done) {
  area.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229)
      return;
    event.preventDefault();
    done();
  });
}

/** Makes a text field as high as its text. */
export function fit(area) {
  if (CSS.supports("field-sizing", "content")) return;
  area.style.height = "auto";
  area.style.height = area.scrollHeight + "px";
}

// ---- speeds under the answers -------------------------------------------------------------------

function statsOf(id) {
  return recall(localStorage, "gemline.stats", {})[id] || {};
}

function keepStats(id, index, stats) {
  const all = recall(localStorage, "gemline.stats", {});
  const mine = {...all[id], [index]: stats };
  delete all[id];
  all[id] = mine; // the newest last
  for (const old of Object.keys(all).slice(0, -STATS_MAX)) delete all[old];
  remember(localStorage, "gemline.stats", all);
}

export function forgetStats(id) {
  const all = recall(localStorage, "gemline.stats", {});
  delete all[id];
  remember(localStorage, "gemline.stats", all);
}

function statsNodes(stats) {
  const seconds =
    stats.first >= 9950 ? (stats.first / 1000).toFixed(0) : (stats.first / 1000).toFixed(2);
  const parts = [];
  if (stats.rate > 0)
    parts.push(`${stats.rate >= 100 ? Math.round(stats.rate) : stats.rate.toFixed(1)} tokens/s`);
  if (stats.first >= 0) parts.push(`first token ${seconds} s`);
  if (stats.tokens > 0) parts.push(stats.tokens === 1 ? "1 token" : `${stats.tokens} tokens`);
  return parts.map((part) => el("span", {}, part));
}

// ---- one turn -----------------------------------------------------------------------------------

const NOTES = {
  length: "The answer reached its length limit.",
  stopped: "Stopped.",
  cancelled: "Stopped.",
  error: "The answer ended early.",
};

/** A question and its answer. state: running, done, stopped or failed. */
class Turn {
  constructor(chat, user) {
    Object.assign(this,
      { chat, user, answer: "", finish: "", stats: null, state: "done", error: "", kept: true });
    this.question = el("div", { class: "bubble", dir: "auto" }, user);
    this.tools = el("div", { class: "tools" },
      iconButton("copy", "Copy message", (event) => copied(event.currentTarget, this.user)),
      iconButton("edit", "Edit and send again", () => this.edit()));
    this.mine = el("article", { class: "user", "aria-label": "You" }, this.question, this.tools);
    this.body = el("div", { class: "prose" });
    this.note = el("p", { class: "note" });
    this.foot = el("div", { class: "foot" });
    this.theirs =
      el("article", { class: "answer", "aria-label": "Answer" }, this.body, this.note, this.foot);
    this.frame = 0;
  }

  setUser(text) {
    this.user = text;
    this.question.textContent = text;
  }

  /** Shows more text at the next frame; what comes within a frame is drawn once. */
  grow(text) {
    this.answer = text;
    if (!this.frame) this.frame = requestAnimationFrame(() => this.draw());
  }

  draw() {
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    update(this.body, this.answer);
    this.chat.hooks.grown(this.chat);
  }

  /** Brings everything but the answer's text up to date. */
  paint() {
    this.draw();
    const running = this.state === "running";
    const last = this.chat.turns[this.chat.turns.length - 1] === this;
    this.theirs.classList.toggle("running", running);
    this.theirs.classList.toggle("waiting", running && !this.answer);
    this.theirs.setAttribute("aria-busy", String(running));
    this.mine.hidden = !this.user;
    this.tools.hidden = Boolean(this.chat.running);
    this.note.className = this.state === "failed" ? "note failed" : "note";
    this.note.hidden = true;
    this.foot.replaceChildren();
    if (running) return;
    this.paintNote();
    if (this.answer) {
      this.foot.append(
        iconButton("copy", "Copy answer", (event) => copied(event.currentTarget, this.answer)));
    }
    if (last && this.user && this.state !== "failed" && !this.chat.running) {
      this.foot.append(iconButton("retry", "Answer again", () => this.chat.again(this)));
    }
    if (this.stats) this.foot.append(el("p", { class: "stats" }, ...statsNodes(this.stats)));
  }

  paintNote() {
    const text = this.state === "failed" ? this.error :
      this.state === "stopped"           ? NOTES.stopped :
                                           NOTES[this.finish];
    if (!text) return;
    this.note.replaceChildren(text);
    this.note.hidden = false;
    if (this.state !== "failed") return;
    this.note.prepend(icon("alert"));
    if (this.user && !this.chat.running) {
      this.note.append(el("button",
        { type: "button", class: "quiet", onclick: () => this.chat.again(this) }, "Try again"));
    }
  }

  /** Puts a text field in the message's place. */
  edit() {
    if (this.chat.running) return;
    const area = el("textarea",
      { "aria-label": "Edit your message", rows: "2", dir: "auto", maxlength: "200000" });
    const leave = () => {
      form.replaceWith(this.question);
      this.tools.hidden = false;
      this.tools.lastElementChild.focus();
    };
    const send = () => {
      const text = area.value.trim();
      if (!text || this.chat.running) return;
      leave();
      this.chat.again(this, text);
    };
    const form = el("form", {
      class: "edit",
      onsubmit: (event) => {
        event.preventDefault();
        send();
      }
    },
      area,
      el("div", { class: "row" },
        el("button", { type: "button", class: "quiet", onclick: leave }, "Cancel"),
        el("button", { type: "submit", class: "primary" }, "Send")));
    area.value = this.user;
    area.addEventListener("input", () => fit(area));
    area.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      leave();
    });
    onEnter(area, send);
    this.question.replaceWith(form);
    this.tools.hidden = true;
    fit(area);
    area.focus();
  }

  remove() {
    cancelAnimationFrame(this.frame);
    this.mine.remove();
    this.theirs.remove();
  }
}

/** Copies and says so: a tick on the button, a word for those who listen. */
export async function copied(button, text) {
  const done = await copyText(text);
  const live = document.getElementById("live");
  live.textContent = done ? "Copied." : "The browser did not let the page copy.";
  if (!done) return;
  button.classList.add("copied");
  if (button.classList.contains("copy-code")) button.textContent = "Copied";
  else button.replaceChildren(icon("check"));
  setTimeout(() => {
    button.classList.remove("copied");
    if (button.classList.contains("copy-code")) button.textContent = "Copy";
    else button.replaceChildren(icon("copy"));
  }, 1400);
}

// ---- the conversation ---------------------------------------------------------------------------

/** hooks: request() gives the settings as request fields and `system`; changed(chat) when it starts,
 *  ends or is renamed; grown(chat) when more is shown; finished(chat, turn); refused() after a 401. */
export class Chat {
  constructor(id, hooks) {
    Object.assign(this,
      { id, hooks, turns: [], running: null, title: "", system: "", fresh: false, unsure: false });
    this.root = el("div", { class: "turns" });
  }

  get empty() {
    return this.turns.length === 0;
  }

  add(user) {
    const turn = new Turn(this, user);
    this.turns.push(turn);
    this.root.append(turn.mine, turn.theirs);
    if (!this.title) this.title = titleOf(user);
    return turn;
  }

  paint() {
    for (const turn of this.turns) turn.paint();
  }

  /** Shows what the server has, and goes on with an answer that is still running. */
  async load() {
    const stored = await api.session(this.id);
    if (!stored.known) throw new api.ApiError("This conversation is not here any more.", 404);
    this.show(stored);
    if (stored.busy) this.rejoin(stored);
  }

  show(stored) {
    const stats = statsOf(this.id);
    for (const turn of this.turns.splice(0)) turn.remove();
    stored.turns.forEach((one, index) => {
      if (index === 0) this.showSystem((one.messages || []).find(isSystem));
      const turn = this.add(questionOf(one));
      turn.answer = one.answer || "";
      turn.finish = one.finish_reason || "";
      turn.stats = stats[index] || null;
    });
    this.paint();
  }

  showSystem(message) {
    if (this.systemNode) this.systemNode.remove();
    this.system = message ? textOf(message.content) : "";
    if (!this.system) return;
    this.systemNode = el("details", { class: "system" }, el("summary", {}, "System text"),
      el("p", { dir: "auto" }, this.system));
    this.root.prepend(this.systemNode);
  }

  /** After a reload: the running answer from its first token. */
  rejoin(stored) {
    const pending = recall(sessionStorage, "gemline.pending", {});
    const last = this.turns[this.turns.length - 1];
    const listed = last && !stored.turns[stored.turns.length - 1].finish_reason;
    const turn = listed ? last : this.add(pending.id === this.id ? String(pending.text) : "");
    const index = this.turns.indexOf(turn);
    this.run(turn, index, async (signal) => {
      await this.resume(turn, index, signal);
      const one = (await this.quiet(signal)).turns[index];
      if (one) turn.setUser(questionOf(one));
    });
  }

  /** A new question at the end. */
  async send(text) {
    if (this.running) return;
    for (const turn of this.turns.filter((one) => !one.kept)) { // the model never saw these
      turn.remove();
      this.turns.splice(this.turns.indexOf(turn), 1);
    }
    const index = this.turns.length;
    const turn = this.add(text);
    await this.run(turn, index, (signal) => this.ask(turn, index, index, signal));
  }

  /** The same question, or another in its place: what came after it goes. */
  async again(turn, text = turn.user) {
    if (this.running) return;
    const index = this.turns.indexOf(turn);
    const stored = this.turns.filter((one) => one.kept).length;
    for (const later of this.turns.splice(index)) later.remove();
    if (index === 0) this.title = "";
    const next = this.add(text);
    await this.run(next, index, (signal) => this.ask(next, index, stored, signal));
  }

  stop() {
    if (!this.running || this.running.stopped) return;
    this.running.stopped = true;
    this.running.controller.abort();
  }

  /** Runs `work` as the answer of `turn` and brings the page up to date whatever comes of it. */
  async run(turn, index, work) {
    const running = { turn, controller: new AbortController(), stopped: false };
    this.running = running;
    Object.assign(turn, { state: "running", error: "" });
    remember(sessionStorage, "gemline.pending", { id: this.id, text: turn.user });
    this.paint();
    this.hooks.changed(this);
    try {
      await work(running.controller.signal);
      turn.state = "done";
    } catch (error) {
      turn.state = running.stopped ? "stopped" : "failed";
      turn.error = error instanceof api.ApiError ?
        error.message :
        "Something went wrong in the page: " + error.message;
      turn.paint();
      await this.settle(turn, index, error);
      if (error.status === 401) this.hooks.refused();
    }
    this.running = null;
    sessionStorage.removeItem("gemline.pending");
    this.paint();
    this.hooks.changed(this);
    this.hooks.finished(this, turn);
  }

  /** Removes the server's turns from `index` on, if it has as many as this page thinks. */
  async rewind(index, expected, signal) {
    let stored = await this.quiet(signal);
    if (stored.turns.length < index || (stored.turns.length !== expected && !this.unsure)) {
      throw new api.ApiError(ELSEWHERE, 409, "elsewhere");
    }
    this.unsure = false;
    while (stored.turns.length > index) {
      const before = stored.turns.length;
      await api.undo(this.id, signal);
      stored = await api.session(this.id, signal);
      if (stored.turns.length >= before)
        throw new api.ApiError("The server could not take the last turn back.");
    }
  }

  /** The conversation as the server has it, once no answer is running and it has `turns` turns, or
   *  time is up. */
  async quiet(signal, turns = 0) {
    let stored = await api.session(this.id, signal);
    for (let i = 0; (stored.busy || stored.turns.length < turns) && i < SETTLE_TRIES; i++) {
      await wait(SETTLE_MS, signal);
      stored = await api.session(this.id, signal);
    }
    return stored;
  }

  /** After a stop or a failure: what of this turn the server kept. */
  async settle(turn, index, error) {
    turn.kept = false;
    if (error.code === "elsewhere") return;
    try {
      // A stopped turn is stored a moment after its stream ended.
      const stopped = turn.state === "stopped";
      const stored = await this.quiet(undefined, stopped && turn.answer ? index + 1 : 0);
      turn.kept = stored.turns.length > index;
      this.unsure = !turn.kept; // it may still be stored: rewind() finds out
      if (turn.kept && turn.state === "stopped") turn.answer = stored.turns[index].answer || "";
    } catch {
      this.unsure = true;
    }
  }

  /** Sends the question and streams the answer. */
  async ask(turn, index, stored, signal) {
    const { system, ...fields } = this.hooks.request();
    const messages = [{ role: "user", content: turn.user }];
    if (!this.fresh) await this.rewind(index, stored, signal);
    this.fresh = false;
    if (index === 0) {
      this.showSystem(system ? { content: system } : null);
      if (system) messages.unshift({ role: "system", content: system });
    }
    const clock = performance.now();
    const response = await api.chat({
      ...fields,
      messages,
      session: this.id,
      stream: true,
      stream_options: { include_usage: true },
    },
      signal);
    try {
      await this.read(turn, index, response, clock);
    } catch (error) {
      if (!(error instanceof api.BrokenStream)) throw error;
      await this.resume(turn, index, signal);
    }
  }

  /** Streams a response into the turn. */
  async read(turn, index, response, clock) {
    let text = "";
    let first = 0;
    let latest = 0;
    for await (const event of api.events(response)) {
      const choice = (event.choices || [])[0] || {};
      const delta = (choice.delta && choice.delta.content) || "";
      if (delta) {
        latest = performance.now();
        first = first || latest;
        text += delta;
        if (turn.theirs.classList.contains("waiting")) turn.theirs.classList.remove("waiting");
        if (text.length >= turn.answer.length) turn.grow(text);
      }
      if (choice.finish_reason) turn.finish = choice.finish_reason;
      if (event.usage)
        turn.stats = this.measure(event, clock && first ? first - clock : -1, latest - first);
    }
    turn.answer = text;
    if (turn.stats) keepStats(this.id, index, turn.stats);
  }

  measure(event, first, span) {
    const timings = event.timings || {};
    const tokens = event.usage.completion_tokens || 0;
    const rate = timings.predicted_per_second || (span > 0 ? (tokens - 1) / (span / 1000) : 0);
    return { rate, first: first >= 0 ? first : timings.ttft_ms ?? -1, tokens };
  }

  /** Goes on with an answer whose stream broke: from the stream of the session, else from what is stored. */
  async resume(turn, index, signal) {
    for (const ms of [0, ...RESUME_MS]) {
      await wait(ms, signal);
      try {
        await this.read(turn, index, await api.follow(this.id, signal), 0);
        return;
      } catch (error) {
        if (error instanceof api.BrokenStream) continue;
        if (!(error instanceof api.ApiError) || error.status === 401) throw error;
        if (error.status !== 0 && error.status !== 503) break; // it is not running any more
      }
    }
    const stored = await this.quiet(signal);
    const one = stored.turns[index];
    if (!one) throw new api.ApiError("The connection broke before the answer was done.");
    turn.answer = one.answer || "";
    turn.finish = one.finish_reason || "";
  }
}
