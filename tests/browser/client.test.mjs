/** Tests of client.js; test_client.py starts the servers, and runs this. */

import assert from "node:assert/strict";
import net from "node:net";
import { test } from "node:test";
import { pathToFileURL } from "node:url";

const { CLIENT, SERVER, STOPPING_SERVER, STRICT_SERVER, ANN, BOB } = process.env;
const { connect, RoomError } = await import(pathToFileURL(CLIENT));

const TYPES = ["message", "append", "joined", "left", "present", "gap", "resumed", "error", "state"];
const FAST = { minDelay: 10, maxDelay: 200 };
const clearRealTimeout = clearTimeout;

/** Mock timers, but let `fetch` clear those that it has set before (nodejs/undici#4755). */
function mockTimers(context) {
  context.mock.timers.enable({ apis: ["setTimeout"] });
  const clearMockTimeout = globalThis.clearTimeout;
  globalThis.clearTimeout = (timer) => {
    clearMockTimeout(timer);
    clearRealTimeout(timer);
  };
}

/** A TCP proxy in front of a server: a network that can break. */
class Network {
  isDown = false; // refuses connections
  isFrozen = false; // carries nothing, and says nothing
  isDeaf = false; // carries nothing from the server
  isBlocking = false; // closes connections that ask for a WebSocket
  connections = 0;
  upgrades = 0;
  #pairs = new Set();

  static async to(server) {
    const network = new Network();
    network.server = server;
    network.listener = net.createServer((client) => network.#carry(client));
    await new Promise((resolve) => network.listener.listen(0, "127.0.0.1", resolve));
    network.url = `ws://127.0.0.1:${network.listener.address().port}`;
    return network;
  }

  #carry(client) {
    this.connections += 1;
    const upstream = net.connect(new URL(this.server).port, "127.0.0.1");
    const pair = [client, upstream];
    this.#pairs.add(pair);
    client.on("data", (data) => {
      const isUpgrade = /^upgrade: websocket/im.test(data);
      this.upgrades += isUpgrade;
      if (isUpgrade && this.isBlocking) client.destroy();
      else if (!this.isFrozen) upstream.write(data);
    });
    upstream.on("data", (data) => this.isFrozen || this.isDeaf || client.write(data));
    for (const socket of pair) {
      socket.on("error", () => {});
      socket.on("close", () => this.#pairs.delete(pair) && pair.forEach((each) => each.destroy()));
    }
    if (this.isDown) client.destroy();
  }

  /** Break all connections, in the middle of whatever they carry. */
  cut() {
    for (const pair of this.#pairs) pair.forEach((socket) => socket.destroy());
  }

  close() {
    this.isDown = true;
    this.cut();
    this.listener.close();
  }
}

/** Joins rooms, writes down what they dispatch, and leaves them after the test. */
class Members {
  #rooms = [];

  constructor(context) {
    this.room = `/ws_broadcast/${encodeURIComponent(context.name)}`;
    context.after(() => this.#rooms.forEach((room) => room.close()));
  }

  add(name, server, options) {
    const token = () => (name === "ann" ? ANN : BOB);
    const room = connect(`${server}${this.room}?name=${name}`, { token, ...FAST, ...options });
    this.#rooms.push(room);
    return this.listen(room);
  }

  /** Write down what a room dispatches. */
  listen(room) {
    const log = { room, events: [], checks: new Set() };
    for (const type of TYPES) {
      room.addEventListener(type, ({ detail }) => {
        log.events.push({ on: type, ...detail });
        for (const check of log.checks) check();
      });
    }
    return log;
  }

  async addOpen(...member) {
    const log = this.add(...member);
    await until(log, () => log.room.state === "open");
    return log;
  }
}

/** Return a function that puts something in, and one that waits for the next of them. */
function inbox() {
  const made = [];
  const wanted = [];
  const put = (each) => {
    made.push(each);
    wanted.shift()?.();
  };
  const next = async () => {
    if (!made.length) await new Promise((resolve) => wanted.push(resolve));
    return made.shift();
  };
  return [put, next];
}

/** A WebSocket whose other end is the test: `next` returns each one that the client makes. */
function fakeServer() {
  const [put, next] = inbox();
  class WebSocket {
    sent = [];

    constructor(url, protocols) {
      this.since = new URL(url).searchParams.get("since");
      this.protocols = protocols;
      put(this);
    }

    send(text) {
      this.sent.push(JSON.parse(text));
    }

    close() {}

    tell(...events) {
      for (const event of events) this.onmessage({ data: JSON.stringify(event) });
    }

    tellFrames(...frames) {
      for (const data of frames) this.onmessage({ data });
    }

    lose(code = 1006) {
      this.onclose({ code, reason: "by the test" });
    }
  }
  return { WebSocket, next };
}

/** A `fetch` whose other end is the test: return a function that waits for the next request. */
function fakeFetch(context) {
  const [put, next] = inbox();
  const fetch = (url, { method = "GET", headers, body, signal }) =>
    new Promise((resolve, reject) => {
      let controller;
      const stream = new ReadableStream({ start: (each) => void (controller = each) });
      const write = (text) => controller.enqueue(new TextEncoder().encode(text));
      const tell = (...events) => events.forEach((event) => write(`data: ${JSON.stringify(event)}\n\n`));
      const accept = (type = "text/event-stream", status = 200) =>
        resolve(new Response(stream, { status, headers: { "Content-Type": type } }));
      const answer = (status, value) => resolve(Response.json(value, { status }));
      const fail = (reason = new TypeError("network error")) => (reject(reason), controller.error(reason));
      signal.addEventListener("abort", () => fail(signal.reason));
      const end = () => controller.close();
      const enqueue = (bytes) => controller.enqueue(bytes);
      url = new URL(url); // as it is now
      put({ url, method, headers, body, signal, accept, answer, fail, write, tell, enqueue, end });
    });
  context.mock.method(globalThis, "fetch", fetch);
  return next;
}

/** Join a room by an event stream; return its log, its stream, and more to go on with. */
async function streaming(context, options, beforeFallback = () => {}) {
  const { WebSocket, next } = fakeServer();
  const nextRequest = fakeFetch(context);
  const ann = new Members(context).add("ann", SERVER, { WebSocket, fallback: true, ...options });
  (await next()).lose();
  beforeFallback();
  const stream = await nextRequest();
  stream.accept();
  stream.tell({ type: "joined", id: "e-0", room: "a", sender: "ann", connection: "c" });
  await until(ann, () => ann.room.state === "open");
  return { ann, stream, nextRequest, next };
}

/** Resolve once a condition holds; it is tried at each event. */
function until(log, condition) {
  return new Promise((resolve) => {
    const check = () => condition() && (log.checks.delete(check), resolve());
    log.checks.add(check);
    check();
  });
}

/** Resolve once all promises that can go on have done so. */
const settled = () => new Promise(setImmediate);

const on = (log, type) => log.events.filter((event) => event.on === type);
const data = (log) => on(log, "message").map((event) => event.data);
const untilGot = (log, count) => until(log, () => data(log).length >= count);
const range = (start, end) => Array.from({ length: end - start }, (_, index) => start + index);
const closes = (log) => on(log, "state").filter((event) => event.code).map((event) => event.code);
const post = (server, path) => fetch(server.replace("ws", "http") + path, { method: "POST" });
const rejects = (promise, code) =>
  assert.rejects(promise, (error) => error instanceof RoomError && error.code === code);

test("two members talk", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const ann = await members.addOpen("ann", SERVER);
  const bob = await members.addOpen("bob", SERVER);
  const ids = [await ann.room.send({ text: "Zoë \ud800 \\ud800" }), await ann.room.send([1, null])];
  await untilGot(bob, 2);
  assert.deepEqual(data(bob), [{ text: "Zoë \ufffd \\ud800" }, [1, null]]);
  assert.deepEqual(on(bob, "message").map((event) => [event.id, event.sender]), ids.map((id) => [id, "ann"]));
  await bob.room.send("Hello");
  await untilGot(ann, 1);
  bob.room.close();
  await until(ann, () => on(ann, "left").length);
  assert.deepEqual(on(ann, "joined").map((event) => [event.sender, "id" in event]), [["ann", true], ["bob", false]]);
  assert.equal(on(ann, "present")[0].count, 1);
  assert.equal(on(bob, "state").at(-1).state, "closed");
});

test("nothing is missing and nothing comes twice after cuts", { timeout: 60_000 }, async (context) => {
  const members = new Members(context);
  const network = await Network.to(SERVER);
  context.after(() => network.close());
  const ann = await members.addOpen("ann", network.url, { maxDelay: 50 });
  const bob = await members.addOpen("bob", SERVER, { inFlight: 4 });
  let count = 0;
  let isOver = false;
  const publish = async () => {
    while (!isOver) await bob.room.send(count++);
  };
  const published = Promise.all(range(0, 4).map(publish));
  const answers = [];
  for (const number of range(1, 6)) {
    await untilGot(ann, number * 60);
    answers.push(ann.room.send(`ann ${number}`));
    network.cut();
    await until(ann, () => on(ann, "resumed").length === number);
  }
  isOver = true;
  await published;
  await untilGot(ann, count);
  const ids = await Promise.all(answers);
  assert.deepEqual(data(ann), range(0, count));
  assert.deepEqual(on(ann, "gap"), []);
  await untilGot(bob, 5);
  assert.deepEqual(on(bob, "message").map((event) => [event.data, event.id]), ids.map((id, index) => [`ann ${index + 1}`, id]));
});

test("messages sent while offline arrive once, in order", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const network = await Network.to(SERVER);
  context.after(() => network.close());
  const bob = await members.addOpen("bob", SERVER);
  network.isDown = true;
  const ann = members.add("ann", network.url);
  const early = ann.room.send("early");
  await until(ann, () => closes(ann).length > 2);
  network.isDown = false;
  await early;
  network.isDown = true;
  network.cut();
  const late = range(0, 20).map((number) => ann.room.send(number));
  await until(ann, () => closes(ann).length > 5);
  network.isDown = false;
  const ids = await Promise.all(late);
  assert.equal(new Set(ids).size, 20);
  await bob.room.send("end");
  await untilGot(bob, 21);
  assert.deepEqual(data(bob), ["early", ...range(0, 20)]);
});

test("a message whose answer was lost is not published again", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const network = await Network.to(SERVER);
  context.after(() => network.close());
  const bob = await members.addOpen("bob", SERVER);
  const ann = await members.addOpen("ann", network.url);
  const first = await ann.room.send("first");
  network.isDeaf = true;
  const answer = ann.room.send("second");
  await untilGot(bob, 2);
  await bob.room.send("third");
  network.cut();
  network.isDeaf = false;
  await untilGot(ann, 1);
  assert.deepEqual([first, await answer], on(bob, "message").map((event) => event.id));
  await ann.room.send("fourth");
  await untilGot(bob, 3);
  assert.deepEqual(data(bob), ["first", "second", "fourth"]);
  assert.deepEqual(data(ann), ["third"]); // and not one's own
});

test("a full queue rejects, and what is in it does not get lost", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const network = await Network.to(SERVER);
  context.after(() => network.close());
  network.isDown = true;
  const ann = members.add("ann", network.url, { maxQueued: 2 });
  const kept = [ann.room.send(1), ann.room.send(2)];
  await rejects(ann.room.send(3), "queue_full");
  network.isDown = false;
  await Promise.all(kept);
  await ann.room.send(4);
});

test("close codes say whether to come back", { timeout: 30_000 }, async (context) => {
  const members = new Members(context);
  for (const code of [1001, 1012, 1013, 4401]) {
    const ann = await members.addOpen("ann", SERVER);
    await post(SERVER, `/test/close/${code}`);
    await until(ann, () => on(ann, "resumed").length);
    assert.deepEqual(closes(ann), [code]);
    ann.room.close();
  }
  for (const code of [1000, 1002, 1003, 1007, 1008, 1009, 4000]) {
    const ann = await members.addOpen("ann", SERVER);
    await post(SERVER, `/test/close/${code}`);
    await until(ann, () => ann.room.state === "closed");
    assert.deepEqual(closes(ann), [code]);
    await rejects(ann.room.send("late"), "closed");
  }
});

test("code 0, Deno's for a broken connection, is 1006", async (context) => {
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  const ann = members.add("ann", SERVER, { WebSocket });
  (await next()).lose(0);
  const { state, code } = on(ann, "state").at(-1);
  assert.deepEqual([state, code], ["connecting", 1006]);
  await next();
});

test("a message that is too big is rejected, and the rest goes on", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  const ann = members.add("ann", SERVER, { WebSocket, inFlight: 2 });
  const first = await next();
  first.tell({ type: "joined", id: "e-0" });
  const [small, big, waiting] = ["aaaaaa", "ééééé", "tea"].map((text) => ann.room.send(text));
  first.lose(1009);
  await rejects(big, "too_big");
  const second = await next();
  second.tell({ type: "joined", id: "e-0" });
  assert.deepEqual(second.sent.map((event) => event.data), ["aaaaaa", "tea"]);
  second.sent.forEach(({ ref }) => second.tell({ type: "accepted", ref, id: `e-${ref}` }));
  await Promise.all([small, waiting]);
  second.lose(1009);
  assert.equal(ann.room.state, "closed");
});

test("a real server rejects only what is too big", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const bob = await members.addOpen("bob", SERVER);
  const ann = await members.addOpen("ann", SERVER);
  const [before, big, after] = ["before", "x".repeat(70_000), "after"].map((text) => ann.room.send(text));
  await rejects(big, "too_big");
  await Promise.all([before, after]);
  await untilGot(bob, 2);
  assert.deepEqual(data(bob), ["before", "after"]);
});

test("after a bug in the endpoint it waits longer", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const delays = [];
  const wait = globalThis.setTimeout;
  context.mock.method(globalThis, "setTimeout", (then, delay, ...rest) => (delays.push(delay), wait(then, delay, ...rest)));
  context.mock.method(Math, "random", () => 0.5);
  const ann = await members.addOpen("ann", SERVER);
  await post(SERVER, "/test/close/1011");
  await until(ann, () => on(ann, "resumed").length);
  assert.ok(delays.includes((FAST.minDelay * 2 ** 4) / 2));
});

test("a restart is survived, and tells of a gap where rooms are in memory", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const network = await Network.to(STOPPING_SERVER);
  context.after(() => network.close());
  const ann = await members.addOpen("ann", network.url);
  const seen = await ann.room.send("before");
  await post(STOPPING_SERVER, "/test/stop");
  await until(ann, () => closes(ann).length > 2); // 1012, and refusals while it stops
  const answer = ann.room.send("after");
  network.server = SERVER;
  await until(ann, () => on(ann, "gap").length);
  assert.equal(closes(ann)[0], 1012);
  assert.notEqual(await answer, seen);
  const bob = await members.addOpen("bob", SERVER);
  await bob.room.send("Hello");
  await untilGot(ann, 1);
});

test("missing messages are told by a gap, before what is left", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const network = await Network.to(STRICT_SERVER);
  context.after(() => network.close());
  const bob = await members.addOpen("bob", STRICT_SERVER);
  const ann = await members.addOpen("ann", network.url);
  await bob.room.send(0);
  await untilGot(ann, 1);
  network.isDown = true;
  network.cut();
  await Promise.all(range(1, 21).map((number) => bob.room.send(number)));
  network.isDown = false;
  await until(ann, () => on(ann, "resumed").length);
  const told = ann.events.filter((event) => ["message", "gap", "resumed"].includes(event.on));
  assert.deepEqual(told.map((event) => event.data ?? event.on), [0, "gap", ...range(11, 21), "resumed"]);
});

test("what the rate limit rejects is sent later, in order", { timeout: 30_000 }, async (context) => {
  const members = new Members(context);
  const bob = await members.addOpen("bob", STRICT_SERVER);
  const ann = await members.addOpen("ann", STRICT_SERVER, { minDelay: 50 });
  const ids = await Promise.all(range(0, 30).map((number) => ann.room.send(number)));
  await untilGot(bob, 30);
  assert.deepEqual(data(bob), range(0, 30));
  assert.deepEqual(on(bob, "message").map((event) => event.id), ids);
  assert.deepEqual(closes(ann), []);
  assert.deepEqual(on(ann, "error"), []);
});

test("what can't be accepted is rejected, and the rest goes on", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const ann = await members.addOpen("ann", SERVER);
  await rejects(ann.room.send(undefined), "invalid_shape");
  await rejects(ann.room.send(range(0, 300).reduce((inner) => [inner], 1)), "invalid_json");
  await assert.rejects(ann.room.send(1n), TypeError);
  await ann.room.send("valid");
});

test("every attempt asks for a token, and so does a renewal", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const network = await Network.to(SERVER);
  context.after(() => network.close());
  const asked = [];
  const token = async () => {
    asked.push(network.connections);
    if (asked.length === 3) throw new Error("no token now");
    return ANN;
  };
  network.isDown = true;
  const ann = members.add("ann", network.url, { token });
  await until(ann, () => closes(ann).length === 3);
  network.isDown = false;
  await until(ann, () => ann.room.state === "open");
  assert.deepEqual(asked, [0, 1, 3, 3]); // after the first failure, it also asks over HTTP why
  assert.deepEqual(on(ann, "state").map((event) => event.reason?.includes("no token now")), [false, false, true, undefined]);
  await ann.room.renew();
  await ann.room.send("still here");
  assert.equal(asked.length, 5);
});

for (const fallback of [false, true]) {
  test(`a room that is refused closes, and says why: ${fallback}`, { timeout: 20_000 }, async (context) => {
    const members = new Members({ name: "user:bob", after: (hook) => context.after(hook) });
    const ann = members.add("ann", SERVER, { fallback });
    const sending = ann.room.send("never");
    await rejects(sending, "closed");
    assert.equal(ann.room.state, "closed");
    const { code, reason } = on(ann, "state").at(-1);
    assert.deepEqual([code, reason], [403, "this room is not open to you"]);
  });
}

test("what a proxy or a busy server answers is no refusal", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  const nextRequest = fakeFetch(context);
  const ann = members.add("ann", SERVER, { WebSocket });
  for (const [type, status] of [["text/html", 403], ["application/json", 503]]) {
    (await next()).lose();
    const request = await nextRequest();
    assert.equal(request.headers.Authorization, `Bearer ${ANN}`);
    request.accept(type, status);
    request.write('{"detail": "no"}'.slice(type === "text/html"));
    request.end();
    (await next()).lose();
    (await next()).lose();
  }
  await next();
  assert.equal(ann.room.state, "connecting");
});

test("a token that does not come ends the attempt, and is ignored later", async (context) => {
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  mockTimers(context);
  const answers = [];
  const token = () => new Promise((resolve) => answers.push(resolve));
  const options = { WebSocket, token, tokenWithin: 100, minDelay: 1, maxDelay: 1 };
  const ann = members.add("ann", SERVER, options);
  context.mock.timers.tick(99);
  await settled();
  assert.deepEqual(closes(ann), []);
  context.mock.timers.tick(1);
  await settled();
  assert.deepEqual(closes(ann), [1006]);
  assert.match(on(ann, "state").at(-1).reason, /no_token/);
  context.mock.timers.tick(1);
  assert.equal(answers.length, 2);
  answers[0]("late");
  await settled();
  answers[1]("in time");
  const connection = await next();
  assert.deepEqual(connection.protocols, ["events.v1", "bearer.in time"]);
  connection.tell({ type: "joined", id: "e-0" });
  const renewal = ann.room.renew();
  context.mock.timers.tick(100);
  await rejects(renewal, "no_token");
  assert.equal(ann.room.state, "open");
});

test("a connection that never opens, or in which one never joins, is given up", async (context) => {
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  mockTimers(context);
  const options = { WebSocket, pingAfter: 100, pongWithin: 50, minDelay: 1, maxDelay: 1 };
  const ann = members.add("ann", SERVER, options);
  const first = await next();
  context.mock.timers.tick(100);
  context.mock.timers.tick(50);
  assert.deepEqual(closes(ann), [1006]);
  context.mock.timers.tick(1);
  const second = await next();
  second.tell({ type: "present", members: [] });
  context.mock.timers.tick(100);
  context.mock.timers.tick(50);
  assert.deepEqual(closes(ann), [1006, 1006]);
  assert.deepEqual([...first.sent, ...second.sent], []);
});

test("without a token, an expired one is the end", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  const ann = members.add("ann", SERVER, { token: undefined, WebSocket });
  await assert.rejects(ann.room.renew(), TypeError);
  (await next()).lose(4401);
  assert.equal(ann.room.state, "closed");
});

test("it resumes after what has come, whatever was accepted", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  const joined = (id) => ({ type: "joined", id, sender: "ann" });
  const message = (id, data) => ({ type: "message", id, data });
  const ann = members.add("ann", SERVER, { WebSocket });

  const first = await next();
  first.tell(joined("e-0"));
  const own = ann.room.send("own");
  first.tell({ type: "accepted", ref: first.sent[0].ref, id: "e-2" });
  assert.equal(await own, "e-2");
  first.lose();

  const second = await next();
  assert.deepEqual([first.since, second.since], [null, "e-0"]);
  second.tell(message("e-1", "missed"), message("e-2", "own"), joined("e-2"));
  first.tell(message("e-1", "late, on a connection that was given up"));
  const unanswered = ann.room.send("unanswered");
  second.lose();

  const third = await next(); // `unanswered` may be among the messages that were missed
  third.tell(message("e-3", "missed, too"));
  third.lose();
  const fourth = await next();
  assert.deepEqual([third.since, fourth.since], ["e-2", "e-2"]);
  fourth.tell(message("e-3", "missed, too"), message("e-4", "unanswered"), joined("e-4"));
  assert.deepEqual(data(ann), ["missed"]);
  assert.deepEqual(fourth.sent, second.sent);
  fourth.tell({ type: "accepted", ref: fourth.sent[0].ref, id: "e-4" });
  assert.equal(await unanswered, "e-4");
  assert.deepEqual(data(ann), ["missed", "missed, too"]);
});

test("what is no event of the server is ignored", async (context) => {
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  const ann = members.add("ann", SERVER, { WebSocket });
  const first = await next();
  const binary = new TextEncoder().encode('{"type": "message", "id": "e-9"}');
  first.tellFrames("tea", "", "null", "5", '"x"', "[]", '{"type": 5}', "{}", new Blob(["{}"]), binary.buffer, binary);
  first.tell({ type: "joined", id: 5 }, { type: "joined", id: "e-0" }, { type: "message", id: 7, data: "no id" });
  first.tell({ type: "state", state: "closed" }, { type: "tea" }, { type: "constructor" });
  assert.deepEqual(on(ann, "state").map((event) => event.state), ["open"]);
  assert.deepEqual(data(ann), ["no id"]);
  first.lose();
  assert.equal((await next()).since, "e-0");
});

test("a dead connection is noticed and replaced", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const network = await Network.to(SERVER);
  context.after(() => network.close());
  const bob = await members.addOpen("bob", SERVER);
  const ann = await members.addOpen("ann", network.url, { pingAfter: 50, pongWithin: 500 });
  network.isFrozen = true;
  const answer = ann.room.send("into the void");
  await bob.room.send("missed");
  await until(ann, () => closes(ann).length);
  assert.deepEqual(on(ann, "state").at(-1), { on: "state", state: "connecting", code: 1006, reason: "no answer" });
  network.isFrozen = false;
  await Promise.all([answer, untilGot(ann, 1), untilGot(bob, 1)]);
  assert.deepEqual([data(ann), data(bob)], [["missed"], ["into the void"]]);
});

test("only a silent connection is tested, and given up without an answer", async (context) => {
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  mockTimers(context);
  const ann = members.add("ann", SERVER, { WebSocket, pingAfter: 100, pongWithin: 50 });
  const connection = await next();
  const pings = (count) => assert.deepEqual(connection.sent, Array(count).fill({ type: "ping", ref: "ping" }));
  connection.tell({ type: "joined", id: "e-0" });
  context.mock.timers.tick(99);
  connection.tell({ type: "message", id: "e-1" });
  context.mock.timers.tick(99);
  pings(0);
  context.mock.timers.tick(1);
  pings(1);
  context.mock.timers.tick(49);
  connection.tell({ type: "pong" });
  context.mock.timers.tick(100);
  pings(2);
  context.mock.timers.tick(49);
  assert.equal(ann.room.state, "open");
  context.mock.timers.tick(1);
  assert.equal(ann.room.state, "connecting");
});

test("while the server rejects messages for a while, all of them wait", async (context) => {
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  mockTimers(context);
  context.mock.method(Math, "random", () => 0);
  const ann = members.add("ann", SERVER, { WebSocket, minDelay: 100, maxDelay: 200 });
  const connection = await next();
  const answer = (type, fields) => connection.tell({ type, ref: connection.sent.at(-1).ref, ...fields });
  const sent = () => connection.sent.map((event) => event.data);
  connection.tell({ type: "joined", id: "e-0" });
  const first = ann.room.send("first");
  for (const [code, delay] of [["rate_limited", 100], ["unavailable", 200], ["rate_limited", 200]]) {
    const before = sent();
    answer("error", { code });
    ann.room.send("second").catch(() => {});
    context.mock.timers.tick(delay - 1);
    assert.deepEqual(sent(), before);
    context.mock.timers.tick(1);
    assert.deepEqual(sent(), [...before, "first"]);
  }
  answer("accepted", { id: "e-1" });
  assert.equal(await first, "e-1");
  assert.equal(sent().at(-1), "second");
  assert.deepEqual(on(ann, "error"), []);
});

test("attempts are spread at random, up to a cap", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  const delays = [];
  const wait = globalThis.setTimeout;
  context.mock.method(globalThis, "setTimeout", (then, delay, ...rest) => {
    if (delay > 0 && delay < 1000) delays.push(delay);
    return wait(then, delay < 1000 ? 0 : delay, ...rest);
  });
  context.mock.method(Math, "random", () => 0.75);
  let now = 0;
  context.mock.method(performance, "now", () => now);
  members.add("ann", SERVER, { minDelay: 100, maxDelay: 1000, WebSocket });
  for (let count = 0; count < 6; count++) (await next()).lose();
  assert.deepEqual(delays.splice(0), [75, 150, 300, 600, 750, 750]);
  for (const seconds of [0.9, 1.1]) {
    const connection = await next();
    connection.tell({ type: "joined", id: "e-0" });
    now += seconds * 1000;
    connection.lose();
  }
  assert.deepEqual(delays, [750, 75]); // only a connection that lasts is a success
});

/** Return a function that dispatches the `online` of a browser. */
function fakeBrowser(context) {
  const browser = new EventTarget();
  for (const name of ["addEventListener", "removeEventListener"]) {
    globalThis[name] = browser[name].bind(browser);
    context.after(() => delete globalThis[name]);
  }
  return () => browser.dispatchEvent(new Event("online"));
}

test("back online, it does not wait for the next attempt", { timeout: 20_000 }, async (context) => {
  const online = fakeBrowser(context);
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  context.mock.method(Math, "random", () => 0.9);
  const ann = members.add("ann", SERVER, { WebSocket, minDelay: 60_000, maxDelay: 60_000 });
  (await next()).lose();
  online();
  (await next()).tell({ type: "joined", id: "e-0" });
  assert.equal(ann.room.state, "open");
  ann.room.close();
  online();
  await settled();
  assert.equal(ann.room.state, "closed");
});

test("back online, it does not wait for an attempt that hangs", { timeout: 20_000 }, async (context) => {
  const online = fakeBrowser(context);
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  const answers = [];
  const token = () => new Promise((resolve) => answers.push(resolve));
  const ann = members.add("ann", SERVER, { WebSocket, token });
  online();
  assert.equal(answers.length, 2);
  answers[0]("late");
  answers[1]("second");
  const first = await next();
  assert.equal(first.protocols[1], "bearer.second");
  online();
  answers[2]("third");
  const second = await next();
  first.tell({ type: "joined", id: "e-0" });
  first.lose();
  assert.equal(ann.room.state, "connecting");
  second.tell({ type: "joined", id: "e-0" });
  assert.deepEqual([ann.room.state, closes(ann)], ["open", []]);
});

test("back online, it tests an open connection at once", async (context) => {
  const online = fakeBrowser(context);
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  mockTimers(context);
  const ann = members.add("ann", SERVER, { WebSocket, pingAfter: 100, pongWithin: 50 });
  const connection = await next();
  connection.tell({ type: "joined", id: "e-0" });
  online();
  assert.deepEqual(connection.sent, [{ type: "ping", ref: "ping" }]);
  connection.tell({ type: "pong" });
  context.mock.timers.tick(50);
  assert.equal(ann.room.state, "open");
  online();
  context.mock.timers.tick(50);
  assert.deepEqual(closes(ann), [1006]);
});

test("closing rejects what was not accepted, and nothing follows", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const network = await Network.to(SERVER);
  context.after(() => network.close());
  const ann = await members.addOpen("ann", network.url);
  const bob = await members.addOpen("bob", SERVER);
  network.isDeaf = true;
  const answer = ann.room.send("unanswered");
  await untilGot(bob, 1);
  ann.room.close();
  ann.room.close();
  await rejects(answer, "closed");
  await rejects(ann.room.send("late"), "closed");
  const count = ann.events.length;
  network.isDeaf = false;
  await bob.room.send("not for ann");
  assert.equal(ann.events.length, count);
  assert.equal(ann.events.at(-1).state, "closed");
  const bea = members.add("bea", SERVER, { token: () => Promise.reject(new Error("too late")) });
  bea.room.close();
  await settled();
  assert.equal(bea.room.state, "closed");
  assert.throws(() => connect(SERVER, { WebSocket: undefined }), TypeError);
});

test("what can never work is not tried again", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  for (const url of ["/no/page/here", "ftp://127.0.0.1/tea", "file:///tea", "ws://127.0.0.1/#tea", "ws://127.0.0.1/#"]) {
    assert.throws(() => connect(url), TypeError);
  }
  const ann = members.add("ann", SERVER, { token: () => "a token" });
  const waiting = ann.room.send("never sent");
  await rejects(waiting, "closed");
  assert.match(on(ann, "state").at(-1).reason, /SyntaxError/);
  let attempts = 0;
  const token = () => JSON.parse(attempts++ ? `"${BOB}"` : "<html>"); // an error that may pass
  await members.addOpen("bob", SERVER.replace("ws", "http"), { token });
});

test("a connection without an answer is given up before much has come", async (context) => {
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  const ann = members.add("ann", SERVER, { WebSocket, maxHeld: 3 });
  const first = await next();
  first.tell({ type: "joined", id: "e-0" });
  ann.room.send("unanswered").catch(() => {});
  first.lose();
  const second = await next();
  const messages = range(1, 4).map((number) => ({ type: "message", id: `e-${number}`, data: number }));
  second.tell(...messages);
  assert.deepEqual(closes(ann), [1006]);
  second.tell({ type: "message", id: "e-4", data: 4 });
  assert.equal(on(ann, "state").at(-1).reason, "no answer to a message");
  const third = await next();
  assert.equal(third.since, "e-0");
  third.tell({ type: "joined", id: "e-0" });
  third.tell({ type: "accepted", ref: third.sent[0].ref, id: "e-9" }, ...messages);
  assert.deepEqual(data(ann), [1, 2, 3]);
});

test("several rooms share a connection, and all are back after a cut", { timeout: 60_000 }, async (context) => {
  const members = new Members(context);
  const network = await Network.to(SERVER);
  context.after(() => network.close());
  const bob = members.listen((await members.addOpen("bob", SERVER)).room.join("several"));
  const ann = await members.addOpen("ann", network.url, { maxDelay: 50 });
  const tea = members.listen(ann.room.join("several"));
  const milk = members.listen(ann.room.join("several milk"));
  assert.equal(ann.room.join("several"), tea.room);
  assert.equal(tea.room.join(ann.room.name), ann.room);
  for (const each of [bob, tea, milk]) await until(each, () => each.room.state === "open");
  assert.deepEqual([tea.room.name, milk.room.name], ["several", "several milk"]);
  const answers = [];
  for (const number of range(0, 5)) {
    await bob.room.send(`before ${number}`);
    network.isDown = true;
    network.cut();
    await until(tea, () => closes(tea).length > number);
    await bob.room.send(`missed ${number}`);
    answers.push(tea.room.send(`ann ${number}`));
    network.isDown = false;
    await until(tea, () => on(tea, "resumed").length === number + 1);
    await until(milk, () => on(milk, "resumed").length === number + 1);
  }
  await Promise.all(answers);
  await untilGot(tea, 10);
  assert.deepEqual(data(tea), range(0, 5).flatMap((number) => [`before ${number}`, `missed ${number}`]));
  await untilGot(bob, 5);
  assert.deepEqual(data(bob), range(0, 5).map((number) => `ann ${number}`));
  assert.deepEqual([data(ann), data(milk), on(tea, "gap")], [[], [], []]);
});

test("a room can be left and joined again", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const bob = members.listen((await members.addOpen("bob", SERVER)).room.join("left"));
  const ann = await members.addOpen("ann", SERVER);
  const first = members.listen(ann.room.join("left"));
  await until(first, () => first.room.state === "open");
  await bob.room.send(1);
  await untilGot(first, 1);
  const waiting = [first.room.send("a"), first.room.send("b")];
  first.room.close();
  await rejects(waiting[1], "closed");
  await rejects(first.room.send("late"), "closed");
  await waiting[0].catch(() => {});
  const second = members.listen(ann.room.join("left", { last: 1 }));
  assert.notEqual(first.room, second.room);
  await until(bob, () => on(bob, "left").length);
  await until(second, () => second.room.state === "open");
  await bob.room.send(2);
  await until(second, () => data(second).includes(2));
  assert.deepEqual([data(first), first.room.state, ann.room.state], [[1], "closed", "open"]);
  second.room.close();
  ann.room.close();
  const late = members.listen(ann.room.join("late"));
  assert.equal(late.room.state, "closed");
});

test("a room that may not be joined is closed, alone", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const ann = await members.addOpen("ann", SERVER);
  for (const [name, code] of [["user:somebody", "forbidden"], ["..", "invalid_shape"]]) {
    const room = members.listen(ann.room.join(name));
    const message = room.room.send("never");
    await rejects(message, code);
    await until(room, () => room.room.state === "closed");
    assert.equal(on(room, "error")[0].code, code);
  }
  await ann.room.send("still open");
});

test("joins that are too many at once are repeated", { timeout: 30_000 }, async (context) => {
  const members = new Members(context);
  const ann = await members.addOpen("ann", STRICT_SERVER, { minDelay: 200 });
  const rooms = range(0, 9).map((number) => members.listen(ann.room.join(`busy ${number}`)));
  for (const room of rooms) await until(room, () => room.room.state === "open");
  assert.deepEqual(closes(ann), []);
});

test("what is not to be kept is sent at once or not at all", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  const ann = members.add("ann", SERVER, { WebSocket });
  assert.equal(await ann.room.send("early", { keep: false }), "");
  const first = await next();
  first.tell({ type: "joined", id: "e-0", room: "a", connection: "c" });
  assert.equal(await ann.room.send("typing", { keep: false }), "");
  assert.deepEqual(first.sent, [{ type: "message", data: "typing", keep: false }]);
  first.tell({ type: "message", room: "a", data: "other" }, { type: "append", room: "a", id: "e-4", to: "e-1", data: "!" });
  assert.deepEqual(on(ann, "message"), [{ on: "message", type: "message", room: "a", data: "other" }]);
  assert.equal(on(ann, "append")[0].to, "e-1");
  first.lose();
  assert.equal((await next()).since, "e-4");
});

test("rooms that the server joins are heard in that of the URL, and resumed", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  const joined = (room, id) => ({ type: "joined", id, room, connection: "c" });
  const ann = members.add("ann", SERVER, { WebSocket });
  const first = await next();
  first.tell(joined("a", "a-1"), joined("user:ann", "u-1"), { type: "message", room: "user:ann", id: "u-2", data: 1 });
  assert.deepEqual(data(ann), [1]);
  first.lose();
  const second = await next();
  assert.equal(second.since, "a-1");
  const message = (id, data) => ({ type: "message", room: "user:ann", id, data });
  second.tell(joined("a", "a-1"), joined("user:ann", "u-3"), message("u-4", 4)); // and not yet 3
  second.tell({ type: "left", room: "user:ann", connection: "c" });
  const sent = second.sent.map(({ type, room, since }) => [type, room, since]);
  assert.deepEqual(sent, [["leave", "user:ann", undefined], ["join", "user:ann", "u-2"]]);
  const { ref } = second.sent.at(-1);
  second.tell(message("u-3", 3), message("u-4", 4), { ...joined("user:ann", "u-4"), ref });
  assert.deepEqual(data(ann), [1, 3, 4]);
  const own = members.listen(ann.room.join("user:ann"));
  second.tell(message("u-5", 5), { type: "left", room: "user:ann", connection: "c" });
  const join = second.sent.at(-1);
  assert.deepEqual([join.type, join.since], ["join", "u-4"]);
  second.tell(message("u-5", 5), { ...joined("user:ann", "u-5"), ref: join.ref });
  assert.deepEqual([data(ann), data(own)], [[1, 3, 4], [5]]);
  const states = on(ann, "state").map((event) => event.state);
  assert.deepEqual(states, ["open", "connecting", "open"]);
});

test("a room that was left is silent until the server has confirmed", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  const ann = members.add("ann", SERVER, { WebSocket });
  const first = await next();
  first.tell({ type: "joined", id: "a-1", room: "a", connection: "c" });
  ann.room.join("b").close();
  const again = members.listen(ann.room.join("b"));
  first.tell({ type: "message", room: "b", id: "b-1", data: "old" }, { type: "joined", room: "b", id: "b-1" });
  assert.equal(again.room.state, "connecting");
  assert.deepEqual(first.sent.map((event) => event.type), ["join", "leave"]);
  first.tell({ type: "left", room: "b", connection: "c" }, { type: "joined", room: "b", id: "b-2", connection: "c" });
  assert.deepEqual(first.sent.map((event) => event.type), ["join", "leave", "join"]);
  assert.deepEqual([again.room.state, data(again)], ["open", []]);
  again.room.close();
  const third = members.listen(ann.room.join("b"));
  third.room.close();
  const fourth = members.listen(ann.room.join("b"));
  assert.deepEqual(first.sent.slice(3).map((event) => event.type), ["leave"]);
  first.tell({ type: "error", code: "not_joined", room: "b", ref: first.sent.at(-1).ref });
  assert.equal(first.sent.at(-1).type, "join");
  first.tell({ type: "error", code: "unavailable", room: "b", ref: first.sent.at(-1).ref });
  first.lose(1008);
  assert.deepEqual([fourth.room.state, data(ann), on(ann, "error")], ["closed", [], []]);
});

test("a request to leave that is one too many is repeated", async (context) => {
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  mockTimers(context);
  context.mock.method(Math, "random", () => 0);
  const ann = members.add("ann", SERVER, { WebSocket, minDelay: 100 });
  const connection = await next();
  connection.tell({ type: "joined", id: "a-1", room: "a", connection: "c" });
  ann.room.join("b").close();
  const again = ann.room.join("b");
  connection.tell({ type: "error", code: "rate_limited", ref: connection.sent.at(-1).ref });
  context.mock.timers.tick(100);
  const types = () => connection.sent.map((event) => event.type);
  assert.deepEqual(types(), ["join", "leave", "leave"]);
  connection.tell({ type: "left", room: "b", connection: "c" });
  assert.deepEqual(types(), ["join", "leave", "leave", "join"]);
  again.close();
  connection.tell({ type: "error", code: "rate_limited", ref: connection.sent.at(-1).ref });
  connection.lose();
  context.mock.timers.tick(100);
  assert.equal(types().length, 5);
  assert.deepEqual(on(ann, "error"), []);
});

test("messages that wait for a room that is left are not sent, nor is it heard in another", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  const ann = members.add("ann", SERVER, { WebSocket });
  const joinBoth = (connection) => {
    connection.tell({ type: "joined", id: "a-1", room: "a", connection: "c" });
    connection.tell({ type: "joined", id: "b-1", room: "b", connection: "c", ref: connection.sent[0].ref });
  };
  const b = members.listen(ann.room.join("b"));
  const first = await next();
  joinBoth(first);
  const waiting = range(0, 3).map((number) => b.room.send(number));
  first.lose();
  const second = await next();
  joinBoth(second);
  second.tell({ type: "message", room: "b", id: "b-2", data: "held" });
  b.room.close();
  for (const message of waiting) await rejects(message, "closed");
  assert.deepEqual(second.sent.map((event) => event.data ?? event.type), ["join", 0, "leave"]);
  assert.deepEqual([data(ann), data(b)], [[], []]);
  second.lose();
  assert.equal((await next()).since, "a-1");
});

test("listeners may join, send and close while states change", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  const make = async () => {
    const ann = members.add("ann", SERVER, { WebSocket });
    const rooms = ["b", "c"].map((name) => members.listen(ann.room.join(name)));
    const connection = await next();
    return { ann, rooms, connection, open: () => connection.tell({ type: "joined", id: "a-1", room: "a" }) };
  };
  const once = (log, state, then) =>
    log.room.addEventListener("state", ({ detail }) => detail.state === state && then(), { once: true });
  const states = (log) => on(log, "state").map((event) => event.state);

  const opening = await make();
  once(opening.ann, "open", () => opening.ann.room.join("d"));
  opening.open();
  assert.deepEqual(opening.connection.sent.map((event) => event.room), ["b", "c", "d"]);

  const closing = await make();
  once(closing.ann, "open", () => closing.ann.room.close());
  closing.open();
  assert.deepEqual(closing.rooms.map(states), [["closed"], ["closed"]]);

  const losing = await make();
  losing.open();
  const late = [];
  once(losing.ann, "connecting", () => losing.ann.room.close());
  once(losing.rooms[0], "closed", () => late.push(losing.rooms[1].room.send("late")));
  losing.connection.lose();
  assert.deepEqual(losing.rooms.map(states), [["closed"], ["closed"]]);
  await rejects(late[0], "closed");

  const refused = await make();
  refused.open();
  const [b] = refused.rooms;
  b.room.addEventListener("error", () => b.room.close());
  const { ref } = refused.connection.sent[0];
  refused.connection.tell({ type: "error", code: "forbidden", detail: "no", room: "b", ref });
  assert.deepEqual(states(b), ["closed"]);
});

test("the room of the URL can't be joined once more before its name is known", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  const ann = members.add("ann", SERVER, { WebSocket });
  const same = members.listen(ann.room.join("a"));
  const waiting = same.room.send("never");
  const connection = await next();
  connection.tell({ type: "joined", id: "a-1", room: "a" }, { type: "message", room: "a", id: "a-2", data: "for ann" });
  await rejects(waiting, "closed");
  assert.deepEqual([same.room.state, data(same), data(ann), connection.sent], ["closed", [], ["for ann"], []]);
});

test("without upgrades, two members talk by event streams", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const network = await Network.to(SERVER);
  context.after(() => network.close());
  network.isBlocking = true;
  const bob = await members.addOpen("bob", SERVER);
  const ann = await members.addOpen("ann", network.url, { fallback: true });
  const bea = await members.addOpen("bea", network.url, { fallback: true });
  const ids = [await ann.room.send({ text: "Zoë \ud800 🫖" }), await ann.room.send([1, null])];
  for (const each of [bob, bea]) {
    await untilGot(each, 2);
    assert.deepEqual(data(each), [{ text: "Zoë \ufffd 🫖" }, [1, null]]);
    assert.deepEqual(on(each, "message").map((event) => [event.id, event.sender]), ids.map((id) => [id, "ann"]));
  }
  await bea.room.send("Grüße");
  await bob.room.send("Hello");
  await untilGot(ann, 2);
  assert.deepEqual(data(ann), ["Grüße", "Hello"]);
  await ann.room.renew(); // without effect
  assert.equal(await ann.room.send("typing", { keep: false }), "");
  const other = members.listen(ann.room.join("other"));
  await rejects(other.room.send("never"), "not_available");
  assert.deepEqual([on(other, "error")[0].code, other.room.state], ["not_available", "closed"]);
  await ann.room.send("still open");
  await untilGot(bob, 4);
  assert.deepEqual(data(bob).slice(2), ["Grüße", "still open"]);
  ann.room.close();
  await until(bob, () => on(bob, "left").length);
  assert.equal(on(bob, "left")[0].sender, "ann");
  assert.deepEqual(closes(ann), [1006, 1000]);
});

test("nothing is missing and nothing comes twice after cuts of event streams", { timeout: 60_000 }, async (context) => {
  const members = new Members(context);
  const network = await Network.to(SERVER);
  context.after(() => network.close());
  network.isBlocking = true;
  const ann = await members.addOpen("ann", network.url, { fallback: true, maxDelay: 50, inFlight: 3 });
  const bob = await members.addOpen("bob", SERVER, { inFlight: 4 });
  let count = 0;
  let isOver = false;
  const publish = async () => {
    while (!isOver) await bob.room.send(count++);
  };
  const published = Promise.all(range(0, 4).map(publish));
  const answers = [];
  for (const number of range(1, 6)) {
    await untilGot(ann, number * 60);
    for (const each of range(0, 5)) answers.push(ann.room.send(5 * number + each));
    await settled();
    network.cut();
    await until(ann, () => on(ann, "resumed").length === number);
  }
  isOver = true;
  await published;
  await untilGot(ann, count);
  const ids = await Promise.all(answers);
  await untilGot(bob, 25);
  assert.deepEqual(data(ann), range(0, count));
  assert.deepEqual(on(ann, "gap"), []);
  assert.deepEqual(on(bob, "message").map((event) => [event.data, event.id]), ids.map((id, index) => [index + 5, id]));
  assert.equal(network.upgrades, 1); // then it stays with what works
});

test("by POST, messages are rejected and sent again as by a WebSocket", { timeout: 30_000 }, async (context) => {
  const members = new Members(context);
  class Blocked extends WebSocket {
    constructor(url, protocols) {
      super(url.replace("ws_broadcast", "blocked"), protocols);
    }
  }
  const bob = await members.addOpen("bob", STRICT_SERVER);
  const options = { WebSocket: Blocked, fallback: true, minDelay: 50 };
  const ann = await members.addOpen("ann", STRICT_SERVER, options);
  await rejects(ann.room.send(undefined), "invalid_json");
  await rejects(ann.room.send(range(0, 300).reduce((inner) => [inner], 1)), "invalid_json");
  await rejects(ann.room.send("x".repeat(70_000)), "too_big");
  await rejects(ann.room.send("x".repeat(1_000_000)), "too_big");
  const ids = await Promise.all(range(0, 30).map((number) => ann.room.send(number)));
  await untilGot(bob, 30);
  assert.deepEqual(on(bob, "message").map((event) => [event.data, event.id]), ids.map((id, index) => [index, id]));
  assert.deepEqual([closes(ann), on(ann, "error")], [[1006], []]);
});

test("it goes back to WebSockets when event streams fail", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const network = await Network.to(SERVER);
  context.after(() => network.close());
  const bob = await members.addOpen("bob", SERVER);
  const ann = await members.addOpen("ann", network.url, { fallback: true });
  for (const number of range(0, 3)) {
    await ann.room.send(`open ${number}`);
    await bob.room.send(`open ${number}`);
    await untilGot(ann, 2 * number + 1);
    network.isBlocking = number % 2 === 0;
    network.isDown = true;
    network.cut();
    const count = closes(ann).length;
    const missed = [bob.room.send(`missed ${number}`), ann.room.send(`missed ${number}`)];
    const isStream = number % 2;
    await until(ann, () => closes(ann).length > count + isStream); // lost; and a stream failed to open
    network.isDown = false;
    await Promise.all(missed);
    await untilGot(ann, 2 * number + 2);
  }
  await untilGot(bob, 6);
  const all = range(0, 3).flatMap((number) => [`open ${number}`, `missed ${number}`]);
  assert.deepEqual([data(ann), data(bob)], [all, all]);
  assert.equal(network.upgrades, 4); // the first, one that is blocked, one that is not, and one blocked
});

test("there is no fallback without the option", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const network = await Network.to(SERVER);
  context.after(() => network.close());
  network.isBlocking = true;
  const ann = members.add("ann", network.url);
  await until(ann, () => closes(ann).length === 3);
  assert.equal(network.connections, network.upgrades);
});

test("what is no event stream is an attempt that failed", { timeout: 20_000 }, async (context) => {
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  const nextRequest = fakeFetch(context);
  const delays = [];
  const wait = globalThis.setTimeout;
  context.mock.method(globalThis, "setTimeout", (then, delay, ...rest) => {
    if (delay < 1000) delays.push(delay);
    return wait(then, delay, ...rest);
  });
  context.mock.method(Math, "random", () => 0.5);
  const ann = members.add("ann", SERVER, { WebSocket, fallback: true });
  for (const [type, status] of [["text/html", 200], ["text/event-stream", 404], ["application/json", 503]]) {
    (await next()).lose();
    (await nextRequest()).accept(type, status);
  }
  (await next()).lose();
  (await nextRequest()).fail();
  (await next()).lose();
  const stream = await nextRequest();
  stream.accept();
  stream.tell({ type: "joined", id: "e-0" });
  await until(ann, () => ann.room.state === "open");
  stream.end();
  await nextRequest();
  assert.deepEqual(closes(ann), Array(10).fill(1006));
  assert.deepEqual(delays, [0, 5, 0, 10, 0, 20, 0, 40, 0, 80]); // from a WebSocket to a stream at once
});

test("an own message that comes before its answer is known as one's own", { timeout: 20_000 }, async (context) => {
  const { ann, stream, nextRequest } = await streaming(context, { inFlight: 2 });
  const message = (number) => ({ type: "message", id: `e-${number}`, room: "a", data: number });
  const answers = [ann.room.send(1), ann.room.send(3)];
  const post = await nextRequest();
  assert.deepEqual([post.method, post.body, post.headers["Content-Type"]], ["POST", "1", "application/json"]);
  stream.tell(message(1), message(2));
  await settled();
  assert.deepEqual(data(ann), []);
  post.answer(202, { id: "e-1" });
  const second = await nextRequest(); // and not before the first is answered
  stream.tell(message(3), message(4));
  await settled();
  assert.notEqual(post.headers["Idempotency-Key"], second.headers["Idempotency-Key"]);
  second.answer(202, { id: "e-3" });
  await untilGot(ann, 2);
  assert.deepEqual(await Promise.all(answers), ["e-1", "e-3"]);
  assert.deepEqual(data(ann), [2, 4]);
  stream.end();
  await until(ann, () => ann.room.state === "connecting");
  assert.equal((await nextRequest()).url.searchParams.get("since"), "e-4");
});

test("a message that was refused but is published is known as one's own", { timeout: 20_000 }, async (context) => {
  const { ann, stream, nextRequest } = await streaming(context);
  const answer = ann.room.send("own");
  (await nextRequest()).answer(503, { detail: "Redis is away" });
  stream.tell({ type: "message", id: "e-1", room: "a", data: "own" }, { type: "message", id: "e-2", room: "a", data: "other" });
  (await nextRequest()).answer(202, { id: "e-1" });
  assert.equal(await answer, "e-1");
  assert.deepEqual(data(ann), ["other"]);
});

test("a POST without an answer ends the stream, and is repeated", { timeout: 20_000 }, async (context) => {
  const late = new AbortController();
  context.mock.method(AbortSignal, "timeout", () => late.signal);
  const { ann, nextRequest } = await streaming(context, { inFlight: 2 });
  const failures = [
    (post) => post.answer(200, "<html>"),
    (post) => post.accept("text/html", 202),
    (post) => post.answer(404, { detail: "Not Found" }),
    (post) => post.answer(500, { id: 5 }),
    (post) => post.answer(202, null),
    (post) => post.fail(),
    () => late.abort(),
  ];
  const answers = [ann.room.send(1), ann.room.send(2)];
  const refs = new Set();
  for (const fail of failures) {
    const post = await nextRequest();
    refs.add(post.headers["Idempotency-Key"]);
    fail(post);
    if (fail === failures[1]) post.end();
    const stream = await nextRequest();
    assert.equal(stream.method, "GET");
    stream.accept();
    stream.tell({ type: "message", id: "e-1", room: "a", data: 1 }, { type: "joined", id: "e-1", room: "a" });
  }
  for (const id of ["e-1", "e-2"]) {
    const post = await nextRequest();
    refs.add(post.headers["Idempotency-Key"]);
    post.answer(202, { id });
  }
  assert.deepEqual(await Promise.all(answers), ["e-1", "e-2"]);
  assert.deepEqual([refs.size, data(ann)], [2, []]);
});

test("event streams and POSTs have the token; a new one comes with the next attempt", { timeout: 20_000 }, async (context) => {
  let count = 0;
  const options = { token: () => `t.${++count}`, inFlight: 2 };
  const { ann, stream, nextRequest } = await streaming(context, options);
  const answers = [ann.room.send("own"), ann.room.send("later")];
  const post = await nextRequest();
  const tokens = [stream, post].map((request) => request.headers.Authorization);
  assert.deepEqual(tokens, ["Bearer t.2", "Bearer t.2"]);
  post.answer(401, { detail: "expired" });
  const second = await nextRequest();
  assert.deepEqual([second.headers.Authorization, closes(ann)], ["Bearer t.3", [1006, 4401]]);
  assert.ok(stream.signal.aborted);
  second.accept();
  second.tell({ type: "joined", id: "e-0", room: "a" });
  const again = await nextRequest();
  assert.deepEqual([again.method, again.headers.Authorization], ["POST", "Bearer t.3"]);
  again.accept("text/html", 403); // a proxy's
  again.end();
  (await nextRequest()).answer(403, { detail: "not here" });
  for (const answer of answers) await rejects(answer, "forbidden");
});

test("a guest sends as the guest that the stream is", { timeout: 20_000 }, async (context) => {
  const { WebSocket, next } = fakeServer();
  const nextRequest = fakeFetch(context);
  const room = connect(`${SERVER}/ws_broadcast/a`, { WebSocket, fallback: true, ...FAST });
  context.after(() => room.close());
  const log = new Members(context).listen(room);
  (await next()).lose();
  const stream = await nextRequest();
  stream.accept();
  stream.tell({ type: "joined", id: "e-0", room: "a", sender: "guest-1" }, { type: "joined", room: "a", sender: "bob" });
  await until(log, () => room.state === "open");
  room.send("Hello").catch(() => {});
  assert.equal((await nextRequest()).url.searchParams.get("name"), "guest-1");
});

test("events may be cut anywhere", { timeout: 20_000 }, async (context) => {
  const { ann, stream } = await streaming(context);
  const text = 'id: e-1\ndata: {"type": "message", "id": "e-1", "room": "a", "data": "Zoë 🫖"}\n\n: ping\n\nretry: 5\n\n';
  for (const byte of new TextEncoder().encode(text)) stream.enqueue(Uint8Array.of(byte));
  stream.write('data: {"type": "message", "id": "e-2", "room": "a", "data": "no end"}');
  stream.end();
  await until(ann, () => closes(ann).length === 2);
  assert.deepEqual(data(ann), ["Zoë 🫖"]);
});

test("a comment is a sign of life; without any, a stream is given up", async (context) => {
  mockTimers(context);
  const options = { pingAfter: 100, pongWithin: 50 };
  const { ann, stream } = await streaming(context, options, () => context.mock.timers.tick(0));
  const comment = async () => {
    stream.write(": ping\n\n");
    await settled();
  };
  await comment();
  for (let count = 0; count < 3; count++) {
    context.mock.timers.tick(100);
    context.mock.timers.tick(29_800); // more than `pongWithin`: the server has its own time
    await comment();
  }
  assert.equal(ann.room.state, "open");
  context.mock.timers.tick(100);
  context.mock.timers.tick(29_900);
  assert.equal(on(ann, "state").at(-1).reason, "no answer");
  assert.ok(stream.signal.aborted);
});

test("back online, a stream begins anew", { timeout: 20_000 }, async (context) => {
  const online = fakeBrowser(context);
  const { ann, stream, nextRequest } = await streaming(context);
  online();
  assert.ok(stream.signal.aborted);
  assert.equal(ann.room.state, "connecting");
  assert.equal((await nextRequest()).url.searchParams.get("since"), "e-0");
});

test("a stream can't resume rooms that the server joins, and tells of a gap there", { timeout: 20_000 }, async (context) => {
  let { ann, stream, nextRequest } = await streaming(context);
  const joined = (room, id) => ({ type: "joined", id, room, connection: "c" });
  stream.tell(joined("user:ann", "u-1"), { type: "message", room: "user:ann", id: "u-2", data: 1 });
  await untilGot(ann, 1);
  for (const [id, count] of [["u-2", 0], ["u-3", 1]]) {
    stream.end();
    stream = await nextRequest();
    stream.accept();
    stream.tell(joined("a", "e-0"), joined("user:ann", id), { type: "message", room: "user:ann", data: id });
    await until(ann, () => data(ann).includes(id));
    assert.equal(on(ann, "gap").length, count);
  }
  assert.deepEqual(on(ann, "gap")[0], { on: "gap", type: "gap", room: "user:ann", since: "u-2" });
  assert.deepEqual(on(ann, "error"), []);
  const own = ann.room.join("user:ann");
  await settled();
  assert.equal(own.state, "closed");
  stream.tell({ type: "message", room: "user:ann", id: "u-4", data: "not heard" });
  stream.end();
  assert.equal((await nextRequest()).url.searchParams.get("since"), "e-0");
  assert.deepEqual(data(ann), [1, "u-2", "u-3"]);
});
