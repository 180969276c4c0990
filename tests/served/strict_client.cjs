const { WebSocket } = require("ws");
const assert = require("node:assert");

// Of the text in UTF-8; "New message: " comes on top, and is what reaches a border of the framing.
const lengths = [0, 1, 111, 112, 113, 114, 65521, 65522, 65523, 65524, 65536];
const accents = (length) => "é".repeat(length / 4);
const texts = lengths.map((length) => accents(length).padEnd(length - accents(length).length, "x"));
const url = process.argv[2] + "/ws_broadcast";
const left = new Promise((resolve) => setTimeout(resolve, 60_000, "late").unref());

async function main() {
  const members = [["events.v1"], []].map((offered) => new WebSocket(url, offered));
  await Promise.all(members.map((each) => new Promise((resolve) => each.on("open", resolve))));
  const [events, plain] = members;
  for (const each of members) each.on("error", (error) => { console.error(error); process.exit(1); });
  assert.match(events.extensions, /permessage-deflate/);
  const got = { events: [], plain: [] };
  const all = new Promise((resolve) => {
    const check = () => got.events.length + got.plain.length === 2 * texts.length && resolve();
    events.on("message", (data) => {
      const event = JSON.parse(data);
      if (event.type === "message") got.events.push(event.data), check();
    });
    plain.on("message", (data) => (got.plain.push(String(data)), check()));
  });
  const speaker = new WebSocket(url);
  await new Promise((resolve) => speaker.on("open", resolve));
  for (const text of texts) speaker.send(text);
  assert.deepEqual(texts.map((text) => Buffer.byteLength(text)), lengths);
  assert.notEqual(await Promise.race([all, left]), "late");
  assert.deepEqual(got.events, texts);
  assert.deepEqual(got.plain, texts.map((text) => "New message: " + text));
  const closed = new Promise((resolve) => plain.on("close", resolve));
  plain.send(Buffer.from("binary"));
  assert.equal(await closed, 1003);
  for (const each of [events, speaker]) each.close();
}
main().catch((error) => { console.error(error); process.exit(1); });
