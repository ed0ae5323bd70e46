/** What is sent, what is sent again, and what an error answer becomes. */

import assert from 'node:assert/strict';
import { it } from 'node:test';
import { inspect } from 'node:util';
import {
  BadRequestError,
  Client,
  CloudSandboxError,
  CommandFailedError,
  ConnectionFailedError,
  ConnectionLostError,
  FileNotFoundError,
  NotFoundError,
  ProtocolError,
  RateLimitedError,
  Sandbox,
  SandboxNotFoundError,
  ServerError,
  Session,
  TimedOutError,
  TokenExpiredError,
  UnauthorizedError,
} from '../src/index';
import { BASE, ENDED, EXEC, execView, type Handler, Peer, SANDBOX, sandboxView } from './peer';

const ENTRY = {
  ...{ name: 'f', path: '/workspace/f', kind: 'file', size: 3, mode: '0644', uid: 1000, gid: 1000 },
  modified_at: '2026-01-02T03:04:05Z',
};
const reset: Handler = c => c.reset();
const keysOf = (peer: Peer, route: string): (string | undefined)[] =>
  peer.to(route).map(r => r.headers['idempotency-key']);

// -- sending again ----------------------------------------------------------------------------------------------

it('sends a create whose answer was lost again under the same key', async t => {
  const peer = await Peer.start(t);
  peer.on('POST /api/v1/sandboxes', reset, reset, c => c.json(201, sandboxView()));
  await Sandbox.create({ baseUrl: peer.url });
  const keys = keysOf(peer, 'POST /api/v1/sandboxes');
  assert.deepEqual([keys.length, new Set(keys).size, keys.includes(undefined)], [3, 1, false]);
});

it('sends once what must not happen twice', async t => {
  const peer = await Peer.start(t);
  for (const route of ['POST files/move', 'POST files/mkdir', 'DELETE files', 'PUT files', 'PUT archive']) {
    const [method, path] = route.split(' ');
    peer.on(`${method} ${BASE}/${path}`, reset);
  }
  const sandbox = await Sandbox.create({ baseUrl: peer.url });
  const calls: (() => Promise<unknown>)[] = [
    () => sandbox.move('/a', '/b'),
    () => sandbox.mkdir('/a'),
    () => sandbox.remove('/a'),
    () => sandbox.writeFile('/a', 'x', { append: true }),
    () => sandbox.writeFile('/a', [new Uint8Array([1])]),
    () => sandbox.upload('src', '/workspace/src'),
  ];
  for (const call of calls) {
    const before = peer.requests.length;
    await assert.rejects(call(), ConnectionLostError);
    assert.equal(peer.requests.length, before + 1, String(call));
  }
});

it('sends a start whose answer was lost again under the same key', async t => {
  const peer = await Peer.start(t);
  const sandbox = await Sandbox.create({ baseUrl: peer.url, maxRetries: 2 });
  const calls: [string, () => Promise<unknown>][] = [
    ['execs', () => sandbox.runCommand('x')],
    ['run-code', () => sandbox.runCode('x')],
    ['execs', () => sandbox.start('x')],
  ];
  for (const [path, call] of calls) {
    peer.on(`POST ${BASE}/${path}`, reset);
    peer.requests.length = 0;
    for (let i = 0; i < 2; i += 1) await assert.rejects(call(), ConnectionLostError);
    const keys = keysOf(peer, `POST ${BASE}/${path}`);
    const counts = [...new Set(keys)].map(key => keys.filter(one => one === key).length);
    assert.deepEqual(counts, [3, 3]);
  }
});

it('sends reads and whole writes again', async t => {
  const peer = await Peer.start(t);
  peer.on(`GET ${BASE}/files`, reset, c => c.json(200, { a: 1 }));
  peer.on(`PUT ${BASE}/files`, reset, c => c.json(200, ENTRY));
  const sandbox = await Sandbox.create({ baseUrl: peer.url });
  assert.equal(await sandbox.readText('/workspace/f'), '{"a":1}');
  const large = new Uint8Array(3 << 20).fill(7);
  assert.equal((await sandbox.writeFile('/workspace/f', large)).size, 3);
  assert.deepEqual([peer.to(`GET ${BASE}/files`).length, peer.to(`PUT ${BASE}/files`).length], [2, 2]);
  assert.ok(peer.to(`PUT ${BASE}/files`)[1]?.body.equals(large));
});

it('starts an exec, and sends a stream of bytes, when the server comes up late', async t => {
  const peer = await Peer.start(t);
  peer.on(`POST ${BASE}/execs`, c => c.json(202, execView()));
  peer.on(`PUT ${BASE}/files`, c => c.json(200, ENTRY));
  const sandbox = await Sandbox.create({ baseUrl: peer.url, token: 't', maxRetries: 50 });
  await peer.silence();
  // Refused connections carry nothing: trying again cannot run anything twice, and draws no byte of a stream.
  const started = sandbox.start('x');
  const written = sandbox.writeFile('/f', [new Uint8Array([1, 2]), new Uint8Array([3])]);
  setTimeout(() => void peer.listen(), 100);
  assert.equal((await started).execId, EXEC);
  await written;
  assert.deepEqual([...(peer.to(`PUT ${BASE}/files`)[0]?.body ?? [])], [1, 2, 3]);
  assert.deepEqual([peer.to(`POST ${BASE}/execs`).length, peer.to(`PUT ${BASE}/files`).length], [1, 1]);
});

it('says that a server is not there', async t => {
  const peer = await Peer.start(t);
  await peer.silence();
  for (const [baseUrl, why] of [
    [peer.url, /^cannot reach http:\/\/127\.0\.0\.1:\d+: .*ECONNREFUSED/],
    ['http://127.0.0.1:25', /^cannot reach http:\/\/127\.0\.0\.1:25: bad port/],
  ] as const) {
    await assert.rejects(Sandbox.create({ baseUrl, maxRetries: 0 }), error => {
      assert.ok(error instanceof ConnectionFailedError);
      assert.match(error.message, why);
      return true;
    });
  }
});

it('waits for a rate limit, also with execs, and then reports it', async t => {
  const peer = await Peer.start(t);
  const limited: Handler = c => c.error(429, 'rate_limited', { 'retry-after': '0.05' });
  peer.on(`POST ${BASE}/execs`, limited, limited, c => c.json(202, execView()));
  const sandbox = await Sandbox.create({ baseUrl: peer.url });
  assert.equal((await sandbox.start('x')).execId, EXEC);
  peer.on(`POST ${BASE}/execs`, limited);
  await assert.rejects(sandbox.start('x'), error => error instanceof RateLimitedError && error.retryAfter === 0.05);
  assert.equal(peer.to(`POST ${BASE}/execs`).length, 3 + 4);
  peer.on(`GET ${BASE}/stats`, c => c.error(429, 'rate_limited', { 'retry-after': '3600' }));
  await assert.rejects(sandbox.stats(), error => error instanceof RateLimitedError && error.retryAfter === 3600);
  assert.equal(peer.to(`GET ${BASE}/stats`).length, 1);
});

it('takes a slow answer to a start for a timeout and starts no other', async t => {
  const peer = await Peer.start(t);
  peer.on(`POST ${BASE}/execs`, () => undefined);
  const sandbox = await Sandbox.create({ baseUrl: peer.url, requestTimeout: 0.2, maxRetries: 1 });
  await assert.rejects(sandbox.start('x'), TimedOutError);
  const keys = keysOf(peer, `POST ${BASE}/execs`);
  assert.deepEqual([keys.length, new Set(keys).size], [2, 1]);
});

it('gives up when its caller does, with the reason of the signal', async t => {
  const peer = await Peer.start(t);
  peer.on(`GET ${BASE}/stats`, () => undefined);
  peer.on(`GET ${BASE}/files`, c => c.send('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc'));
  peer.on(`GET ${BASE}/files/stat`, c => c.error(429, 'rate_limited', { 'retry-after': '20' }));
  const sandbox = await Sandbox.create({ baseUrl: peer.url });
  for (const call of [
    (signal: AbortSignal) => sandbox.stats({ signal }),
    (signal: AbortSignal) => sandbox.readFile('/f', { signal }),
    (signal: AbortSignal) => sandbox.stat('/f', { signal }),
  ]) {
    const controller = new AbortController();
    setTimeout(() => controller.abort(new Error('enough')), 50);
    await assert.rejects(call(controller.signal), /enough/);
  }
  await assert.rejects(sandbox.stats({ signal: AbortSignal.timeout(50) }), { name: 'TimeoutError' });
  assert.equal(sandbox.inFlight, 0);
});

it('tells an error of a stream that is sent from one of the network', async t => {
  const peer = await Peer.start(t);
  const sandbox = await Sandbox.create({ baseUrl: peer.url });
  const source = async function* (): AsyncGenerator<Uint8Array> {
    yield new Uint8Array([1]);
    throw new RangeError('the disk is gone');
  };
  await assert.rejects(sandbox.writeFile('/f', source()), error => {
    const said = error as Error & { cause?: Error };
    return /the disk is gone/.test(`${said.message} ${said.cause?.message}`);
  });
});

it('takes what is gone for released', async t => {
  const peer = await Peer.start(t);
  peer.on(`DELETE ${BASE}`, c => c.error(404, 'sandbox_not_found'));
  await using sandbox = await Sandbox.create({ baseUrl: peer.url });
  await sandbox.release();
});

it('releases with `await using` what it made, and not what it found', async t => {
  const peer = await Peer.start(t);
  {
    await using found = await Sandbox.connect(SANDBOX, { baseUrl: peer.url });
    assert.equal(found.id, SANDBOX);
  }
  assert.equal(peer.to(`DELETE ${BASE}`).length, 0);
  await assert.rejects(async () => {
    await using made = await Sandbox.create({ baseUrl: peer.url });
    throw new Error(made.id);
  }, /sb-/);
  assert.equal(peer.to(`DELETE ${BASE}`).length, 1);
});

// -- credentials ------------------------------------------------------------------------------------------------

it('buys a token once, also for many calls at once, and again when it expires', async t => {
  const peer = await Peer.start(t);
  const tokens = ['old', 'new'];
  peer.on('POST /api/v1/auth/token', c => c.json(200, { access_token: tokens.shift() }));
  peer.on(`GET ${BASE}`, (c, r) =>
    r.headers.authorization === 'Bearer old' ? c.error(401, 'token_expired') : c.json(200, sandboxView()),
  );
  const client = new Client({ baseUrl: peer.url, userId: 'ann' });
  await Promise.all(Array.from({ length: 5 }, () => client.getSandbox(SANDBOX)));
  const asked = peer.to('POST /api/v1/auth/token').map(r => r.json);
  assert.deepEqual(asked, [{ user_id: 'ann' }, { user_id: 'ann' }]);
});

it('reports that a given token has expired', async t => {
  const peer = await Peer.start(t);
  peer.on('POST /api/v1/sandboxes', c => c.error(401, 'token_expired'));
  await assert.rejects(Sandbox.create({ baseUrl: peer.url, token: 'mine' }), TokenExpiredError);
  assert.equal(peer.to('POST /api/v1/auth/token').length, 0);
});

it('does not go round when a new token is refused too, or none is given', async t => {
  const peer = await Peer.start(t);
  peer.on('POST /api/v1/sandboxes', c => c.error(401, 'unauthorized'));
  await assert.rejects(Sandbox.create({ baseUrl: peer.url }), UnauthorizedError);
  assert.equal(peer.to('POST /api/v1/sandboxes').length, 2);
  peer.on(
    'POST /api/v1/auth/token',
    c => c.error(401, 'unauthorized'),
    c => c.json(200, { access_token: 't' }),
  );
  const client = new Client({ baseUrl: peer.url });
  await assert.rejects(client.getSandbox(SANDBOX), UnauthorizedError);
  // The refusal is not kept.
  assert.equal((await client.getSandbox(SANDBOX)).sandboxId, SANDBOX);
});

it('sends an API key as it is, and with a user buys a token for it', async t => {
  const peer = await Peer.start(t);
  await Sandbox.create({ baseUrl: peer.url, apiKey: 'csb_1' });
  assert.equal(peer.to('POST /api/v1/auth/token').length, 0);
  assert.deepEqual(new Set(peer.requests.map(r => r.headers['x-api-key'])), new Set(['csb_1']));
  await Sandbox.create({ baseUrl: peer.url, apiKey: 'csb_1', userId: 'bob' });
  const [bought] = peer.to('POST /api/v1/auth/token');
  assert.deepEqual([bought?.headers['x-api-key'], bought?.json], ['csb_1', { user_id: 'bob' }]);
});

it('takes server and credential from the environment', async t => {
  const peer = await Peer.start(t);
  t.after(() => {
    for (const name of ['CSB_SERVER', 'CSB_API_KEY', 'CSB_TOKEN']) delete process.env[name];
  });
  process.env.CSB_SERVER = `${peer.url}/`;
  process.env.CSB_API_KEY = 'csb_env';
  await Sandbox.create();
  assert.equal(peer.requests.at(-1)?.headers['x-api-key'], 'csb_env');
  delete process.env.CSB_API_KEY;
  process.env.CSB_TOKEN = 'from-the-environment';
  await Sandbox.create();
  assert.equal(peer.requests.at(-1)?.headers.authorization, 'Bearer from-the-environment');
  process.env.CSB_SERVER = 'ftp://nowhere';
  await assert.rejects(Sandbox.create(), /`ftp:\/\/nowhere` is not the address of a server/);
});

it('shows no key where a client or a sandbox is printed', async t => {
  const peer = await Peer.start(t);
  const sandbox = await Sandbox.create({ baseUrl: peer.url, apiKey: 'csb_secret' });
  assert.doesNotMatch(inspect(sandbox, { depth: 9, showHidden: true }) + JSON.stringify(sandbox), /csb_secret/);
});

it('takes no credential along where an answer leads elsewhere', async t => {
  const peer = await Peer.start(t);
  const other = await Peer.start(t);
  peer.on(`GET ${BASE}`, c => c.send(`HTTP/1.1 302 X\r\nLocation: ${other.url}${BASE}\r\nContent-Length: 0\r\n\r\n`));
  await assert.rejects(Sandbox.connect(SANDBOX, { baseUrl: peer.url, token: 't' }), ProtocolError);
  assert.equal(other.requests.length, 0);
});

// -- errors -----------------------------------------------------------------------------------------------------

it('makes an error answer the class of its code', async t => {
  const peer = await Peer.start(t);
  const sandbox = await Sandbox.create({ baseUrl: peer.url });
  const cases: [number, string, new (...args: never[]) => CloudSandboxError][] = [
    [404, 'sandbox_not_found', SandboxNotFoundError],
    [404, 'file_not_found', FileNotFoundError],
    [404, 'something_new', NotFoundError],
    [404, 'constructor', NotFoundError],
    [400, 'something_new', BadRequestError],
    [500, 'internal', ServerError],
    [418, 'teapot', BadRequestError],
  ];
  for (const [status, code, kind] of cases) {
    peer.on(`GET ${BASE}/stats`, c => c.error(status, code));
    await assert.rejects(sandbox.stats(), error => {
      assert.ok(error instanceof CloudSandboxError);
      assert.equal(error.constructor, kind);
      assert.deepEqual([error.code, error.hint, error.requestId, error.status], [code, 'a hint', 'rq-1', status]);
      assert.equal(String(error), `${kind.name}: ${code} happened [${code}]\nhint: a hint\nrequest id: rq-1`);
      return true;
    });
  }
});

it('names an answer of another program as such', async t => {
  const peer = await Peer.start(t);
  peer.on('POST /api/v1/auth/token', c =>
    c.send('HTTP/1.1 200 OK\r\nContent-Length: 13\r\nContent-Type: text/html\r\n\r\n<html></html>'),
  );
  await assert.rejects(Sandbox.create({ baseUrl: peer.url }), /is it a Cloud Sandbox server/);
  peer.on('POST /api/v1/auth/token', c => c.send('HTTP/1.1 502 Bad\r\nContent-Length: 2\r\n\r\nno'));
  await assert.rejects(Sandbox.create({ baseUrl: peer.url, maxRetries: 0 }), { code: 'http_502', name: 'ServerError' });
  peer.on('POST /api/v1/auth/token', c => c.json(200, { access_token: 't' }));
  peer.on('POST /api/v1/sandboxes', c => c.json(201, sandboxView({ state: 7 })));
  await assert.rejects(Sandbox.create({ baseUrl: peer.url }), /SandboxInfo: `state` is not a text/);
});

it('takes a failed command for a result until it is checked', async t => {
  const peer = await Peer.start(t);
  peer.on(`POST ${BASE}/execs`, c => {
    c.beginEvents();
    c.event('start', execView());
    c.output('stderr', 0, Buffer.from('boom\n'));
    c.event('end', execView('ended', { ...ENDED, exit_code: 137, killed_by: 'oom' }));
    c.endEvents();
  });
  const result = await (await Sandbox.create({ baseUrl: peer.url })).runCommand('x');
  assert.deepEqual([result.ok, result.killedBy], [false, 'oom']);
  assert.throws(
    () => result.check(),
    error =>
      error instanceof CommandFailedError && /^command exited with 137 \(ended by oom\)\nboom$/.test(error.message),
  );
});

// -- what is sent -----------------------------------------------------------------------------------------------

it('sends what was given, under the names of the wire, and nothing else', async t => {
  const peer = await Peer.start(t);
  const podTemplate = { spec: { nodeSelector: { disk_type: 'ssd' } } };
  await Sandbox.create({
    baseUrl: peer.url,
    template: 'host',
    resources: { cpu: '1', cpuWeight: 50, io: { readBps: '10Mi' } },
    env: { camelCase: 'kept' },
    metadata: { snake_case: 'kept' },
    hostname: undefined,
    sandbox: { kind: 'k8s', namespace: 'agents', podTemplate },
  });
  assert.deepEqual(peer.to('POST /api/v1/sandboxes')[0]?.json, {
    template: 'host',
    resources: { cpu: '1', cpu_weight: 50, io: { read_bps: '10Mi' } },
    env: { camelCase: 'kept' },
    metadata: { snake_case: 'kept' },
    sandbox: { kind: 'k8s', namespace: 'agents', podTemplate },
  });
});

it('writes long or binary stdin behind the request', async t => {
  const peer = await Peer.start(t);
  const got: Buffer[] = [];
  let done: (() => void) | undefined;
  const all = new Promise<void>(resolve => {
    done = resolve;
  });
  peer.on(`POST ${BASE}/execs`, async (c, r) => {
    assert.equal(r.json.stdin, true);
    c.beginEvents();
    c.event('start', execView());
    await all;
    c.event('end', execView('ended', ENDED));
    c.endEvents();
  });
  peer.on(`POST ${BASE}/execs/${EXEC}/stdin`, (c, r) => {
    got.push(r.body);
    c.empty();
    if (r.query.close === 'true') done?.();
  });
  const sent = Buffer.alloc(1_024_000, 'abcdefg');
  await (await Sandbox.create({ baseUrl: peer.url })).runCommand('cat', { stdin: sent });
  assert.ok(Buffer.concat(got).equals(sent));
  assert.equal(got.length, 4);
});

it('uses connections again', async t => {
  const peer = await Peer.start(t);
  const ports = new Set<unknown>();
  peer.on(`POST ${BASE}/execs`, c => {
    ports.add(c.socket.remotePort);
    c.beginEvents();
    c.event('start', execView());
    c.event('end', execView('ended', ENDED));
    c.endEvents();
  });
  const sandbox = await Sandbox.create({ baseUrl: peer.url });
  for (let i = 0; i < 8; i += 1) await sandbox.runCommand('x');
  // `fetch` may open a second one in the moment in which the first is being given back.
  assert.ok(ports.size <= 2, `${ports.size} connections`);
});

it('follows the cursor of lists', async t => {
  const peer = await Peer.start(t);
  peer.on('GET /api/v1/sandboxes', (c, r) => {
    const at = Number(r.query.cursor ?? 0);
    c.json(200, { items: [sandboxView({ hostname: `h${at}` })], next_cursor: at < 2 ? String(at + 1) : null });
  });
  const found = await Sandbox.list({ baseUrl: peer.url });
  assert.deepEqual(
    found.map(info => info.hostname),
    ['h0', 'h1', 'h2'],
  );
  assert.equal(found[0]?.createdAt.toISOString(), '2026-01-02T03:04:05.678Z');
});

it('says that a session has no sandbox', async t => {
  const peer = await Peer.start(t);
  const view = {
    ...{ session_id: 'se-1', user_id: 'u', template_id: 'host', state: 'closed', sandbox_id: null, metadata: {} },
    resources: { cpu: 1, memory: 1, disk: 1, pids: 1, inodes: 1, nofile: 1 },
    ...{ created_at: '2026-01-02T03:04:05Z', updated_at: '2026-01-02T03:04:05Z' },
  };
  peer.on('POST /api/v1/sessions', c => c.json(201, view));
  peer.on('GET /api/v1/sessions/se-1', c => c.json(200, view));
  const session = await Session.create({ baseUrl: peer.url });
  await assert.rejects(session.sandbox(), /has no sandbox: its state is `closed`/);
});
