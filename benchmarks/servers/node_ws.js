// Node's ws, as its documentation broadcasts.

const { WebSocket, WebSocketServer } = require("ws");

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[2]) });

server.on("connection", (socket, request) => {
  socket.on("error", () => {});
  socket.on("message", (data, isBinary) => {
    if (request.url === "/ws") {
      socket.send(`Message text was: ${data}`, { binary: isBinary });
      return;
    }
    const message = `New message: ${data}`;
    for (const client of server.clients) {
      if (client !== socket && client.readyState === WebSocket.OPEN) client.send(message);
    }
  });
});
