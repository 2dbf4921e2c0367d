// Owns a client of worker.v1, written from wire/PROTOCOL.md alone: frames, requests, credit, and the way back.

import { decode, encode } from "@msgpack/msgpack";

const MAX_FRAME = 4_194_304;
const WINDOW = 1_048_576;

/** The server refused a request, or, where `connection` is true, the whole connection. */
export class RequestError extends Error {
  constructor({ id, code, message, offset }) {
    super(message);
    Object.assign(this, { code, offset, connection: id === 0 });
  }
}

/** The connection ended before the answer was complete. */
export class CutError extends Error {}

/** One connection. `await client.hello` before anything else. */
export class Client {
  #buffer = Buffer.alloc(0);
  #requests = new Map();
  #lastId = 0;
  #transport;
  #greet;
  #failure = null;

  constructor(transport) {
    this.#transport = transport;
    this.hello = new Promise((resolve, reject) => (this.#greet = { resolve, reject }));
    transport.onData = (bytes) => this.#receive(bytes);
    transport.onEnd = (reason) => this.#fail(new CutError(reason));
  }

  /** Ask for something, and resolve to its result. */
  async request(method, params = {}) {
    const request = this.#begin(method, params, 0);
    for (;;) {
      const event = await request.next();
      if (event.type === "reply") return event.result ?? {};
    }
  }

  /** Give a stream's `output` and `gap` messages; its result is the job's last record. */
  async *stream(params) {
    const request = this.#begin("stream", params, WINDOW);
    let taken = 0;
    try {
      for (;;) {
        const event = await request.next();
        if (event.type === "reply") return event.result.job;
        yield event;
        taken += event.data?.length ?? 0; // the caller is done with it
        if (taken >= WINDOW / 2 && this.#requests.has(request.id)) {
          this.#send({ type: "credit", id: request.id, amount: taken });
          taken = 0;
        }
      }
    } finally {
      if (this.#requests.has(request.id)) this.#send({ type: "cancel", id: request.id });
    }
  }

  close() {
    this.#transport.close();
  }

  #begin(method, params, credit) {
    if (this.#failure) throw this.#failure;
    const id = ++this.#lastId;
    const events = [];
    let wake = () => {};
    const request = {
      id,
      push: (event) => (events.push(event), wake()),
      next: async () => {
        while (events.length === 0) await new Promise((resolve) => (wake = resolve));
        const event = events.shift();
        if (event instanceof Error) throw event;
        return event;
      },
    };
    this.#requests.set(id, request);
    this.#send({ type: "request", id, method, params, credit });
    return request;
  }

  #send(message) {
    const payload = encode(message);
    const header = Buffer.alloc(4);
    header.writeUInt32BE(payload.length);
    this.#transport.send(Buffer.concat([header, payload]));
  }

  #receive(bytes) {
    this.#buffer = this.#buffer.length ? Buffer.concat([this.#buffer, bytes]) : bytes;
    let at = 0;
    while (this.#buffer.length - at >= 4) {
      const size = this.#buffer.readUInt32BE(at);
      if (size === 0 || size > MAX_FRAME) return this.#abort(`a frame of ${size} bytes`);
      if (this.#buffer.length - at - 4 < size) break;
      this.#take(decode(this.#buffer.subarray(at + 4, at + 4 + size)));
      at += 4 + size;
    }
    this.#buffer = this.#buffer.subarray(at);
  }

  #take(message) {
    switch (message.type) {
      case "hello":
        if (message.version !== 1) return this.#abort(`version ${message.version}`);
        if (message.features) this.#send({ type: "hello", features: [] });
        return this.#greet.resolve(message);
      case "ping":
        return this.#send({ type: "pong", nonce: message.nonce });
      case "pong":
        return undefined;
      case "error":
        if (message.id === 0) return this.#fail(new RequestError(message));
        return this.#final(message.id, new RequestError(message));
      case "reply":
        return this.#final(message.id, message);
      case "output":
      case "gap":
        return this.#requests.get(message.id)?.push(message);
      default:
        return this.#abort(`a message of type ${message.type}`);
    }
  }

  #final(id, event) {
    this.#requests.get(id)?.push(event);
    this.#requests.delete(id);
  }

  #abort(what) {
    this.#fail(new CutError(`the server broke the protocol: ${what}`));
    this.#transport.abort();
  }

  #fail(error) {
    this.#failure ??= error;
    this.#greet.reject(this.#failure);
    this.hello.catch(() => {});
    for (const request of this.#requests.values()) request.push(this.#failure);
    this.#requests.clear();
  }
}

/** Give all of a job's output over as many connections as it takes; `open` opens one. */
export async function* follow(open, id) {
  let offset = 0;
  let cuts = 0;
  for (;;) {
    try {
      const client = open();
      await client.hello;
      const pieces = client.stream({ id, offset });
      for (;;) {
        const { value, done } = await pieces.next();
        if (done) {
          client.close();
          return { job: value, cuts };
        }
        if (value.offset !== offset) throw new Error(`output of byte ${value.offset}, not ${offset}`);
        offset += value.data?.length ?? value.size;
        yield value;
      }
    } catch (error) {
      if (!(error instanceof CutError) || (cuts += 1) > 1000) throw error;
    }
  }
}
