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

/** Codes of errors for the HTTP status of a message that was sent by POST. */
const POST_ERRORS = {
  403: "forbidden",
  413: "too_big",
  422: "invalid_json",
  429: "rate_limited",
  503: "unavailable",
};
const POST_WITHIN = 30_000;

/** Statuses by which the server refuses a room for good. */
const REFUSALS = new Set([401, 403, 422]);
const ASK_WITHIN = 5000;

/** Milliseconds without data after which an event stream is lost; a comment comes every 15 to 20 s. */
const MAX_SILENCE = 30_000;

/** Ids of own messages to keep, at most; must be more than the history of the room (100). */
const MAX_OWN_IDS = 1000;

const DEFAULTS = {
  fallback: false,
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
  #leaving = new Map(); // refs of requests to leave, by room; until confirmed, its events are ignored
  #id; // of the connection, on the server
  #socket = null;
  #isStreaming = false; // the socket, or that of the next attempt, is an `EventStream`
  #attempt; // to connect; a new symbol for each
  #timer; // for the next attempt to connect, or for a ping or its pong
  #attempts = 0; // to reconnect, since a connection that lasted `maxDelay`
  #failures = 0; // attempts in a row that did not open
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
    if (known) Object.assign(membership, { since: known.since, byServer: true });
    this.#joined.set(name, membership);
    if (this.#main.state === "closed") this.#closeRoom(membership, "closed", "the connection is closed");
    else if (this.#main.state === "open") this.#enter(membership);
    return membership.room;
  }

  leave(membership) {
    if (membership === this.#main) {
      this.#close(1000, "closed by this client");
    } else if (membership.state !== "closed") {
      if (this.#main.state === "open") this.#sendLeave(membership.name);
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
    if (this.#main.state !== "open") this.#connect();
    else if (this.#isStreaming) this.#lost(LOST, "was offline"); // it does not answer pings
    else this.#ping();
  };

  /** Begin an attempt to connect; give up an earlier one that still waits. */
  async #connect() {
    this.#disconnect();
    const attempt = (this.#attempt = Symbol());
    const isCurrent = () => attempt === this.#attempt;
    try {
      const token = await this.#token();
      const mayAsk = this.#failures % 3 === 1 && !this.#options.fallback; // else the stream asks
      if (isCurrent() && mayAsk) await this.#askRefusal(token, isCurrent);
      if (isCurrent()) this.#open(token);
    } catch (error) {
      if (isCurrent()) this.#lost(LOST, String(error));
    }
  }

  /** Close if the server refuses the room over HTTP: browsers hide the answer to a handshake. */
  async #askRefusal(token, isCurrent) {
    const url = new URL(this.#url.href.replace(/^ws/, "http"));
    url.searchParams.delete("last");
    const headers = token ? { Authorization: `Bearer ${token}` } : {};
    try {
      const response = await fetch(url, { headers, signal: AbortSignal.timeout(ASK_WITHIN) });
      const reason = await refusalIn(response);
      if (reason && isCurrent()) this.#close(response.status, reason);
    } catch {
      // no answer of the server's, or none that this page may read
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
    const Socket = this.#isStreaming ? EventStream : this.#options.WebSocket;
    try {
      this.#listen(new Socket(this.#url.href, protocols));
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
    const { pingAfter, pongWithin } = this.#options;
    const delay = this.#isStreaming ? Math.max(pongWithin, MAX_SILENCE - pingAfter) : pongWithin;
    this.#timer = setTimeout(() => this.#lost(LOST, "no answer"), delay);
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
    const staying = type === "error" && [...this.#leaving.keys()].find((each) => this.#leaving.get(each) === ref);
    if (type === "accepted") {
      if (message) this.#accepted(message, id);
    } else if (refused) {
      this.#joinRefused(refused, event);
    } else if (staying) {
      this.#leaveRefused(staying, event);
    } else if (type === "error" && message) {
      this.#rejected(message, event);
    } else if (this.#leaving.has(room)) {
      if (type === "left" && event.connection === this.#id) this.#left(room);
    } else if (type !== "pong") {
      if (type === "joined" && typeof id === "string") this.#opened(event);
      this.#hold(event);
    }
    this.#deliverHeld();
    if (this.#held.length > this.#options.maxHeld) this.#lost(LOST, "no answer to a message");
  }

  #messageOf({ type, code, ref }) {
    // The server can't read the `ref` of JSON nested too deep; the error is about the oldest message.
    const hasNoRef = type === "error" && !ref && ERRORS_WITHOUT_REF.has(code);
    return hasNoRef ? this.#queue.values().next().value : this.#queue.get(ref);
  }

  /** Keep an event for its room: that of the URL if it names none, or before the name is known. */
  #hold(event) {
    const { name } = this.#main;
    const isMain = !name || !event.room || event.room === name;
    const membership = this.#joined.get(event.room) ?? (isMain && this.#main);
    if (membership) this.#held.push({ membership, event });
  }

  #deliverHeld() {
    if (this.#uncertain.size === 0) this.#held.splice(0).forEach((each) => this.#deliver(each));
  }

  #deliver({ membership, event }) {
    if (membership.state === "closed") return; // meanwhile
    if (typeof event.id === "string") membership.since = event.id;
    if (this.#ownIds.delete(event.id) || !DISPATCHED.has(event.type)) return;
    this.#dispatch(membership, event.type, event);
  }

  /** Note a room that is joined: first that of the URL, then others. */
  #opened({ room, connection, id, ref }) {
    if (this.#main.state !== "open") {
      const same = this.#joined.get(room);
      this.#joined.delete(room);
      this.#main.name = room;
      this.#id = connection;
      this.#openedAt = performance.now();
      this.#failures = 0;
      this.#main.state = "open";
      for (const membership of this.#joined.values()) this.#enter(membership);
      this.#setState([this.#main], "open");
      if (same) this.#closeRoom(same, "closed", "this is the room of the URL");
    } else if (room !== this.#main.name && !this.#joined.has(room)) {
      // The server has joined it, such as `user:zoe`. Its events are those of the room of the URL.
      const membership = { ...this.#membership(room), room: this.room, state: "open", byServer: true };
      this.#joined.set(room, membership);
    } else {
      const membership = this.#joined.get(room) ?? this.#main;
      const { since } = membership;
      if (!ref && since && since !== id) this.#hold({ type: "gap", room, since }); // not resumed
      membership.rejections = 0;
      this.#setState([membership], "open");
    }
    this.#sendNext();
  }

  /** Join a room. One that the server has joined is left first: what it sends now would be repeated. */
  #enter(membership) {
    if (!membership.byServer) this.#sendJoin(membership);
    else if (!this.#isStreaming || membership.room !== this.room) this.#sendLeave(membership.name);
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

  #sendLeave(room) {
    if (this.#leaving.has(room)) return;
    const ref = randomRef();
    this.#leaving.set(room, ref);
    this.#sendEvent({ type: "leave", room, ref });
  }

  #leaveRefused(room, { code, ref }) {
    if (!RETRYABLE_ERRORS.has(code)) return this.#left(room); // it was not joined
    const again = () => this.#leaving.get(room) === ref && this.#sendEvent({ type: "leave", room, ref });
    setTimeout(again, this.#backoff(0) * (1 + Math.random()));
  }

  #left(name) {
    this.#leaving.delete(name);
    const membership = this.#joined.get(name); // joined again meanwhile
    if (membership) this.#sendJoin(membership);
  }

  /** Forget a room, and reject its messages. */
  #closeRoom(membership, code, reason) {
    if (membership.state === "closed") return;
    membership.state = "closed"; // before messages that wait would be sent
    clearTimeout(membership.timer);
    if (this.#joined.get(membership.name) === membership) this.#joined.delete(membership.name);
    for (const message of [...this.#queue.values()]) {
      if (message.membership !== membership) continue;
      this.#settle(message);
      message.reject(new RoomError(code, reason));
    }
    this.#setState([membership], "closed", undefined, reason);
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
      // After a POST, it may be published nevertheless, and come back.
      if (this.#isStreaming && code === "unavailable") this.#uncertain.add(message.ref);
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
    const hasFailed = this.#socket && this.#openedAt === Infinity;
    if (hasFailed) this.#failures += 1;
    this.#disconnect();
    for (const message of this.#queue.values()) {
      if (message.isSent) this.#uncertain.add(message.ref);
      message.isSent = false;
    }
    if (performance.now() - this.#openedAt > this.#options.maxDelay) this.#attempts = 0;
    if (code === INTERNAL_ERROR) this.#attempts = Math.max(this.#attempts, 4); // wait longer
    this.#openedAt = Infinity;
    if (hasFailed && this.#options.fallback) this.#isStreaming = !this.#isStreaming;
    // Fall back at once: later, a server that was restarting would answer, but not by a WebSocket.
    const isAtOnce = hasFailed && this.#isStreaming;
    const delay = isAtOnce ? 0 : Math.random() * this.#backoff(this.#attempts++); // not all clients at once
    this.#timer = setTimeout(() => this.#connect(), delay);
    this.#setState(this.#memberships(), "connecting", code, reason);
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
    this.#setState(this.#memberships(), "closed", code, reason);
  }

  #memberships() {
    return [this.#main, ...this.#joined.values()];
  }

  /** Set the state of all before any listener is called: it may send, or close a room. */
  #setState(memberships, state, code, reason) {
    for (const each of memberships) each.state = state;
    for (const each of memberships) {
      const isOwn = each === this.#main || each.room !== this.room;
      if (isOwn && each.state === state) this.#dispatch(each, "state", { state, code, reason });
    }
  }

  #dispatch({ room }, type, detail) {
    room.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** The room of the URL by Server-Sent Events and POST, with what is used here of a WebSocket. */
class EventStream {
  #url;
  #headers = {};
  #ending = new AbortController();
  #posts = Promise.resolve(); // all POSTs so far, one after the other

  constructor(url, protocols) {
    this.#url = new URL(url.replace(/^ws/, "http"));
    const bearer = protocols.find((each) => each.startsWith("bearer."));
    if (bearer) this.#headers.Authorization = bearer.replace("bearer.", "Bearer ");
    this.#closeIfRejected(this.#read());
  }

  send(text) {
    const { type, room, data, ref } = JSON.parse(text);
    if (type === "message" && ref) {
      this.#posts = this.#posts.then(() => this.#post(data, ref));
      this.#closeIfRejected(this.#posts);
    } else if (type === "join" || type === "leave") {
      const error = { type: "error", code: "not_available", detail: "needs a WebSocket", room, ref };
      queueMicrotask(() => this.#tell(error));
    }
  }

  close() {
    this.#ending.abort();
  }

  async #read() {
    const headers = { ...this.#headers, Accept: "text/event-stream" };
    const response = await fetch(this.#url, { headers, signal: this.#ending.signal });
    const reason = await refusalIn(response);
    if (reason) return this.onclose({ code: response.status, reason });
    const type = response.headers.get("content-type");
    if (!response.ok || !type?.startsWith("text/event-stream")) throw new Error(`${response.status} ${type}`);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new Error("the server has ended the stream");
      this.#tell(null); // it is alive
      await this.#posts; // which tell the ids of own messages
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) this.#receive(line.slice(5));
    }
  }

  #receive(data) {
    const event = parseEvent(data);
    // POST as the guest that the stream is.
    const isNamed = this.#url.searchParams.has("name");
    if (!isNamed && event?.type === "joined") this.#url.searchParams.set("name", event.sender);
    this.onmessage({ data });
  }

  async #post(data, ref) {
    this.#ending.signal.throwIfAborted(); // it will be sent on the next connection
    const response = await fetch(this.#url, {
      method: "POST",
      headers: { ...this.#headers, "Content-Type": "application/json", "Idempotency-Key": ref },
      body: JSON.stringify(data),
      signal: AbortSignal.timeout(POST_WITHIN),
    });
    const { status } = response;
    const noJson = () => ({}); // but a proxy's page
    const { id, detail = `HTTP ${status}` } = await response.json().catch(noJson);
    if (status === 401) this.onclose({ code: UNAUTHORIZED, reason: detail });
    else if (status in POST_ERRORS) this.#tell({ type: "error", code: POST_ERRORS[status], detail, ref });
    else if (typeof id === "string") this.#tell({ type: "accepted", ref, id });
    else throw new Error(`a message was answered by ${status}`);
  }

  #tell(event) {
    this.onmessage({ data: JSON.stringify(event) });
  }

  #closeIfRejected(promise) {
    promise.catch((error) => this.onclose({ code: LOST, reason: String(error) }));
  }
}

/** Return why a response refuses the room for good; nothing if it does not. */
async function refusalIn(response) {
  const { detail } = REFUSALS.has(response.status) ? await response.json() : {};
  return typeof detail === "string" ? detail : JSON.stringify(detail);
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
