// app.js - the page around the conversation.
//
// Owns:     the list, the text field, settings, colours, keys, dialogs, which conversation is open.
// Does not: stream (chat.js), parse markdown (markdown.js), or take a prompt from the address: its
//           fragment names a conversation to open and nothing else.

import * as api from "./api.js";
import * as chats from "./chat.js";
import {render} from "./markdown.js";

const NEAR_END = 96;     // pixels from the end within which the view follows the answer
const SPOKEN_MAX = 4000; // characters of an answer that screen readers are handed
const TITLES_MAX = 300; // titles that are remembered
const UNTITLED_MAX = 30; // conversations that are read for their titles at a time
const NUMBERS = ["temperature", "top_p", "top_k", "max_tokens", "seed"];
const WHOLE = ["top_k", "max_tokens", "seed"];

const { Chat, ID, copied, el, fit, icon, newId, onEnter, recall, remember } = chats;
const $ = (id) => document.getElementById(id);
const page = {
  model: "",
  listed: [],      // conversations as the server lists them
  live: new Map(), // id -> Chat that is open or still answering
  open: null,
  follows: true, // whether the view stays at the end
  titles: recall(localStorage, "gemline.titles", {}),
  settings: recall(localStorage, "gemline.settings", {}),
};

// ---- colours ------------------------------------------------------------------------------------

const systemDark = matchMedia("(prefers-color-scheme: dark)");

function paintTheme() {
  const choice = page.settings.theme;
  const dark = choice === "dark" || (choice !== "light" && systemDark.matches);
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("theme").setAttribute("aria-pressed", String(dark));
  $("theme").title = dark ? "Light colours" : "Dark colours";
  $("theme").replaceChildren(icon(dark ? "sun" : "moon"));
}

function setTheme(choice) {
  page.settings.theme = choice;
  remember(localStorage, "gemline.settings", page.settings);
  paintTheme();
}

// ---- the open conversation ----------------------------------------------------------------------

const hooks = {
  request() {
    const fields = { model: page.model, system: String(page.settings.system || "").trim() };
    for (const name of NUMBERS) {
      if (typeof page.settings[name] === "number") fields[name] = page.settings[name];
    }
    return fields;
  },
  changed(chat) {
    keepTitle(chat.id, chat.title);
    if (!chat.running && chat !== page.open) page.live.delete(chat.id);
    if (chat === page.open) paintOpen();
    paintList();
  },
  grown(chat) {
    if (chat === page.open) keepEnd();
  },
  finished(chat, turn) {
    if (chat === page.open) say(spoken(turn));
    loadList();
  },
  refused: () => askKey(),
};

function spoken(turn) {
  if (turn.state === "failed") return turn.error;
  const text = turn.body.innerText.slice(0, SPOKEN_MAX);
  return (turn.state === "stopped" ? "Stopped. " : "Answer: ") + text;
}

function say(text) {
  $("live").textContent = text;
}

function notice(text) {
  $("notice").hidden = !text;
  $("notice").textContent = text || "";
}

function paintOpen() {
  const chat = page.open;
  const running = Boolean(chat.running);
  document.body.classList.toggle("empty", chat.empty && !page.loading);
  $("hello").hidden = !chat.empty || page.loading;
  $("title").textContent = chat.title || "New chat";
  document.title = (chat.title ? chat.title + " – " : "") + "Gemline";
  $("stop").hidden = !running;
  $("send").hidden = running;
  $("stop").disabled = running && chat.running.stopped;
  paintSend();
}

function paintSend() {
  $("send").disabled = !$("message").value.trim();
}

/** Shows this conversation in the page. */
function show(chat) {
  if (page.open && page.open !== chat && !page.open.running) page.live.delete(page.open.id);
  page.open = chat;
  page.live.set(chat.id, chat);
  page.follows = true;
  $("thread").replaceChildren(chat.root);
  notice("");
  paintOpen();
  paintList();
  keepEnd();
}

/** To the text field, where that does not bring up a keyboard on the screen. */
function focusField() {
  if (!matchMedia("(hover: none)").matches) $("message").focus();
}

function address(id) {
  const fragment = id ? "#/c/" + id : "";
  if (location.hash !== fragment) history.pushState(null, "", location.pathname + fragment);
}

function newChat() {
  const chat = new Chat(newId(), hooks);
  chat.fresh = true;
  show(chat);
  address("");
  closeSide();
  focusField();
}

async function openChat(id) {
  closeSide();
  address(id);
  if (page.live.has(id)) {
    show(page.live.get(id));
    return;
  }
  const chat = new Chat(id, hooks);
  chat.title = page.titles[id] || "";
  page.wanted = id;
  try {
    await chat.load();
    if (page.wanted === id) show(chat);
  } catch (error) {
    if (page.wanted !== id) return;
    newChat();
    failed(error, () => openChat(id));
  }
}

/** A failure that belongs to no turn. */
function failed(error, again) {
  if (error.status === 401) {
    askKey();
    return;
  }
  notice(error instanceof api.ApiError ? error.message :
                                         "Something went wrong in the page: " + error.message);
  if (error.status === 404) return;
  $("notice").append(el("button", {
    type: "button",
    class: "quiet",
    onclick: () => {
      notice("");
      again();
    }
  },
    "Try again"));
}

/** Opens what the address names. */
function route() {
  page.loading = false;
  const match = /^#\/c\/(.+)$/.exec(location.hash);
  if (match && ID.test(match[1])) return openChat(match[1]);
  newChat();
}

// ---- the view's end -----------------------------------------------------------------------------

function distance() {
  const view = $("scroll");
  return view.scrollHeight - view.scrollTop - view.clientHeight;
}

function keepEnd() {
  if (page.follows) $("scroll").scrollTop = $("scroll").scrollHeight;
  paintLatest();
}

function paintLatest() {
  $("latest").hidden = distance() <= NEAR_END;
}

function watchScroll() {
  let before = 0;
  $("scroll").addEventListener("scroll", () => {
    const at = $("scroll").scrollTop;
    if (at < before - 2) page.follows = false; // only a reader goes up
    if (distance() < NEAR_END / 2) page.follows = true;
    before = at;
    paintLatest();
  }, { passive: true });
  $("latest").addEventListener("click", () => {
    page.follows = true;
    keepEnd();
    $("message").focus();
  });
}

// ---- the list -----------------------------------------------------------------------------------

const millis = (time) => (time > 1e11 ? time : time * 1000);

function ageOf(touched) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  if (touched >= midnight) return "Today";
  if (touched >= midnight - 864e5) return "Yesterday";
  return touched >= midnight - 7 * 864e5 ? "Last seven days" : "Earlier";
}

async function loadList() {
  try {
    page.listed = (await api.sessions()).filter((one) => ID.test(one.id));
    paintList();
    await loadTitles();
  } catch (error) {
    if (error.status === 401) askKey();
  }
}

/** A conversation's title is its first question, kept here since the server's list has none. */
function keepTitle(id, title) {
  if (page.titles[id] === title) return;
  delete page.titles[id];
  if (title) page.titles[id] = title; // the newest last
  for (const old of Object.keys(page.titles).slice(0, -TITLES_MAX)) delete page.titles[old];
  remember(localStorage, "gemline.titles", page.titles);
}

/** Reads the conversations whose titles are not known here, the newest first. */
async function loadTitles() {
  if (page.naming) return;
  page.naming = true;
  try {
    const unknown = rows().filter((row) => !page.titles[row.id] && !page.live.has(row.id));
    for (const row of unknown.slice(0, UNTITLED_MAX)) {
      const first = (await api.session(row.id)).turns[0];
      keepTitle(row.id, chats.titleOf(first ? chats.questionOf(first) : "") || "Empty chat");
    }
    if (unknown.length) paintList();
  } finally {
    page.naming = false;
  }
}

/** The server's list and the conversations that it does not list yet, newest first. */
function rows() {
  const known = new Set(page.listed.map((one) => one.id));
  const own = [...page.live.values()].filter((chat) => !known.has(chat.id) && !chat.empty);
  const all = [
    ...own.map((chat) => ({ id: chat.id, title: chat.title, touched: Date.now() })),
    ...page.listed.map((one) => ({...one, touched: millis(one.touched || one.created || 0) })),
  ];
  return all.sort((a, b) => b.touched - a.touched);
}

function paintList() {
  const groups = [];
  for (const row of rows()) {
    const age = ageOf(row.touched);
    if (!groups.length || groups[groups.length - 1].age !== age) groups.push({ age, items: [] });
    groups[groups.length - 1].items.push(listRow(row));
  }
  const focused = document.activeElement && document.activeElement.dataset.row;
  $("list").replaceChildren(
    ...groups.map((group) => el("section", { "aria-label": group.age }, el("h2", {}, group.age),
                    el("ul", {}, ...group.items))));
  if (!groups.length)
    $("list").append(el("p", { class: "nothing" }, "Your chats will be listed here."));
  if (focused) {
    const again =
      [...$("list").querySelectorAll("[data-row]")].find((node) => node.dataset.row === focused);
    if (again) again.focus();
  }
}

function listRow(row) {
  const chat = page.live.get(row.id);
  const title = (chat && chat.title) || page.titles[row.id] || "Untitled";
  const current = page.open && page.open.id === row.id && !page.open.empty;
  const running = Boolean(chat && chat.running);
  return el("li", { class: current ? "current" : "" },
    el("button", {
      type: "button",
      class: "row-open",
      "data-row": row.id,
      title,
      dir: "auto",
      "aria-current": current ? "page" : undefined,
      onclick: () => openChat(row.id)
    },
      el("span", {}, title),
      ...(running ? [el("i", { class: "pulse", role: "img", "aria-label": "answering" })] : [])),
    el("button", {
      type: "button",
      class: "icon-button row-delete",
      "data-row": row.id + "/delete",
      title: "Delete",
      "aria-label": "Delete chat: " + title,
      onclick: () => askDelete(row.id, title)
    },
      icon("trash")));
}

// ---- dialogs ------------------------------------------------------------------------------------

function askDelete(id, title) {
  const box = $("delete");
  box.querySelector(".what").textContent = `“${title}” will be gone for good.`;
  box.returnValue = "";
  box.onclose = () => {
    if (box.returnValue === "delete") removeChat(id);
  };
  box.showModal();
}

async function removeChat(id) {
  const chat = page.live.get(id);
  try {
    if (chat) {
      chat.stop();
      if (chat.running) await chat.quiet();
    }
    await api.remove(id);
  } catch (error) {
    if (error.status !== 404) {
      failed(error, () => removeChat(id));
      return;
    }
  }
  chats.forgetStats(id);
  keepTitle(id, "");
  page.live.delete(id);
  page.listed = page.listed.filter((one) => one.id !== id);
  say("Chat deleted.");
  if (page.open.id === id) newChat();
  paintList();
  ($("list").querySelector(".row-open") || $("new-chat")).focus();
}

function askKey() {
  const box = $("key");
  if (box.open) return;
  box.querySelector(".why").textContent = api.hasKey() ?
    "The server does not take this key. Try another one." :
    "This server asks for an API key.";
  box.returnValue = "";
  box.onclose = () => {
    const field = box.querySelector("input");
    const key = field.value.trim();
    field.value = "";
    if (box.returnValue === "use" && key) {
      api.setKey(key);
      start();
    } else notice("This server asks for an API key. Reload the page to enter one.");
  };
  box.showModal();
}

function fillSettings() {
  const form = $("settings").querySelector("form");
  for (const name of ["system", ...NUMBERS]) form.elements[name].value = page.settings[name] ?? "";
  form.elements.theme.value = page.settings.theme || "system";
  checkSettings();
}

/** Reads the fields; false with a sentence where a number is out of its range. */
function checkSettings() {
  const form = $("settings").querySelector("form");
  const problem = form.querySelector(".problem");
  const wrong =
    NUMBERS.map((name) => form.elements[name]).filter((field) => !field.checkValidity());
  for (const name of NUMBERS)
    form.elements[name].setAttribute("aria-invalid", String(wrong.includes(form.elements[name])));
  problem.hidden = !wrong.length;
  problem.textContent = wrong
                          .map((field) => {
                            const label = field.labels[0].firstElementChild.textContent;
                            const kind = WHOLE.includes(field.name) ? "a whole number" : "a number";
                            return `${label} takes ${kind} from ${field.min} to ${field.max}.`;
                          })
                          .join(" ");
  return !wrong.length;
}

function readSettings() {
  checkSettings();
  const form = $("settings").querySelector("form");
  const kept = { theme: form.elements.theme.value, system: form.elements.system.value };
  for (const name of NUMBERS) {
    const field = form.elements[name];
    if (field.value !== "" && field.checkValidity()) kept[name] = Number(field.value);
  }
  page.settings = kept;
  remember(localStorage, "gemline.settings", kept);
  paintTheme();
}

function wireSettings() {
  const form = $("settings").querySelector("form");
  $("open-settings").addEventListener("click", () => {
    fillSettings();
    $("settings").showModal();
  });
  form.addEventListener("input", readSettings);
  form.addEventListener("submit", (event) => {
    if (checkSettings()) return;
    event.preventDefault();
    form.querySelector("[aria-invalid=true]").focus();
  });
  $("defaults").addEventListener("click", () => {
    form.reset();
    form.elements.theme.value = "system";
    readSettings();
  });
}

/** A click beside a dialog closes it, and so do its buttons of the class `close`. */
function wireDialogs() {
  for (const box of document.querySelectorAll("dialog")) {
    box.addEventListener("mousedown", (event) => {
      if (event.target === box) box.close();
    });
    for (const button of box.querySelectorAll(".close"))
      button.addEventListener("click", () => box.close());
  }
}

// ---- the list as a drawer on a phone ------------------------------------------------------------

const phone = matchMedia("(max-width: 760px)");

function paintSide() {
  const open = document.body.classList.contains("side-open");
  $("side").inert = phone.matches && !open;
  $("main").inert = phone.matches && open;
  $("open-side").setAttribute("aria-expanded", String(open));
}

function openSide() {
  document.body.classList.add("side-open");
  paintSide();
  $("close-side").focus();
}

function closeSide() {
  if (!document.body.classList.contains("side-open")) return;
  document.body.classList.remove("side-open");
  paintSide();
  $("open-side").focus();
}

// ---- the text field and the keys ----------------------------------------------------------------

function submit() {
  const field = $("message");
  const text = field.value.trim();
  const chat = page.open;
  if (!text || chat.running) return;
  if (!page.model) {
    start();
    return;
  }
  field.value = "";
  fit(field);
  page.follows = true;
  notice("");
  say("Sent. The answer is coming.");
  address(chat.id);
  chat.send(text);
  keepEnd();
}

function wireComposer() {
  const field = $("message");
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  field.addEventListener("input", () => {
    fit(field);
    paintSend();
  });
  onEnter(field, submit);
  $("stop").addEventListener("click", () => stopAnswer());
  $("composer").addEventListener("mousedown", (event) => {
    if (event.target !== $("composer")) return;
    event.preventDefault();
    field.focus();
  });
}

function stopAnswer() {
  if (!page.open.running) return;
  page.open.stop();
  paintOpen();
  focusField();
}

function wireKeys() {
  const apple = /Mac|iPhone|iPad/.test(navigator.platform);
  if (apple) $("new-keys").textContent = "⌘ ⇧ O";
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") {
      if (document.body.classList.contains("side-open")) closeSide();
      else stopAnswer();
    } else if ((event.ctrlKey || event.metaKey) && event.shiftKey && event.code === "KeyO") {
      event.preventDefault();
      newChat();
    }
  });
}

function wire() {
  $("new-chat").addEventListener("click", newChat);
  $("open-side").addEventListener("click", openSide);
  $("close-side").addEventListener("click", closeSide);
  $("scrim").addEventListener("click", closeSide);
  $("theme").addEventListener("click",
    () => { setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"); });
  systemDark.addEventListener("change", paintTheme);
  phone.addEventListener("change", paintSide);
  addEventListener("popstate", route);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) loadList();
  });
  $("thread").addEventListener("click", (event) => {
    const button = event.target.closest(".copy-code");
    if (button) copied(button, button.closest(".code").querySelector("pre").textContent);
  });
  wireComposer();
  wireSettings();
  wireDialogs();
  wireKeys();
  watchScroll();
}

async function start() {
  notice("");
  try {
    const found = (await api.models())[0];
    if (!found) throw new api.ApiError("The server runs no model. Start one with: gemline up");
    page.model = found.id;
    $("model").textContent = found.id;
    if (found.max_model_len)
      $("model").title = `Reads up to ${found.max_model_len.toLocaleString("en")} tokens`;
    await loadList();
    if (page.open.empty) route();
  } catch (error) {
    page.loading = false;
    paintOpen();
    failed(error, start);
  }
}

/** Something to look at before the server has answered. */
function firstChat() {
  page.loading = /^#\/c\//.test(location.hash);
  const chat = new Chat(newId(), hooks);
  chat.fresh = true;
  show(chat);
  focusField();
}

window.gemline = { render };
paintTheme();
wire();
paintSide();
firstChat();
start();
