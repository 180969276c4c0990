/**
 * A client of rooms, for browsers and Node. Copy this file and client.d.ts into your front end.
 *
 *     const room = connect("/ws_broadcast/tea", { token: () => fetchToken() });
 *     room.addEventListener("message", ({ detail }) => show(detail.sender, detail.data));
 *     const id = await room.send("Hello");
 *     const milk = room.join("milk"); // another room, on the same connection
 *
 * It reconnects when the connection is lost. Messages of others arrive once and in order; a `gap`
 * event says that some may be missing. Each message sent is published once. Data of others is not
 * escaped: insert it into a page with `textContent`.
 */

const EVENTS_V1 = "events.v1";

/** Types of events that are dispatched. */
const DISPATCHED = new Set(["message", "append", "joined", "left", "present", "gap", "resumed", "error"]);

/** Close codes after which to reconnect; any other code closes the room for good. */
const RETRYABLE_CLOSE_CODES = new Set([1001, 1005, 1006, 1011, 1012, 1013, 1014, 1015, 4401]);
const LOST = 1006;
const INTERNAL_ERROR = 1011;
const UNAUTHORIZED = 4401;
const MESSAGE_TOO_BIG = 1009;

/** Permanent errors of `new WebSocket`: a space in the token, or `ws:` on an `https:` page. */
const PERMANENT_ERRORS = new Set(["SyntaxError", "SecurityError"]);

/** Errors after which to send the message again. */
const RETRYABLE_ERRORS = new Set(["rate_limited", "unavailable"]);
/** Errors that may have no `ref`. */
const ERRORS_WITHOUT_REF = new Set(["rate_limited", "invalid_json"]);

/** The `ref` of requests to leave. */
const LEAVE = "leave";

/** Ids of own messages to keep, at most; must be more than the history of the room (100). */
const MAX_OWN_IDS = 1000;

const DEFAULTS = {
  inFlight: 1,
  maxQueued: 1000,
  maxHeld: 1000,
  minDelay: 1000,
  maxDelay: 30_000,
  tokenWithin: 30_000,
  pingAfter: 20_000,
  pongWithin: 10_000,
};

/** Rejects the promise of `send`; for the `code`, see client.d.ts. */
export class RoomError extends Error {
  constructor(code, detail) {
    super(`${code}: ${detail}`);
    this.name = "RoomError";
    this.code = code;
  }
}

/** Join a room; see `RoomOptions` in client.d.ts. The URL may be relative to the page. */
export function connect(url, options) {
  return new Connection(url, options).room;
}

/** A room, joined until it is closed. Dispatches the server's events, and `state`. */
class Room extends EventTarget {
  #connection;
  #membership;

  constructor(connection, membership) {
    super();
    this.#connection = connection;
    this.#membership = membership;
  }

  /** The name, once the server has said it. */
  get name() {
    return this.#membership.name;
  }

  /** `connecting`, also while reconnecting; `open`; or `closed`, for good. */
  get state() {
    return this.#membership.state;
  }

  /** Send a JSON value; resolves to the message's id once the server has accepted it. */
  send(data, options) {
    return this.#connection.send(this.#membership, data, options);
  }

  /** Join another room on the same connection. */
  join(name, options) {
    return this.#connection.join(name, options);
  }

  /** Send a new token, so that the connection stays open when the old one expires. */
  renew() {
    return this.#connection.renew();
  }

  /** Leave the room for good; messages not yet accepted are rejected with `closed`. */
  close() {
    this.#connection.leave(this.#membership);
  }
}

/** A connection and its rooms: that of the URL, and those that were joined. */
class Connection {
  #url;
  #options;
  #main = this.#membership(); // in the room of the URL
  #joined = new Map(); // memberships in other rooms, by name
  #leaving = new Set(); // names of rooms whose events are ignored until the server has confirmed
  #id; // of the connection, on the server
  #socket = null;
  #attempt; // to connect; a new symbol for each
  #timer; // for the next attempt to connect, or for a ping or its pong
  #attempts = 0; // to reconnect, since a connection that lasted `maxDelay`
  #openedAt = Infinity;
  #queue = new Map(); // messages not yet accepted, by ref, in order
  #uncertain = new Set(); // refs of messages that were sent on a lost connection
  #held = []; // events to dispatch once no message is uncertain
  #ownIds = new Set(); // of accepted messages; the server repeats them after a reconnection
  #resendTimer; // set after a retryable error, to send again
  #rejections = 0; // such errors since a message was accepted

  constructor(url, options) {
    this.#options = { WebSocket: globalThis.WebSocket, ...DEFAULTS, ...options };
    if (!this.#options.WebSocket) throw new TypeError("no WebSocket here: pass it as an option");
    this.#url = webSocketUrl(url);
    globalThis.addEventListener?.("online", this.#online); // in browsers
    this.#connect();
  }

  get room() {
    return this.#main.room;
  }

  async send(membership, data, { keep = true } = {}) {
    if (membership.state === "closed") throw new RoomError("closed", "the room is closed");
    const { name, state } = membership;
    const room = membership === this.#main ? undefined : name;
    if (!keep) {
      if (state === "open") this.#sendEvent({ type: "message", room, data, keep });
      return "";
    }
    if (this.#queue.size >= this.#options.maxQueued) {
      throw new RoomError("queue_full", `${this.#queue.size} messages are not accepted yet`);
    }
    const ref = randomRef();
    const text = toJson({ type: "message", room, data, ref });
    return new Promise((resolve, reject) => {
      this.#queue.set(ref, { ref, text, membership, resolve, reject, isSent: false });
      this.#sendNext();
    });
  }

  join(name, { last = 0 } = {}) {
    if (name === this.#main.name) return this.room;
    const known = this.#joined.get(name);
    if (known && known.room !== this.room) return known.room;
    const membership = this.#membership(name, last);
    membership.since = known?.since ?? "";
    this.#joined.set(name, membership);
    if (this.#main.state === "closed") this.#closeRoom(membership, "closed", "the connection is closed");
    else if (this.#main.state === "open") this.#sendJoin(membership);
    return membership.room;
  }

  leave(membership) {
    if (membership === this.#main) {
      this.#close(1000, "closed by this client");
    } else if (membership.state !== "closed") {
      if (this.#main.state === "open") {
        this.#leaving.add(membership.name);
        this.#sendEvent({ type: "leave", room: membership.name, ref: LEAVE });
      }
      this.#closeRoom(membership, "closed", "closed by this client");
    }
  }

  async renew() {
    if (!this.#options.token) throw new TypeError("nothing to renew: pass `token` as an option");
    const token = await this.#token();
    if (this.#main.state === "open") this.#sendEvent({ type: "token", token, ref: "token" });
  }

  #membership(name, last = 0) {
    const membership = { name, last, since: "", state: "connecting", rejections: 0 };
    membership.room = new Room(this, membership);
    return membership;
  }

  /** Do not wait: begin a new attempt to connect, or test whether the connection still works. */
  #online = () => {
    if (this.#main.state === "open") this.#ping();
    else this.#connect();
  };

  /** Begin an attempt to connect; give up an earlier one that still waits. */
  async #connect() {
    this.#disconnect();
    const attempt = (this.#attempt = Symbol());
    const isCurrent = () => attempt === this.#attempt;
    try {
      const token = await this.#token();
      if (isCurrent()) this.#open(token);
    } catch (error) {
      if (isCurrent()) this.#lost(LOST, String(error));
    }
  }

  /** Return a token, if there is a callback; rejects if it does not answer in time. */
  async #token() {
    let timer;
    const late = new Promise((_, reject) => {
      const error = new RoomError("no_token", "the callback did not answer in time");
      timer = setTimeout(reject, this.#options.tokenWithin, error);
    });
    try {
      return await Promise.race([this.#options.token?.(), late]);
    } finally {
      clearTimeout(timer);
    }
  }

  #open(token) {
    if (this.#main.since) this.#url.searchParams.set("since", this.#main.since);
    const protocols = token ? [EVENTS_V1, `bearer.${token}`] : [EVENTS_V1];
    try {
      this.#listen(new this.#options.WebSocket(this.#url.href, protocols));
    } catch (error) {
      if (!PERMANENT_ERRORS.has(error.name)) throw error;
      this.#close(LOST, String(error));
    }
  }

  #listen(socket) {
    this.#socket = socket;
    this.#startPingTimer();
    // Ignore late events of an earlier connection.
    const isCurrent = () => socket === this.#socket;
    socket.onmessage = ({ data }) => isCurrent() && this.#receive(parseEvent(data));
    socket.onclose = ({ code, reason }) => isCurrent() && this.#lost(code || LOST, reason); // 0 in Deno
    // In Node 22, a failed handshake has no `close` event. Elsewhere, it comes before this timer.
    socket.onerror = () => setTimeout(socket.onclose, 0, { code: LOST, reason: "failed" });
  }

  #startPingTimer() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ping(), this.#options.pingAfter);
  }

  /** Reconnect if nothing arrives within `pongWithin`. A connection that is not open gets no ping. */
  #ping() {
    clearTimeout(this.#timer);
    if (this.#main.state === "open") this.#sendEvent({ type: "ping", ref: "ping" });
    this.#timer = setTimeout(() => this.#lost(LOST, "no answer"), this.#options.pongWithin);
  }

  #sendEvent(event) {
    this.#socket.send(toJson(event));
  }

  #receive(event) {
    this.#startPingTimer();
    if (!event) return;
    const { type, id, room, ref } = event;
    const message = this.#messageOf(event);
    const refused = type === "error" && ref && this.#memberships().find((each) => each.ref === ref);
    if (type === "accepted") {
      if (message) this.#accepted(message, id);
    } else if (refused) {
      this.#joinRefused(refused, event);
    } else if (type === "error" && message) {
      this.#rejected(message, event);
    } else if (this.#leaving.has(room)) {
      if ((type === "left" && event.connection === this.#id) || ref === LEAVE) this.#left(room);
    } else if (type !== "pong") {
      this.#held.push(event);
      if (type === "joined" && typeof id === "string") this.#opened(event);
    }
    this.#deliverHeld();
    if (this.#held.length > this.#options.maxHeld) this.#lost(LOST, "no answer to a message");
  }

  #messageOf({ type, code, ref }) {
    // The server can't read the `ref` of JSON nested too deep; the error is about the oldest message.
    const hasNoRef = type === "error" && !ref && ERRORS_WITHOUT_REF.has(code);
    return hasNoRef ? this.#queue.values().next().value : this.#queue.get(ref);
  }

  #deliverHeld() {
    if (this.#uncertain.size === 0) this.#held.splice(0).forEach((each) => this.#deliver(each));
  }

  #deliver(event) {
    const membership = this.#joined.get(event.room) ?? this.#main;
    if (membership.state === "closed") return; // closed by a listener
    if (typeof event.id === "string") membership.since = event.id;
    if (this.#ownIds.delete(event.id) || !DISPATCHED.has(event.type)) return;
    this.#dispatch(membership, event.type, event);
  }

  /** Note a room that is joined: first that of the URL, then others. */
  #opened({ room, connection }) {
    if (this.#main.state !== "open") {
      this.#main.name = room;
      this.#id = connection;
      this.#openedAt = performance.now();
      this.#setState(this.#main, "open");
      for (const membership of this.#joined.values()) this.#sendJoin(membership);
    } else if (room !== this.#main.name && !this.#joined.has(room)) {
      // The server has joined it, such as `user:zoe`. Its events are those of the room of the URL.
      this.#joined.set(room, { ...this.#membership(room), room: this.room, state: "open" });
    } else {
      const membership = this.#joined.get(room) ?? this.#main;
      membership.rejections = 0;
      this.#setState(membership, "open");
    }
    this.#sendNext();
  }

  #sendJoin(membership) {
    const { name, since, last } = membership;
    if (this.#leaving.has(name)) return; // later
    membership.ref = randomRef();
    const from = since ? { since } : { last };
    this.#sendEvent({ type: "join", room: name, ...from, ref: membership.ref });
  }

  #joinRefused(membership, event) {
    const { code, detail } = event;
    membership.ref = undefined;
    if (RETRYABLE_ERRORS.has(code)) {
      const delay = this.#backoff(membership.rejections++) * (1 + Math.random());
      membership.timer = setTimeout(() => this.#sendJoin(membership), delay);
    } else {
      this.#dispatch(membership, "error", event);
      this.#closeRoom(membership, code, detail);
    }
  }

  #left(name) {
    this.#leaving.delete(name);
    const membership = this.#joined.get(name); // joined again meanwhile
    if (membership) this.#sendJoin(membership);
  }

  /** Forget a room, and reject its messages. */
  #closeRoom(membership, code, reason) {
    clearTimeout(membership.timer);
    if (this.#joined.get(membership.name) === membership) this.#joined.delete(membership.name);
    for (const message of [...this.#queue.values()]) {
      if (message.membership !== membership) continue;
      this.#settle(message);
      message.reject(new RoomError(code, reason));
    }
    this.#setState(membership, "closed", undefined, reason);
    this.#deliverHeld();
  }

  #sendNext() {
    if (this.#main.state !== "open" || this.#resendTimer) return;
    let count = 0;
    for (const message of this.#queue.values()) {
      if (message.membership.state !== "open") continue;
      if (count++ === this.#options.inFlight) return;
      if (!message.isSent) this.#socket.send(message.text);
      message.isSent = true;
    }
  }

  #accepted(message, id) {
    this.#rejections = 0;
    this.#ownIds.add(id);
    if (this.#ownIds.size > MAX_OWN_IDS) this.#ownIds.delete(this.#ownIds.values().next().value);
    this.#settle(message);
    message.resolve(id);
  }

  #rejected(message, { code, detail }) {
    if (RETRYABLE_ERRORS.has(code)) {
      message.isSent = false;
      const delay = this.#backoff(this.#rejections) * (1 + Math.random());
      this.#resendTimer ??= setTimeout(() => this.#resend(), delay);
    } else {
      this.#settle(message);
      message.reject(new RoomError(code, detail));
    }
  }

  #resend() {
    this.#resendTimer = undefined;
    this.#rejections += 1;
    this.#sendNext();
  }

  #settle({ ref }) {
    this.#queue.delete(ref);
    this.#uncertain.delete(ref);
    this.#sendNext();
  }

  /** Return milliseconds: exponential backoff. */
  #backoff(count) {
    return Math.min(this.#options.maxDelay, this.#options.minDelay * 2 ** count);
  }

  #lost(code, reason) {
    const canReconnect = RETRYABLE_CLOSE_CODES.has(code) || this.#rejectTooBig(code, reason);
    if (!canReconnect || (code === UNAUTHORIZED && !this.#options.token)) {
      this.#close(code, reason);
      return;
    }
    this.#disconnect();
    for (const message of this.#queue.values()) {
      if (message.isSent) this.#uncertain.add(message.ref);
      message.isSent = false;
    }
    if (performance.now() - this.#openedAt > this.#options.maxDelay) this.#attempts = 0;
    if (code === INTERNAL_ERROR) this.#attempts = Math.max(this.#attempts, 4); // wait longer
    this.#openedAt = Infinity;
    const delay = Math.random() * this.#backoff(this.#attempts++); // not all clients at once
    this.#timer = setTimeout(() => this.#connect(), delay);
    for (const each of this.#memberships()) this.#setState(each, "connecting", code, reason);
  }

  /** After 1009, reject the longest message in flight; return whether there was one. */
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

  /** Drop the connection, whether it still works or not, or the attempt to connect. */
  #disconnect() {
    const socket = this.#socket;
    this.#socket = null;
    this.#attempt = undefined;
    this.#held = [];
    this.#leaving.clear();
    for (const { timer } of this.#joined.values()) clearTimeout(timer);
    clearTimeout(this.#timer);
    clearTimeout(this.#resendTimer);
    this.#resendTimer = undefined;
    socket?.close();
  }

  #close(code, reason) {
    if (this.#main.state === "closed") return;
    this.#disconnect();
    globalThis.removeEventListener?.("online", this.#online);
    for (const { reject } of this.#queue.values()) reject(new RoomError("closed", `${code} ${reason}`));
    this.#queue.clear();
    for (const each of this.#memberships()) this.#setState(each, "closed", code, reason);
  }

  #memberships() {
    return [this.#main, ...this.#joined.values()];
  }

  #setState(membership, state, code, reason) {
    membership.state = state;
    const isOwn = membership === this.#main || membership.room !== this.room;
    if (isOwn) this.#dispatch(membership, "state", { state, code, reason });
  }

  #dispatch({ room }, type, detail) {
    room.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** Return an absolute `ws:` or `wss:` URL; throws a `TypeError` for other schemes and fragments. */
function webSocketUrl(text) {
  const url = new URL(text, globalThis.location?.href);
  url.protocol = url.protocol.replace(/^http/, "ws");
  if (!/^wss?:$/.test(url.protocol)) throw new TypeError(`not ws:, wss:, http: or https: but ${url.protocol}`);
  if (url.href.includes("#")) throw new TypeError(`a fragment in a WebSocket's URL: ${url.hash || "#"}`);
  return url;
}

/** Return an event, or `null` for any other message. */
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

/** Return 128 random bits as hex; `crypto.randomUUID` needs HTTPS. */
function randomRef() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Return JSON with lone surrogates replaced by U+FFFD: they are invalid in UTF-8. */
function toJson(value) {
  const replace = (escape) => (escape.startsWith("\\u") ? "\\ufffd" : escape);
  return JSON.stringify(value).replace(/\\(\\|ud[89a-f]..)/g, replace);
}
