/** Directories from a sandbox are hostile: nothing is written outside the destination, whatever the archive holds. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import * as fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { it, type TestContext } from 'node:test';
import { pack, unpack } from '../src/archive';
import { UnsafeArchiveError } from '../src/index';
import { encodeHeader, type Header, padding } from '../src/tar';

type Member = readonly [name: string, fields: Partial<Header>, content?: string];

const FILE: Partial<Header> = { kind: 'file' };
const link = (target: string): Partial<Header> => ({ kind: 'symlink', link: target });

function archive(...members: readonly Member[]): Buffer {
  const parts = members.flatMap(([name, fields, content = '']) => {
    const raw = Buffer.from(content);
    const header = { name, kind: 'file' as const, size: raw.length, mode: 0o644, mtime: 0, link: '', ...fields };
    return [encodeHeader(header), raw, padding(raw.length)];
  });
  return Buffer.concat([...parts, Buffer.alloc(1024)]);
}

async function* pieces(raw: Uint8Array, size = 700): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < raw.length; at += size) yield raw.subarray(at, at + size);
}

async function gather(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const found = [];
  for await (const piece of source) found.push(piece);
  return Buffer.concat(found);
}

/** A destination with something beside it that must stay as it is. */
async function place(t: TestContext): Promise<string> {
  const root = await fs.mkdtemp(join(tmpdir(), 'csb-ts-archive-'));
  await fs.mkdir(join(root, 'outside'));
  await fs.writeFile(join(root, 'outside/keep'), 'kept');
  t.after(async () => {
    const beside = (await fs.readdir(root)).filter(name => name !== 'here');
    assert.deepEqual([beside, await fs.readdir(join(root, 'outside'))], [['outside'], ['keep']]);
    assert.equal(await fs.readFile(join(root, 'outside/keep'), 'utf8'), 'kept');
    await fs.rm(root, { recursive: true });
  });
  return join(root, 'here');
}

const isLink = async (path: string): Promise<boolean> =>
  (await fs.lstat(path).catch(() => undefined))?.isSymbolicLink() ?? false;

for (const members of [
  [['../outside/keep', FILE, '!']],
  [['/etc/cloud-sandbox-was-here', FILE, '!']],
  [['a/../../outside/keep', FILE, '!']],
  [[`${'d/'.repeat(80)}../../outside/keep`, FILE, '!']],
  [
    ['f', FILE, 'x'],
    ['d', { kind: 'directory' }],
    ['d', link('f')],
  ],
  [
    ['l', link('.')],
    ['l/x', FILE, '!'],
  ],
  [
    ['f', FILE, 'x'],
    ['f/g', FILE, '!'],
  ],
  [['h', { kind: 'hardlink', link: '../outside/keep' }]],
] satisfies Member[][]) {
  it(`an archive with ${members.map(([name]) => name.slice(-20)).join(', ')} is refused`, async t => {
    await assert.rejects(unpack(pieces(archive(...members)), await place(t)), UnsafeArchiveError);
  });
}

for (const [name, target, kept] of [
  ['l', 'f', true],
  ['d/l', '../f', true],
  ['d/e/l', '../../f', true],
  ['d/l', '../../outside/keep', false],
  ['l', '../outside', false],
  ['l', '/etc/passwd', false],
  ['l', 'd/../../outside', false],
  ['d/l', 'e/..', false],
  ['l', '..', false],
] as const) {
  it(`a link ${name} to ${target} is ${kept ? 'made' : 'skipped'}`, async t => {
    const here = await place(t);
    const result = await unpack(pieces(archive(['f', FILE, 'x'], [name, link(target)])), here);
    assert.equal(await isLink(join(here, name)), kept);
    assert.deepEqual(result.skipped, kept ? [] : [name]);
    if (kept) assert.equal(await fs.readFile(join(here, name), 'utf8'), 'x');
  });
}

it('a chain of links that each look harmless leads nowhere', async t => {
  const here = await place(t);
  const raw = archive(
    ['d', { kind: 'directory' }],
    ['d/up', link('..')],
    ['out', link('d/up/../outside')],
    ['out2', link('d/up/outside')],
  );
  assert.deepEqual((await unpack(pieces(raw), here)).skipped, ['out']);
  await assert.rejects(fs.stat(join(here, 'out2')));
});

it('a file replaces a link and does not write through it, and no second name reads through one', async t => {
  const here = await place(t);
  await fs.mkdir(here);
  await fs.symlink('../outside/keep', join(here, 'keep'));
  await fs.symlink('../outside/keep', join(here, 'l'));
  const raw = archive(
    ['keep', FILE, 'new'],
    ['h', { kind: 'hardlink', link: 'l' }],
    ['again', { kind: 'hardlink', link: 'keep' }],
    ['again', { kind: 'hardlink', link: 'again' }],
  );
  const result = await unpack(pieces(raw), here);
  assert.deepEqual([result.files, result.skipped], [2, ['h', 'again']]);
  assert.deepEqual([await isLink(join(here, 'keep')), await fs.readFile(join(here, 'again'), 'utf8')], [false, 'new']);
});

it('devices are skipped and modes lose their dangerous bits', async t => {
  const here = await place(t);
  const raw = archive(['null', { kind: 'other' }], ['su', { mode: 0o6777 }, 'x']);
  assert.deepEqual((await unpack(pieces(raw), here)).skipped, ['null']);
  assert.equal((await fs.stat(join(here, 'su'))).mode & 0o7777, 0o755);
});

it('an archive that breaks off, or is damaged, is an error', async t => {
  const here = await place(t);
  const raw = archive(['f', FILE, 'x'.repeat(1000)], ['g', FILE, 'y']);
  for (let end = 0; end < raw.length - 1024; end += 97) {
    await assert.rejects(unpack(pieces(raw.subarray(0, end)), here), UnsafeArchiveError);
  }
  const damaged = Buffer.from(raw);
  damaged.write('z', 0);
  await assert.rejects(unpack(pieces(damaged), here), /does not add up/);
  const negative = archive(['f', FILE, 'x']);
  negative.fill(0xff, 124, 136);
  await assert.rejects(unpack(pieces(negative), here), UnsafeArchiveError);
});

async function tree(root: string): Promise<void> {
  await fs.mkdir(join(root, 'sub/empty'), { recursive: true });
  await fs.writeFile(join(root, 'å.txt'), 'å'.repeat(1000));
  await fs.writeFile(join(root, 'sub', 'long'.repeat(60)), 'x'.repeat(513));
  await fs.writeFile(join(root, 'sub/big'), randomBytes(3 << 20));
  await fs.writeFile(join(root, 'empty'), '');
  await fs.writeFile(join(root, 'run'), '#!/bin/sh\n', { mode: 0o755 });
  await fs.symlink('sub/big', join(root, 'link'));
  await fs.link(join(root, 'run'), join(root, 'same'));
}

async function shown(root: string): Promise<unknown> {
  const names = (await fs.readdir(root, { recursive: true })).sort();
  const one = async (name: string): Promise<unknown> => {
    const path = join(root, name);
    const stat = await fs.lstat(path);
    if (stat.isSymbolicLink()) return [name, await fs.readlink(path)];
    return stat.isFile() ? [name, stat.mode & 0o111, (await fs.readFile(path)).toString('base64')] : [name];
  };
  return Promise.all(names.map(one));
}

it('what is packed unpacks to the same, here and with tar', async t => {
  const here = await place(t);
  await fs.mkdir(here);
  await tree(join(here, 'from'));
  const raw = await gather(pack(join(here, 'from')));
  assert.equal(raw.length % 512, 0);
  for (const size of [1 << 20, 511, 100_000]) {
    await unpack(pieces(raw, size), join(here, `to-${size}`));
    assert.deepEqual(await shown(join(here, `to-${size}`)), await shown(join(here, 'from')));
  }
  await fs.mkdir(join(here, 'tar'));
  execFileSync('tar', ['-x', '-C', join(here, 'tar')], { input: raw, stdio: 'pipe' });
  assert.deepEqual(await shown(join(here, 'tar')), await shown(join(here, 'from')));
});

it('what tar packs in any of its formats unpacks to the same', async t => {
  const here = await place(t);
  await fs.mkdir(here);
  await tree(join(here, 'from'));
  for (const format of ['gnu', 'pax']) {
    const options = { maxBuffer: 1 << 26, stdio: 'pipe' } as const;
    const raw = execFileSync('tar', [`--format=${format}`, '-c', '-C', join(here, 'from'), '.'], options);
    await unpack(pieces(raw), join(here, format));
    assert.deepEqual(await shown(join(here, format)), await shown(join(here, 'from')), format);
  }
});
