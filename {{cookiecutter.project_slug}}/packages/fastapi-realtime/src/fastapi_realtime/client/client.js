/**
 * A client of rooms, for browsers and Node. Copy this file and client.d.ts into your front end.
 *
 *     const room = connect("/ws_broadcast/tea", { token: () => fetchToken() });
 *     room.addEventListener("message", ({ detail }) => show(detail.sender, detail.data));
 *     const id = await room.send("Hello");
 *
 * When a connection breaks, it makes a new one. Others' messages come once and in order, and what
 * may be missing is told by a `gap`; each message sent is published once. Others write what they
 * like: put it into a page with `textContent`.
 */

const EVENTS_V1 = "events.v1";

/** Types of the server's events that are dispatched. */
const DISPATCHED = new Set(["message", "joined", "left", "present", "gap", "resumed", "error"]);

/** Close codes after which a new connection may work; any other one closes the room for good. */
const PASSING_CLOSE_CODES = new Set([1001, 1005, 1006, 1011, 1012, 1013, 1014, 1015, 4401]);
const INTERNAL_ERROR = 1011;
const UNAUTHORIZED = 4401;
const MESSAGE_TOO_BIG = 1009;

/** Errors of `new WebSocket` that come again: a token with a space, or `ws:` on a page with TLS. */
const HOPELESS_ERRORS = new Set(["SyntaxError", "SecurityError"]);

/** Errors after which the same message may be accepted later. */
const PASSING_ERRORS = new Set(["rate_limited", "unavailable"]);
const UNREAD_ERRORS = new Set(["rate_limited", "invalid_json"]);

/** Ids of one's own messages to remember; a room keeps 100 messages, unless its settings differ. */
const MAX_OWN_IDS = 1000;

const DEFAULTS = {
  inFlight: 1,
  maxQueued: 1000,
  maxHeld: 1000,
  minDelay: 1000,
  maxDelay: 30_000,
  pingAfter: 20_000,
  pongWithin: 10_000,
};

/** Why a message was not sent: the `code` is one of those in client.d.ts. */
export class RoomError extends Error {
  constructor(code, detail) {
    super(`${code}: ${detail}`);
    this.name = "RoomError";
    this.code = code;
  }
}

/** Join a room; see `RoomOptions` in client.d.ts. A URL may be relative to that of the page. */
export function connect(url, options) {
  return new Room(url, options);
}

/** A room that stays joined until it is closed. It dispatches the server's events, and `state`. */
export class Room extends EventTarget {
  #url;
  #options;
  #state = "connecting";
  #socket = null;
  #timer; // for the next attempt, or for a silent connection
  #isWaiting = false; // for the next attempt
  #attempts = 0; // to connect, since a connection that lasted
  #openedAt = Infinity;
  #since = ""; // the id up to which everything has been dispatched
  #queue = new Map(); // messages that are not accepted, by ref, in their order
  #uncertain = new Set(); // refs of those that a broken connection may have published
  #held = []; // events that wait until these are known
  #ownIds = new Set(); // of accepted messages, which the server sends again on a return
  #pause; // after an error that passes
  #refusals = 0; // since a message was accepted

  constructor(url, options) {
    super();
    this.#options = { WebSocket: globalThis.WebSocket, ...DEFAULTS, ...options };
    if (!this.#options.WebSocket) throw new TypeError("no WebSocket here: pass it as an option");
    this.#url = webSocketUrl(url);
    globalThis.addEventListener?.("online", this.#retry); // in browsers
    this.#connect();
  }

  /** `connecting`, also between two connections; `open`; or `closed`, for good. */
  get state() {
    return this.#state;
  }

  /** Send any JSON value; the promise has its id, once the server has accepted it. */
  async send(data) {
    if (this.#state === "closed") throw new RoomError("closed", "the room is closed");
    if (this.#queue.size >= this.#options.maxQueued) {
      throw new RoomError("queue_full", `${this.#queue.size} messages are not accepted yet`);
    }
    const ref = randomRef();
    const text = toJson({ type: "message", data, ref });
    return new Promise((resolve, reject) => {
      this.#queue.set(ref, { ref, text, resolve, reject, isSent: false });
      this.#sendNext();
    });
  }

  /** Hand a new token to the open connection, so that it outlives the old one. */
  async renew() {
    const token = await this.#options.token();
    if (this.#state === "open") this.#socket.send(toJson({ type: "token", token, ref: "token" }));
  }

  /** Leave the room; what has not been accepted is rejected with the code `closed`. */
  close() {
    this.#close(1000, "closed by this client");
  }

  /** Make the next attempt at once. */
  #retry = () => {
    if (!this.#isWaiting) return;
    clearTimeout(this.#timer);
    this.#connect();
  };

  async #connect() {
    this.#isWaiting = false;
    try {
      const token = await this.#options.token?.();
      if (this.#state !== "closed") this.#open(token);
    } catch (error) {
      this.#lost(1006, String(error));
    }
  }

  #open(token) {
    if (this.#since) this.#url.searchParams.set("since", this.#since);
    const protocols = token ? [EVENTS_V1, `bearer.${token}`] : [EVENTS_V1];
    try {
      this.#listen(new this.#options.WebSocket(this.#url.href, protocols));
    } catch (error) {
      if (!HOPELESS_ERRORS.has(error.name)) throw error;
      this.#close(1006, String(error));
    }
  }

  #listen(socket) {
    this.#socket = socket;
    this.#watch();
    // Late events of a connection that was given up are not for us.
    const isCurrent = () => socket === this.#socket;
    socket.onmessage = ({ data }) => isCurrent() && this.#receive(parseEvent(data));
    socket.onclose = ({ code, reason }) => isCurrent() && this.#lost(code, reason);
    // In Node 22, a failed handshake has no `close` event; elsewhere, that comes first.
    socket.onerror = () => setTimeout(socket.onclose, 0, { code: 1006, reason: "failed" });
  }

  /** Ask a silent connection for a sign of life, and give it up if there is none. */
  #watch() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (this.#state === "open") this.#socket.send(toJson({ type: "ping", ref: "ping" }));
      this.#timer = setTimeout(() => this.#lost(1006, "no answer"), this.#options.pongWithin);
    }, this.#options.pingAfter);
  }

  #receive(event) {
    this.#watch();
    if (!event) return;
    const message = this.#messageOf(event);
    if (event.type === "accepted") {
      if (message) this.#accepted(message, event.id);
    } else if (event.type === "error" && message) {
      this.#refused(message, event);
    } else if (event.type !== "pong") {
      this.#held.push(event);
      if (event.type === "joined" && typeof event.id === "string") this.#opened();
    }
    if (this.#uncertain.size === 0) this.#held.splice(0).forEach((each) => this.#deliver(each));
    if (this.#held.length > this.#options.maxHeld) this.#lost(1006, "no answer to a message");
  }

  #messageOf({ type, code, ref }) {
    // In JSON that is nested too deep, the server finds no `ref`; others have one, also pings.
    const isUnread = type === "error" && !ref && UNREAD_ERRORS.has(code);
    return isUnread ? this.#queue.values().next().value : this.#queue.get(ref);
  }

  #deliver(event) {
    if (this.#state === "closed") return; // by a listener
    if (typeof event.id === "string") this.#since = event.id;
    if (this.#ownIds.delete(event.id) || !DISPATCHED.has(event.type)) return;
    this.#dispatch(event.type, event);
  }

  #opened() {
    this.#openedAt = performance.now();
    this.#setState("open");
    this.#sendNext();
  }

  #sendNext() {
    if (this.#state !== "open" || this.#pause) return;
    let count = 0;
    for (const message of this.#queue.values()) {
      if (count++ === this.#options.inFlight) return;
      if (!message.isSent) this.#socket.send(message.text);
      message.isSent = true;
    }
  }

  #accepted(message, id) {
    this.#refusals = 0;
    this.#ownIds.add(id);
    if (this.#ownIds.size > MAX_OWN_IDS) this.#ownIds.delete(this.#ownIds.values().next().value);
    this.#settle(message);
    message.resolve(id);
  }

  #refused(message, { code, detail }) {
    if (PASSING_ERRORS.has(code)) {
      message.isSent = false;
      const delay = this.#backoff(this.#refusals) * (1 + Math.random());
      this.#pause ??= setTimeout(() => this.#resume(), delay);
    } else {
      this.#settle(message);
      message.reject(new RoomError(code, detail));
    }
  }

  #resume() {
    this.#pause = undefined;
    this.#refusals += 1;
    this.#sendNext();
  }

  #settle({ ref }) {
    this.#queue.delete(ref);
    this.#uncertain.delete(ref);
    this.#sendNext();
  }

  /** Milliseconds, twice as many each time. */
  #backoff(count) {
    return Math.min(this.#options.maxDelay, this.#options.minDelay * 2 ** count);
  }

  #lost(code, reason) {
    if (this.#state === "closed") return; // while it waited for a token
    const isPassing = PASSING_CLOSE_CODES.has(code) || this.#rejectTooBig(code, reason);
    if (!isPassing || (code === UNAUTHORIZED && !this.#options.token)) {
      this.#close(code, reason);
      return;
    }
    this.#giveUp();
    for (const message of this.#queue.values()) {
      if (message.isSent) this.#uncertain.add(message.ref);
      message.isSent = false;
    }
    if (performance.now() - this.#openedAt > this.#options.maxDelay) this.#attempts = 0;
    if (code === INTERNAL_ERROR) this.#attempts = Math.max(this.#attempts, 4); // give it time
    this.#openedAt = Infinity;
    const delay = Math.random() * this.#backoff(this.#attempts++); // spreads a crowd of clients
    this.#timer = setTimeout(() => this.#connect(), delay);
    this.#isWaiting = true;
    this.#setState("connecting", code, reason);
  }

  /** If a message was too big, reject the longest on its way; return whether there was one. */
  #rejectTooBig(code, reason) {
    if (code !== MESSAGE_TOO_BIG) return false;
    const sent = [...this.#queue.values()].filter((message) => message.isSent);
    const [longest] = sent.sort((a, b) => byteLength(b.text) - byteLength(a.text));
    if (!longest) return false;
    this.#queue.delete(longest.ref);
    this.#uncertain.delete(longest.ref);
    longest.reject(new RoomError("too_big", reason));
    return true;
  }

  /** Let go of a connection, whether it still works or not. */
  #giveUp() {
    const socket = this.#socket;
    this.#socket = null;
    this.#held = [];
    clearTimeout(this.#timer);
    clearTimeout(this.#pause);
    this.#pause = undefined;
    socket?.close();
  }

  #close(code, reason) {
    if (this.#state === "closed") return;
    this.#giveUp();
    this.#isWaiting = false;
    globalThis.removeEventListener?.("online", this.#retry);
    for (const { reject } of this.#queue.values()) reject(new RoomError("closed", `${code} ${reason}`));
    this.#queue.clear();
    this.#setState("closed", code, reason);
  }

  #setState(state, code, reason) {
    this.#state = state;
    this.#dispatch("state", { state, code, reason });
  }

  #dispatch(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** Return an absolute URL, `http:` being `ws:`; throw what no WebSocket may have. */
function webSocketUrl(text) {
  const url = new URL(text, globalThis.location?.href);
  url.protocol = url.protocol.replace(/^http/, "ws");
  if (!/^wss?:$/.test(url.protocol)) throw new TypeError(`not ws:, wss:, http: or https: but ${url.protocol}`);
  if (url.href.includes("#")) throw new TypeError(`a fragment in a WebSocket's URL: ${url.hash || "#"}`);
  return url;
}

/** Return a server's event; `null` for a frame that is none, like one of another server. */
function parseEvent(frame) {
  if (typeof frame !== "string") return null;
  try {
    const event = JSON.parse(frame);
    return typeof event?.type === "string" ? event : null;
  } catch {
    return null;
  }
}

function byteLength(text) {
  return new TextEncoder().encode(text).length;
}

/** Return 128 random bits; `crypto.randomUUID` is missing in pages without TLS. */
function randomRef() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Return JSON that is valid UTF-8: halves of surrogate pairs, which it can't have, are replaced. */
function toJson(value) {
  const replace = (escape) => (escape.startsWith("\\u") ? "\\ufffd" : escape);
  return JSON.stringify(value).replace(/\\(\\|ud[89a-f]..)/g, replace);
}
