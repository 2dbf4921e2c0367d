// Owns a conversation with a real server: what it finds is asserted here, and what it has shown is printed as JSON.
//
// Usage: node check.mjs '{"transport": "native", "host": ..., "port": ..., "proxy": ..., "certs": ..., "file": ...}'
// `proxy` is a port that cuts connections; `file` is read by a job, and printed.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";

import { Client, follow, RequestError } from "./client.mjs";
import { openNative, openWebSocket } from "./transports.mjs";

const config = JSON.parse(process.argv[2]);
const open = { native: openNative, websocket: openWebSocket }[config.transport];

function connect(identity, port = config.port) {
  const read = (name) => readFileSync(join(config.certs, name));
  return new Client(
    open({
      host: config.host,
      port,
      ca: read("ca.crt"),
      cert: read(`${identity}.crt`),
      key: read(`${identity}.key`),
    }),
  );
}

const refused = (code) => (error) => error instanceof RequestError && error.code === code;
const argv = (...words) => words.map((word) => Buffer.from(word));

async function collect(pieces) {
  const parts = { 1: [], 2: [] };
  for (;;) {
    const { value, done } = await pieces.next();
    if (done) return { out: Buffer.concat(parts[1]), err: Buffer.concat(parts[2]), end: value };
    assert.equal(value.type, "output");
    parts[value.stream].push(Buffer.from(value.data));
  }
}

const admin = connect("admin");
const user = connect("user");
const [hello, lesser] = await Promise.all([admin.hello, user.hello]);
assert.equal(hello.identity, "admin");
assert.equal(hello.role, "Admin");
assert.equal(lesser.role, "User");
assert.ok(Math.abs(hello.time - Date.now() / 1000) < 60);

// A life: both streams, bytes that are no text, the exit code.
const script = "printf 'a\\000\\377'; printf problem >&2; exit 3";
const { job } = await admin.request("start", { argv: argv("sh", "-c", script), limits: { pids: 50 } });
const { out, err, end } = await collect(user.stream({ id: job.id }));
assert.deepEqual([...out], [97, 0, 255]);
assert.equal(err.toString(), "problem");
assert.equal(end.exit_code, 3);
assert.equal(end.cause.kind, "exited");
assert.equal(end.output, 10);
assert.equal((await user.request("query", { id: job.id })).job.exit_code, 3);
assert.equal((await collect(user.stream({ id: job.id, stream: 2 }))).err.toString(), "problem");
const digits = (await admin.request("start", { argv: argv("printf", "0123456789") })).job;
await user.request("wait", { id: digits.id });
assert.equal((await collect(user.stream({ id: digits.id, tail_bytes: 4 }))).out.toString(), "6789");
assert.equal((await collect(user.stream({ id: digits.id, offset: 8, follow: false }))).out.toString(), "89");

// Refusals: by role, by name, by parameters.
await assert.rejects(user.request("start", { argv: argv("true") }), refused("denied"));
await assert.rejects(admin.request("start", { argv: argv("/nonexistent") }), refused("no_such_program"));
await assert.rejects(admin.request("query", { id: "ffffffff-none" }), refused("not_found"));
await assert.rejects(admin.request("fly"), refused("unknown_method"));
await assert.rejects(admin.request("query", {}), refused("bad_request"));

// A stop, with others waiting for the end, and a list over as many pages as there are.
const sleeper = (await admin.request("start", { argv: argv("sleep", "600") })).job;
await assert.rejects(admin.request("remove", { id: sleeper.id }), refused("running"));
const waiting = user.request("wait", { id: sleeper.id });
const stopped = (await admin.request("stop", { id: sleeper.id })).job;
assert.deepEqual([stopped.status, stopped.signal], ["signaled", 15]);
assert.deepEqual(stopped.cause, { kind: "stopped", by: "admin" });
assert.deepEqual((await waiting).job.cause, stopped.cause);
const ids = [];
for (let page, after; page === undefined || after !== undefined; after = page.next) {
  page = await user.request("list", after === undefined ? {} : { after });
  ids.push(...page.jobs.map((each) => each.id));
}
assert.ok(ids.includes(job.id) && ids.includes(sleeper.id));
await admin.request("remove", { id: sleeper.id });
await assert.rejects(user.request("query", { id: sleeper.id }), refused("not_found"));

// A stream that is left early costs the connection nothing.
const endless = (await admin.request("start", { argv: argv("yes") })).job;
const pieces = user.stream({ id: endless.id });
assert.equal((await pieces.next()).value.offset, 0);
await pieces.return();
await admin.request("stop", { id: endless.id, grace: 0 });

// Exact bytes through cuts.
const large = (await admin.request("start", { argv: argv("cat", config.file) })).job;
const digest = createHash("sha256");
let size = 0;
const following = follow(() => connect("user", config.proxy), large.id);
for (;;) {
  const { value, done } = await following.next();
  if (done) {
    assert.equal(value.job.output, size);
    console.log(JSON.stringify({ size, sha256: digest.digest("hex"), cuts: value.cuts }));
    break;
  }
  assert.equal(value.type, "output");
  digest.update(value.data);
  size += value.data.length;
}
admin.close();
user.close();
