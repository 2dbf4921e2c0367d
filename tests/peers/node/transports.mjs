// Owns the two transports of worker.v1: each is a TLS 1.3 connection that carries one stream of bytes.
//
// A transport has `send(bytes)` and `close()`, and calls `onData(bytes)` and, once, `onEnd(reason)`.

import tls from "node:tls";
import { WebSocket } from "ws";

const SUBPROTOCOL = "worker.v1.msgpack";

/** Open the native transport: frames straight in the TLS stream. `options` are those of tls.connect. */
export function openNative(options) {
  const socket = tls.connect({ ...options, minVersion: "TLSv1.3", ALPNProtocols: ["worker.v1"] });
  const transport = {
    send: (bytes) => socket.write(bytes),
    close: () => socket.end(),
    abort: () => socket.destroy(),
    onData: () => {},
    onEnd: () => {},
  };
  let reason = "the server closed the connection";
  socket.on("data", (bytes) => transport.onData(bytes));
  socket.on("error", (error) => (reason = error.message));
  socket.on("close", () => transport.onEnd(reason));
  return transport;
}

/** Open the WebSocket transport: the same bytes in binary messages. */
export function openWebSocket(options) {
  const { host, port, ...secure } = options;
  const socket = new WebSocket(`wss://${host}:${port}/`, SUBPROTOCOL, {
    ...secure,
    minVersion: "TLSv1.3",
    perMessageDeflate: false,
  });
  const early = [];
  const transport = {
    send: (bytes) => (socket.readyState === WebSocket.OPEN ? socket.send(bytes) : early.push(bytes)),
    close: () => socket.close(1000),
    abort: () => socket.terminate(),
    onData: () => {},
    onEnd: () => {},
  };
  let reason = null;
  socket.on("open", () => early.splice(0).forEach((bytes) => socket.send(bytes)));
  socket.on("message", (bytes) => transport.onData(bytes));
  socket.on("error", (error) => (reason = error.message));
  socket.on("close", (code) => transport.onEnd(reason ?? `the server closed with code ${code}`));
  return transport;
}
