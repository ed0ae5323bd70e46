/** The adapter, registered as Kode's SDK does it and used as its tools do, on a real server. */

import assert from 'node:assert/strict';
import { after, before, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, OutsideBoundaryError, Sandbox, UnsupportedError } from '../src/index';
import { CloudKodeSandbox, type KodeFileEvent, type KodeSandbox, registerCloudSandbox } from '../src/kode';
import { type Server, serve } from './server';

/** Kode's factory, as its source has it: kinds are a union, and sandboxes are made without waiting. */
type SandboxKind = 'local' | 'docker' | 'k8s' | 'remote' | 'vfs' | 'process';
class SandboxFactory {
  readonly #factories = new Map<SandboxKind, (config: Record<string, unknown>) => KodeSandbox<SandboxKind>>();

  register(kind: SandboxKind, factory: (config: Record<string, unknown>) => KodeSandbox<SandboxKind>): void {
    this.#factories.set(kind, factory);
  }

  create(config: { kind: SandboxKind } & Record<string, unknown>): KodeSandbox<SandboxKind> {
    const make = this.#factories.get(config.kind);
    if (!make) throw new Error(`Sandbox factory not registered: ${config.kind}`);
    return make(config);
  }
}

let server: Server;
let client: Client;
const factory = new SandboxFactory();

before(async () => {
  server = await serve();
  client = new Client({ baseUrl: server.url, userId: 'kode' });
  registerCloudSandbox(factory, { client, watchInterval: 0.05, metadata: { made: 'by-kode' } });
});
after(() => server.stop());

it('makes a sandbox when it is first needed, and releases it', async () => {
  const sandbox = factory.create({ kind: 'process', workDir: './user-123', enforceBoundary: true });
  assert.deepEqual([sandbox.kind, sandbox.workDir], ['process', '/workspace/user-123']);
  assert.equal((await Sandbox.list({ client })).length, 0);
  assert.deepEqual(await sandbox.exec('pwd; echo oops >&2; exit 3'), {
    code: 3,
    stdout: '/workspace/user-123\n',
    stderr: 'oops\n',
  });
  const [info] = await Sandbox.list({ client });
  assert.equal(info?.metadata.made, 'by-kode');
  const late = await sandbox.exec('echo begun; sleep 60', { timeoutMs: 200 });
  assert.deepEqual([late.code !== 0, late.stdout, late.stderr], [true, 'begun\n', '[killed: timeout]']);
  await sandbox.dispose?.();
  assert.equal((await Sandbox.list({ client })).length, 0);
  await assert.rejects(sandbox.exec('true'), /disposed/);
});

it('keeps files inside its boundary', async t => {
  const sandbox = factory.create({ kind: 'process', workDir: '/workspace/in', allowPaths: ['/workspace/also'] });
  t.after(() => sandbox.dispose?.());
  const { fs } = sandbox;
  await fs.write('a/b.txt', 'é');
  assert.equal(await fs.read('/workspace/in/a/b.txt'), 'é');
  assert.ok(Math.abs((await fs.stat('a/b.txt')).mtimeMs - Date.now()) < 60_000);
  assert.match(fs.temp(), /^\.temp\/temp-/);
  await fs.write(fs.temp('x'), 'y');
  await fs.write('/workspace/also/c', 'allowed');
  assert.deepEqual(
    ['a', '.', '/workspace/in', '/workspace/also/x', '../also', '..', '/workspace/inner', '/etc/passwd'].map(path =>
      fs.isInside(path),
    ),
    [true, true, true, true, true, false, false, false],
  );
  for (const path of ['../out', '/etc/passwd', 'a/../../x']) {
    await assert.rejects(fs.read(path), OutsideBoundaryError);
    await assert.rejects(fs.write(path, ''), OutsideBoundaryError);
    await assert.rejects(fs.stat(path), OutsideBoundaryError);
  }
  await assert.rejects(fs.glob('*', { cwd: '/etc' }), OutsideBoundaryError);
  const open = factory.create({ kind: 'process', enforceBoundary: false });
  t.after(() => open.dispose?.());
  assert.match(await open.fs.read('/etc/passwd'), /^root:/);
});

it('finds files by pattern', async t => {
  const sandbox = factory.create({ kind: 'process', workDir: '/workspace/tree' });
  t.after(() => sandbox.dispose?.());
  await sandbox.exec(
    'mkdir -p src/lib node_modules/x .git; touch a.ts src/b.ts src/lib/c.tsx node_modules/x/d.ts .git/e.ts src/.f.ts',
  );
  const { fs } = sandbox;
  assert.deepEqual(await fs.glob('**/*.ts', { ignore: ['node_modules/**'] }), ['a.ts', 'src/b.ts']);
  assert.deepEqual(await fs.glob('src/**/*.{ts,tsx}', { dot: true }), ['src/.f.ts', 'src/b.ts', 'src/lib/c.tsx']);
  assert.deepEqual(await fs.glob('*.ts', { cwd: 'src' }), ['src/b.ts']);
  assert.deepEqual(await fs.glob('*', { absolute: true }), ['/workspace/tree/a.ts']);
  assert.deepEqual(await fs.glob('/workspace/tree/src/*.ts'), ['src/b.ts']);
  assert.deepEqual(await fs.glob('none/*'), []);
});

it('tells of files that are changed, made and removed, until it is told to stop', async t => {
  const sandbox = factory.create({ kind: 'process', workDir: '/workspace/w' });
  t.after(() => sandbox.dispose?.());
  await sandbox.fs.write('a', 'x');
  const heard: KodeFileEvent[] = [];
  const id = await sandbox.watchFiles?.(['a', 'new', '/etc/passwd'], event => heard.push(event));
  const until = async (count: number): Promise<void> => {
    while (heard.length < count) await sleep(10);
  };
  await sandbox.fs.write('a', 'y');
  await until(1);
  assert.equal(heard[0]?.path, '/workspace/w/a');
  assert.ok(Math.abs((heard[0]?.mtimeMs ?? 0) - Date.now()) < 60_000);
  await sandbox.fs.write('new', '');
  await until(2);
  await sandbox.exec('rm a');
  await until(3);
  assert.deepEqual(
    heard.map(event => event.path),
    ['/workspace/w/a', '/workspace/w/new', '/workspace/w/a'],
  );
  sandbox.unwatchFiles?.(id ?? '');
  await sandbox.fs.write('new', 'unheard');
  await sleep(200);
  assert.equal(heard.length, 3);
  const quiet = factory.create({ kind: 'process', watchFiles: false });
  assert.match((await quiet.watchFiles?.(['a'], () => assert.fail())) ?? '', /^watch-/);
});

it('keeps files in a directory of the server, for the next agent that names it', async () => {
  const config = { kind: 'local' as const, workDir: './workspace/user-123', enforceBoundary: true };
  for (const expected of ['', 'kept\n']) {
    await using sandbox = new CloudKodeSandbox(config, { client });
    assert.equal((await sandbox.exec('cat note 2>/dev/null')).stdout, expected);
    await sandbox.fs.write('note', 'kept\n');
    await assert.rejects(sandbox.fs.read('/etc/passwd'), OutsideBoundaryError);
  }
});

it('says what the server does not have, and leaves nothing behind', async () => {
  const sandbox = factory.create({ kind: 'k8s' });
  await assert.rejects(sandbox.exec('true'), UnsupportedError);
  await sandbox.dispose?.();
  assert.throws(() => factory.create({ kind: 'local' }), /not registered/);
});
