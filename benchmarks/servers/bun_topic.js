// Bun's own server (uWebSockets, native code) and its publish to a topic.

Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.argv[2]),
  fetch(request, server) {
    const path = new URL(request.url).pathname;
    return server.upgrade(request, { data: path }) ? undefined : new Response("no", { status: 400 });
  },
  websocket: {
    open(socket) {
      if (socket.data === "/ws_broadcast") socket.subscribe("lobby");
    },
    message(socket, data) {
      if (socket.data === "/ws_broadcast") socket.publish("lobby", `New message: ${data}`);
      else if (socket.data === "/ws") socket.send(`Message text was: ${data}`);
      else socket.send(JSON.stringify({ message: "Received JSON data", data: JSON.parse(data) }));
    },
  },
});
