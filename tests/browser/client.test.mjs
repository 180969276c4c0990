/** Tests of client.js; test_client.py starts the servers, and runs this. */

import assert from "node:assert/strict";
import net from "node:net";
import { test } from "node:test";
import { pathToFileURL } from "node:url";

const { CLIENT, SERVER, STOPPING_SERVER, STRICT_SERVER, ANN, BOB } = process.env;
const { connect, RoomError } = await import(pathToFileURL(CLIENT));

const TYPES = ["message", "append", "joined", "left", "present", "gap", "resumed", "error", "state"];
const FAST = { minDelay: 10, maxDelay: 200 };

/** A TCP proxy in front of a server: a network that can break. */
class Network {
  isDown = false; // refuses connections
  isFrozen = false; // carries nothing, and says nothing
  isDeaf = false; // carries nothing from the server
  connections = 0;
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
    client.on("data", (data) => this.isFrozen || upstream.write(data));
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

/** A WebSocket whose other end is the test: `next` returns each one that the client makes. */
function fakeServer() {
  const made = [];
  const wanted = [];
  class WebSocket {
    sent = [];

    constructor(url, protocols) {
      this.since = new URL(url).searchParams.get("since");
      this.protocols = protocols;
      made.push(this);
      wanted.shift()?.();
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
  const next = async () => {
    if (!made.length) await new Promise((resolve) => wanted.push(resolve));
    return made.shift();
  };
  return { WebSocket, next };
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
  assert.deepEqual(asked, [0, 1, 2, 2]);
  assert.deepEqual(on(ann, "state").map((event) => event.reason?.includes("no token now")), [false, false, true, undefined]);
  await ann.room.renew();
  await ann.room.send("still here");
  assert.equal(asked.length, 5);
});

test("a token that does not come ends the attempt, and is ignored later", async (context) => {
  const members = new Members(context);
  const { WebSocket, next } = fakeServer();
  context.mock.timers.enable({ apis: ["setTimeout"] });
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
  context.mock.timers.enable({ apis: ["setTimeout"] });
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
  context.mock.timers.enable({ apis: ["setTimeout"] });
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
  context.mock.timers.enable({ apis: ["setTimeout"] });
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
  context.mock.timers.enable({ apis: ["setTimeout"] });
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
  const ann = await members.addOpen("ann", STRICT_SERVER, { minDelay: 50 });
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
  second.tell(joined("a", "a-1"), joined("user:ann", "u-3"));
  assert.deepEqual(second.sent.map(({ type, room, since }) => [type, room, since]), [["join", "user:ann", "u-2"]]);
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
  first.tell({ type: "error", code: "not_joined", room: "b", ref: "leave" });
  assert.equal(first.sent.at(-1).type, "join");
  first.tell({ type: "error", code: "unavailable", room: "b", ref: first.sent.at(-1).ref });
  first.lose(1008);
  assert.deepEqual([third.room.state, data(ann)], ["closed", []]);
});
