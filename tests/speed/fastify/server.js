// What is usually written for such an endpoint: Fastify and better-sqlite3 over TLS, one
// transaction a request, with the tables of tilld and as durable as its database. It has no tape,
// no log, and checks the least that an honest one checks.
//
// node server.js SCHEMA CERTIFICATE KEY DATABASE

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import Database from 'better-sqlite3';
import Fastify from 'fastify';

const [schema, cert, key, path] = process.argv.slice(2);
const database = new Database(path);
database.pragma('journal_mode = WAL');
database.pragma('synchronous = FULL');
database.pragma('foreign_keys = ON');
database.exec(readFileSync(schema, 'utf8'));

const sha256 = (text) => createHash('sha256').update(text).digest();
const same = database.prepare(
  'SELECT amount, channel FROM collection WHERE contract = ? AND receipt = ?');
const paid = database.prepare('SELECT 1 FROM collection WHERE contract = ? LIMIT 1');
const insert = database.prepare(`
  INSERT INTO collection (
    contract, receipt, amount, phone, collected_at, channel, accepted_at, business_date, flags,
    caller, key_id, peer, form, body_digest, amount_text, contract_field, line, digest)
  VALUES (?, ?, ?, ?, ?, ?, ?, ?, '', ?, ?, ?, 'json', ?, ?, 'contractNumber', 0, ?)`);
const queue = database.prepare('INSERT INTO outbox (sequence, amount) VALUES (?, ?)');

const fields = [
  ['contractNumber', /^[A-Z0-9]{5}[0-9]{8,10}$/],
  ['amount', /^[0-9]{1,8}(\.[0-9]{1,2})?$/],
  ['phone', /^[0-9]{11}$/],
  ['receiptNumber', /^[A-Za-z0-9-]{1,50}$/],
  ['collectedTime', /^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}$/],
  ['payChannel', /^[0-9]{1,5}$/],
];

const collect = database.transaction((body, peer) => {
  const amount = Math.round(Number(body.amount) * 100);
  const first = same.get(body.contractNumber, body.receiptNumber);
  if (first) return first.amount === amount ? -1015 : -1014;
  if (paid.get(body.contractNumber)) return -1026;
  const now = new Date();
  const text = JSON.stringify(body);
  const { lastInsertRowid } = insert.run(
    body.contractNumber, body.receiptNumber, amount, body.phone, body.collectedTime,
    Number(body.payChannel), now.getTime(), now.toISOString().slice(0, 10), body.userName,
    keyId, peer, sha256(text), body.amount, sha256(text + now.getTime()));
  queue.run(lastInsertRowid, amount);
  return 1000;
});

const keyId = sha256('key').toString('hex').slice(0, 8);
const app = Fastify({ https: { cert: readFileSync(cert), key: readFileSync(key) } });
// Wrk names no content type.
app.addContentTypeParser('*', { parseAs: 'string' }, (request, text, done) => {
  try {
    done(null, JSON.parse(text));
  } catch (error) {
    done(error);
  }
});
app.post('/collectionCollect', async (request) => {
  const { body } = request;
  let code;
  if (body.userName !== 'till-7' || body.authentication !== 'key') code = -1001;
  else if (body.action !== 'collectionCollect') code = 2004;
  else if (!fields.every(([name, form]) => form.test(body[name]))) code = 2003;
  else code = collect(body, request.ip);
  return {
    responseTime: new Date().toISOString(),
    responseCode: String(code),
    responseDescription: code === 1000 ? 'SUCCESS' : 'refused',
  };
});
await app.listen({ host: '127.0.0.1', port: 0 });
console.log(`listening on ${app.server.address().port}`);
