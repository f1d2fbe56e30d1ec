// api.js - the page's calls to the server it came from.
//
// Owns:     requests with the cookie or a key, server-sent events, errors as plain sentences.
// Does not: know the page's elements, or call another host.

const KEY = "gemline.key"; // in sessionStorage: gone with the tab
const EVENT_MAX = 1 << 20; // characters of one event

/** What went wrong, as a sentence for the reader. status 0: the server was not reached. */
export class ApiError extends Error {
  constructor(sentence, status = 0, code = "") {
    super(sentence);
    this.status = status;
    this.code = code;
  }
}

/** The stream ended before its answer did. */
export class BrokenStream extends Error {}

export const setKey = (key) =>
  (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY));
export const hasKey = () => Boolean(sessionStorage.getItem(KEY));

function sentence(status, error, retryAfter) {
  const said = typeof error.message === "string" ? error.message : "";
  const soon = /^\d+$/.test(retryAfter || "") ? ` Wait ${retryAfter} s.` : " Wait a moment.";
  if (error.code === "context_length_exceeded") {
    return "This conversation is longer than the model can read. Start a new chat, or edit an earlier message.";
  }
  if (status === 401)
    return hasKey() ? "The server does not take this API key." : "This server asks for an API key.";
  if (status === 409) return "This conversation is still answering. Wait until it is done.";
  if (status === 413) return "This message is too long to send. Shorten it.";
  if (status === 429) return "Too many requests at once." + soon;
  if (status === 503) return (said || "The model is not ready yet.") + soon;
  return said || `The server answered with status ${status}.`;
}

async function failure(response) {
  let error = {};
  try {
    error = (await response.json()).error || {};
  } catch { /* not JSON: the status says enough */
  }
  const text = sentence(response.status, error, response.headers.get("retry-after"));
  return new ApiError(text, response.status, error.code || "");
}

/** One request; the response if its status is 2xx, else an ApiError. */
async function request(method, path, body, signal) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = "Bearer " + key;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method,
      headers,
      signal,
      credentials: "same-origin",
      cache: "no-store",
      redirect: "error",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Check that Gemline is running.");
  }
  if (!response.ok) throw await failure(response);
  return response;
}

const sessionPath = (id) => "/v1/sessions/" + encodeURIComponent(id);
const json = async (...args) => (await request(...args)).json();

export const models = async () => (await json("GET", "/v1/models")).data || [];
export const sessions = async () => ((await json("GET", "/v1/sessions")).data || [])
  .map((one) => ({ ...one, touched: one.touched_at || one.created_at }));
export const remove = (id) => request("DELETE", sessionPath(id));
export const undo = (id, signal) => request("POST", sessionPath(id) + "/undo", {}, signal);
export const chat = (body, signal) => request("POST", "/v1/chat/completions", body, signal);

/** The running answer of a conversation from its first token on. */
export const follow = (id, signal) =>
  request("GET", sessionPath(id) + "/stream?from=0", undefined, signal);

/** A stored conversation; one that the server does not know is empty. */
export async function session(id, signal) {
  try {
    const found = await json("GET", sessionPath(id), undefined, signal);
    const turns = (found.turns || []).map((one) => ({ ...one, answer: one.answer?.content ?? "" }));
    return { known: true, busy: Boolean(found.busy), turns };
  } catch (error) {
    if (error.status === 404) return { known: false, busy: false, turns: [] };
    throw error;
  }
}

/** The data of each event as an object, up to [DONE]. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      held = (held + value).replace(/\r\n/g, "\n");
      if (held.length > EVENT_MAX) throw new ApiError("The server sent an event that is too long.");
      const parts = held.split("\n\n");
      held = parts.pop();
      for (const part of parts) {
        const data = part.split("\n")
                       .filter((line) => line.startsWith("data:"))
                       .map((line) => line.slice(5).trim())
                       .join("\n");
        if (data === "[DONE]") return;
        if (data) yield parsed(data);
      }
    }
  } catch (error) {
    if (error instanceof ApiError || error.name === "AbortError") throw error;
    throw new BrokenStream();
  } finally { reader.cancel().catch(() => {}); }
  throw new BrokenStream();
}

function parsed(data) {
  let event;
  try {
    event = JSON.parse(data);
  } catch { throw new ApiError("The server sent an event that is not JSON."); }
  if (event.error)
    throw new ApiError(
      sentence(event.error.status || 500, event.error), 500, event.error.code || "");
  return event;
}
