/** The whole surface against the real server. */

import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import * as fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import {
  Client,
  CommandFailedError,
  CommandNotFoundError,
  ExecEndedError,
  FileNotFoundError,
  IdempotencyConflictError,
  RateLimitedError,
  RoleDeniedError,
  Sandbox,
  SandboxNotFoundError,
  SandboxPausedError,
  Session,
  TemplateNotFoundError,
  TimedOutError,
  UnauthorizedError,
  UnsupportedError,
} from '../src/index';
import { type Server, serve } from './server';

let server: Server;
let client: Client;
let sandbox: Sandbox;

before(async () => {
  server = await serve();
  client = new Client({ baseUrl: server.url, userId: 'sdk' });
  sandbox = await Sandbox.create({ client });
});
after(() => server.stop());

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

async function temporary(): Promise<string> {
  return fs.mkdtemp(join(tmpdir(), 'csb-ts-files-'));
}

describe('commands and code', () => {
  it('have a result, also when they fail', async () => {
    const result = await sandbox.runCode("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)");
    assert.deepEqual([result.stdout, result.stderr, result.exitCode, result.ok], ['out\n', 'err\n', 3, false]);
    assert.throws(() => result.check(), CommandFailedError);
    const bash = await sandbox.runCode('echo $A', { language: 'bash', env: { A: 'b' } });
    assert.equal(bash.check().stdout, 'b\n');
    assert.equal((await sandbox.runCode('console.log(6 * 7)', { language: 'javascript' })).stdout, '42\n');
    assert.equal((await sandbox.runCommand(['printf', '%s', 'a b'])).stdout, 'a b');
    assert.equal((await sandbox.runCommand('cat', { stdin: 'text' })).stdout, 'text');
    assert.equal((await sandbox.runCommand('sleep 60', { timeout: 0.2 })).killedBy, 'timeout');
    assert.equal((await sandbox.runCommand('yes', { timeout: 1, maxOutputBytes: 100 })).truncated, true);
    await assert.rejects(sandbox.runCommand(['no-such-program']), CommandNotFoundError);
  });

  it('give their output while they run', async () => {
    const heard: string[] = [];
    const result = await sandbox.runCommand(
      'rm -f go; echo ready; while [ ! -e go ]; do sleep 0.02; done; echo gone >&2',
      {
        timeout: 60,
        onStdout: async text => {
          heard.push(text);
          // The command waits for this file: output must come before it ends.
          if (text.includes('ready')) await sandbox.writeFile('/workspace/go', '');
        },
        onStderr: text => void heard.push(text),
      },
    );
    assert.deepEqual([result.exitCode, heard], [0, ['ready\n', 'gone\n']]);
  });

  it('take a mebibyte of binary input and give it back', async () => {
    const data = randomBytes(1 << 20);
    const result = await sandbox.runCommand('cat', { stdin: data });
    assert.ok(data.equals(result.stdoutBytes));
    assert.equal((await sandbox.runCommand('head -c 10', { stdin: data })).stdoutBytes.length, 10);
  });

  it('are killed when their caller gives up', async () => {
    const giveUp = new AbortController();
    const running = sandbox.runCommand('echo on; sleep 1000', {
      signal: giveUp.signal,
      onStdout: () => giveUp.abort(new Error('enough')),
    });
    await assert.rejects(running, /enough/);
    const mine = (await sandbox.processes()).find(one => one.info.command === 'echo on; sleep 1000');
    assert.equal((await mine?.wait({ timeout: 30 }))?.killedBy, 'signal');
    await assert.rejects(sandbox.runCommand('true', { signal: AbortSignal.abort(new Error('never')) }), /never/);
    // Given up before the server has said that it runs.
    const early = new AbortController();
    const unknown = sandbox.runCommand('sleep 1001', { signal: early.signal });
    early.abort(new Error('at once'));
    await assert.rejects(unknown, /at once/);
    for (;;) {
      const found = (await sandbox.processes()).find(one => one.info.command === 'sleep 1001');
      if (found && !found.running) break;
      await new Promise(resolve => setTimeout(resolve, 20));
    }
  });
});

describe('a process', () => {
  it('is talked to and found again', async () => {
    const process = await sandbox.start('while read line; do echo got $line; done; echo bye', { stdin: true });
    const lines = process.lines();
    await process.sendStdin('one\n');
    assert.equal((await lines.next()).value, 'got one');
    await assert.rejects(process.wait({ timeout: 0.1 }), TimedOutError);
    const again = await Sandbox.connect(sandbox.id, { baseUrl: server.url, userId: 'sdk' });
    const found = await again.process(process.execId);
    await found.sendStdin('two\n', { close: true });
    assert.ok((await again.processes()).some(one => one.execId === process.execId));
    assert.deepEqual([(await lines.next()).value, (await lines.next()).value], ['got two', 'bye']);
    const result = await process.wait();
    assert.deepEqual([result.stdout, result.exitCode, process.running], ['got one\ngot two\nbye\n', 0, false]);
    const rest = (await process.output('got one\n'.length).next()).value;
    assert.match(rest?.text ?? '', /^got two/);
    await assert.rejects(process.sendStdin('three\n'), ExecEndedError);
  });

  it('takes signals and is killed with all that it started', async () => {
    const line = "trap 'echo caught; exit 9' TERM; echo on; while :; do sleep 0.05; done";
    const process = await sandbox.runCommand(line, { background: true });
    assert.deepEqual((await process.stdout().next()).value, bytes('on\n'));
    await process.signal('TERM');
    assert.deepEqual([(await process.wait({ timeout: 30 })).stdout, process.info.exitCode], ['on\ncaught\n', 9]);
    const tree = await sandbox.start('sleep 1000 & sleep 1000');
    await tree.kill();
    assert.equal((await tree.wait({ timeout: 30 })).killedBy, 'signal');
  });

  it('shows what is there now without waiting', async () => {
    const process = await sandbox.start('echo first; sleep 1000');
    await process.stdout().next();
    const now = [];
    for await (const chunk of process.output(0, { follow: false })) now.push(chunk.text);
    assert.deepEqual([now.join(''), process.running], ['first\n', true]);
    await process.kill();
  });

  it('has a terminal that is detached from and attached to again', async () => {
    const process = await sandbox.start(['bash', '--norc'], { pty: { cols: 100, rows: 30 }, env: { PS1: '$ ' } });
    const terminal = await process.attach();
    let said = '';
    const until = async (wanted: string): Promise<void> => {
      while (!said.includes(wanted)) said += (await terminal.recv({ timeout: 30 }))?.text;
    };
    await terminal.send('stty size; tty -s && echo it is a $((0))terminal\n');
    await until('it is a 0terminal');
    assert.match(said, /30 100/);
    // What is left of the prompt comes in any number of pieces, then nothing.
    await assert.rejects(async () => {
      while (await terminal.recv({ timeout: 0.5 }));
    }, TimedOutError);
    // Not waited for one by one: typed in order all the same.
    await Promise.all([terminal.resize(120, 40), terminal.send('stty'), terminal.send(' si'), terminal.send('ze\n')]);
    await until('40 120');
    const { seq } = terminal;
    await terminal.close();
    assert.equal((await process.poll()).state, 'running');
    const again = await process.attach(seq);
    await again.send('exit 4\n');
    let rest = '';
    for await (const chunk of again) rest += chunk.text;
    assert.match(rest, /exit 4/);
    assert.doesNotMatch(rest, /stty/);
    assert.equal(again.exitCode, 4);
  });
});

describe('files', () => {
  it('are written, read, listed, moved and removed', async () => {
    const entry = await sandbox.writeFile('/workspace/files/a.txt', 'é', { mode: 0o600 });
    assert.deepEqual([entry.path, entry.size, entry.mode, entry.kind], ['/workspace/files/a.txt', 2, '0600', 'file']);
    assert.ok(Math.abs(entry.modifiedAt.getTime() - Date.now()) < 60_000);
    await sandbox.writeFile('/workspace/files/a.txt', bytes('!'), { append: true });
    assert.equal(await sandbox.readText('/workspace/files/a.txt'), 'é!');
    assert.deepEqual(await sandbox.readFile('/workspace/files/a.txt', { offset: 2 }), bytes('!'));
    await sandbox.mkdir('/workspace/files/d/e');
    assert.equal((await sandbox.move('/workspace/files/a.txt', '/workspace/files/d/b.txt')).name, 'b.txt');
    const found = await sandbox.listFiles('/workspace/files', { recursive: true });
    assert.deepEqual(
      found.map(one => one.path.replace('/workspace/files/', '')),
      ['d', 'd/b.txt', 'd/e'],
    );
    assert.deepEqual(
      [found.truncated, (await sandbox.listFiles('/workspace/files/d', { limit: 1 })).truncated],
      [false, true],
    );
    await sandbox.remove('/workspace/files/d', { recursive: true });
    await assert.rejects(sandbox.stat('/workspace/files/d'), FileNotFoundError);
    await sandbox.writeFile('/workspace/binary', bytes('x').fill(0xff));
    await assert.rejects(sandbox.readText('/workspace/binary'), TypeError);
  });

  it('travel as directories and as single files', async () => {
    const here = await temporary();
    await fs.mkdir(join(here, 'project/sub'), { recursive: true });
    await fs.writeFile(join(here, 'project/sub/run.sh'), '#!/bin/sh\necho ran\n', { mode: 0o755 });
    await fs.writeFile(join(here, 'project', 'ü'.repeat(100)), 'a long name');
    await fs.symlink('sub/run.sh', join(here, 'project/link'));
    await sandbox.upload(join(here, 'project'), '/workspace/project');
    assert.equal((await sandbox.runCommand(['/workspace/project/link'])).stdout, 'ran\n');
    await sandbox.runCommand(
      `cd project; echo made > made; ln -s /etc/passwd out; mkfifo pipe; echo x > ${'y'.repeat(200)}`,
    );
    const fetched = await sandbox.download('/workspace/project', join(here, 'back'));
    assert.deepEqual(fetched.skipped, ['out']);
    assert.equal(await fs.readFile(join(here, 'back/made'), 'utf8'), 'made\n');
    assert.equal(await fs.readFile(join(here, 'back', 'ü'.repeat(100)), 'utf8'), 'a long name');
    assert.equal(await fs.readFile(join(here, 'back', 'y'.repeat(200)), 'utf8'), 'x\n');
    assert.equal((await fs.stat(join(here, 'back/sub/run.sh'))).mode & 0o777, 0o755);
    await sandbox.upload(join(here, 'project/sub/run.sh'));
    await sandbox.download('/workspace/run.sh', join(here, 'run.sh'));
    assert.equal(await fs.readFile(join(here, 'run.sh'), 'utf8'), '#!/bin/sh\necho ran\n');
    await fs.rm(here, { recursive: true });
  });

  it('of any size are streamed in and out, and the program does not grow with them', async () => {
    const mebibytes = process.env.CSB_FULL ? 1024 : 96;
    const room = `${mebibytes + 256}Mi`;
    await using large = await Sandbox.create({ client, resources: { memory: room, disk: room } });
    // Few blocks in an order of their own: what the test allocates itself would be measured as well.
    const blocks = Array.from({ length: 8 }, () => randomBytes(1 << 20));
    const sent = createHash('sha256');
    let peak = 0;
    const watch = (): void => {
      peak = Math.max(peak, process.memoryUsage().rss);
    };
    const source = function* (): Generator<Uint8Array> {
      for (let i = 0; i < mebibytes; i += 1) {
        const piece = blocks[(i * 5 + (i >> 3)) % blocks.length] as Buffer;
        sent.update(piece);
        watch();
        yield piece;
      }
    };
    const before = process.memoryUsage().rss;
    assert.equal((await large.writeFile('/workspace/big', source())).size, mebibytes << 20);
    const wanted = sent.digest('hex');
    assert.equal((await large.runCommand(['sha256sum', '/workspace/big'])).stdout.split(' ')[0], wanted);
    const got = createHash('sha256');
    for await (const piece of large.streamFile('/workspace/big')) {
      got.update(piece);
      watch();
    }
    assert.equal(got.digest('hex'), wanted);
    const grown = (peak - before) >> 20;
    assert.ok(grown < 64, `grew by ${grown} MiB while ${mebibytes} MiB went in and out`);
  });
});

describe('the sandbox itself', () => {
  it('is made as asked, changed, paused, found and released', async () => {
    const mine = new Client({ baseUrl: server.url, userId: 'itself' });
    assert.deepEqual(await mine.health(), { service: 'gateway', status: 'ok' });
    assert.ok((await mine.languages()).some(language => language.name === 'python'));
    assert.equal((await mine.templates())[0]?.name, 'host');
    assert.equal((await mine.poolStats()).pool.min, 1);
    const resources = { memory: '256Mi', cpu: '0.5' };
    const made = await Sandbox.create({ client: mine, resources, metadata: { a_b: 'c' }, timeout: 600 });
    {
      await using box = made;
      assert.deepEqual([box.info.resources.memory, box.info.resources.cpu], [256 << 20, 0.5]);
      assert.deepEqual([box.info.metadata, box.info.kind], [{ a_b: 'c' }, 'process']);
      assert.ok(box.info.expiresAt && box.info.expiresAt > new Date());
      assert.equal((await box.stats()).memoryLimit, 256 << 20);
      assert.equal((await box.setResources({ pids: 77, cpuWeight: 50 })).resources.cpuWeight, 50);
      assert.equal((await box.pause()).state, 'paused');
      await assert.rejects(box.runCommand('true'), SandboxPausedError);
      assert.deepEqual(
        (await Sandbox.list({ client: mine, state: 'paused' })).map(info => info.sandboxId),
        [box.id],
      );
      await box.resume();
      assert.equal((await box.refresh()).state, 'running');
    }
    await assert.rejects(Sandbox.connect(made.id, { client: mine }), SandboxNotFoundError);
    await made.release();
  });

  it('is made once for one idempotency key', async () => {
    const key = `key-${Date.now()}`;
    const one = await Sandbox.create({ client, idempotencyKey: key });
    const other = await Sandbox.create({ client, idempotencyKey: key });
    assert.equal(one.id, other.id);
    await assert.rejects(Sandbox.create({ client, idempotencyKey: key, hostname: 'other' }), IdempotencyConflictError);
    await one.release();
  });

  it('is refused with a class, a hint and a request id where that is due', async () => {
    await assert.rejects(Sandbox.create({ client, template: 'absent' }), error => {
      assert.ok(error instanceof TemplateNotFoundError);
      assert.ok(error.hint && error.requestId);
      assert.deepEqual([error.status, error.code], [404, 'template_not_found']);
      return true;
    });
    await assert.rejects(Sandbox.create({ client, sandbox: { kind: 'k8s' } }), UnsupportedError);
    const misspelt = { client, resources: { memroy: '1Gi' } } as object;
    await assert.rejects(Sandbox.create(misspelt), /memroy/);
  });
});

describe('a session', () => {
  it('runs code and handlers, and keeps its files', async () => {
    await using session = await Session.create({ client, templateId: 'python-basic', env: { A: 'b' } });
    const result = await session.execute("import os; print(os.environ['A'])");
    assert.equal(result.stdout, 'b\n');
    assert.equal((await session.result(result.execId)).stdout, 'b\n');
    const heard: string[] = [];
    const handled = await session.execute(
      "def handler(event):\n    print('working')\n    return {'sum': event['a'] + 1}",
      {
        event: { a: 41 },
        onStdout: text => void heard.push(text),
      },
    );
    assert.deepEqual([handled.result, heard], [{ sum: 42 }, ['working\n']]);
    assert.equal((await session.execute('def handler(event):\n    return 2')).result, 2);
    const box = await session.sandbox();
    await box.writeFile('/workspace/kept', 'x');
    await session.pause();
    await session.resume();
    assert.equal((await session.execute("print(open('/workspace/kept').read())")).stdout, 'x\n');
    const again = await Session.connect(session.sessionId, { client });
    assert.equal(again.info.sandboxId, box.id);
    assert.deepEqual(
      (await Session.list({ client })).map(info => info.sessionId),
      [session.sessionId],
    );
  });
});

describe('a server', () => {
  it('that is killed and started again costs no byte of output and starts nothing twice', async t => {
    const other = await serve();
    t.after(() => other.stop());
    await using box = await Sandbox.create({ baseUrl: other.url });
    let restarted: Promise<void> | undefined;
    const line = 'echo x >> starts; for i in $(seq 1 200); do echo line $i; sleep 0.01; done; wc -l < starts';
    const result = await box.runCommand(line, {
      onStdout: text => {
        if (text.includes('line 20\n')) restarted ??= other.kill().then(() => other.start());
      },
    });
    await restarted;
    const lines = Array.from({ length: 200 }, (_, i) => `line ${i + 1}\n`).join('');
    assert.equal(result.stdout, `${lines}1\n`);
  });

  it('that limits requests slows the client down and breaks nothing', async t => {
    const limited = await serve({ CSB_RATE_PER_SECOND: '20', CSB_RATE_BURST: '5', POOL_MIN_SIZE: '0' });
    t.after(() => limited.stop());
    await using box = await Sandbox.create({ baseUrl: limited.url, maxRetries: 20 });
    for (let i = 0; i < 15; i += 1) await box.runCommand('echo x >> log');
    assert.equal(await box.readText('/workspace/log'), 'x\n'.repeat(15));
    const impatient = new Client({ baseUrl: limited.url, maxRetries: 0 });
    const many = Array.from({ length: 30 }, () => impatient.listSandboxes());
    const refused = (await Promise.allSettled(many)).find(one => one.status === 'rejected');
    assert.ok(refused?.reason instanceof RateLimitedError && (refused.reason.retryAfter ?? 0) >= 1);
  });

  it('without --dev wants a key, and an admin makes, lists and revokes them', async t => {
    await assert.rejects(client.listKeys(), RoleDeniedError);
    const token = await client.createToken({ userId: 'guest' });
    assert.deepEqual([token.userId, token.role, token.tokenType], ['guest', 'user', 'bearer']);
    const guest = new Client({ baseUrl: server.url, token: token.accessToken });
    await using box = await Sandbox.create({ client: guest });
    assert.equal(box.info.userId, 'guest');

    const closed = await serve({ dev: false, POOL_MIN_SIZE: '0' });
    t.after(() => closed.stop());
    await assert.rejects(new Client({ baseUrl: closed.url }).listSandboxes(), UnauthorizedError);
    const apiKey = (await fs.readFile(join(closed.dataDir, 'admin.key'), 'utf8')).trim();
    const admin = new Client({ baseUrl: closed.url, apiKey });
    const key = await admin.createKey({ userId: 'ann', name: 'of a test' });
    assert.deepEqual([key.userId, key.role, key.name], ['ann', 'user', 'of a test']);
    const ann = new Client({ baseUrl: closed.url, apiKey: key.apiKey });
    await using hers = await Sandbox.create({ client: ann });
    assert.equal(hers.info.userId, 'ann');
    // An administrator acts for another user.
    const asAnn = new Client({ baseUrl: closed.url, apiKey, userId: 'ann' });
    assert.equal((await Sandbox.connect(hers.id, { client: asAnn })).info.userId, 'ann');
    const found = (await admin.listKeys()).find(one => one.keyId === key.keyId);
    assert.deepEqual([found?.revokedAt, 'apiKey' in (found ?? {})], [null, false]);
    await hers.release();
    await admin.revokeKey(key.keyId);
    await assert.rejects(ann.listSandboxes(), UnauthorizedError);
  });
});
