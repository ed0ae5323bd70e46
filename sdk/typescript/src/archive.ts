/**
 * Local directories as tar streams: packing yields bytes piece by piece, unpacking trusts nothing in the archive.
 *
 * A downloaded archive was written by whatever ran in the sandbox. Entries are therefore created one by one, never
 * through a link, never outside the destination; links are made only when they stay inside it, and devices never.
 */

import { createReadStream } from 'node:fs';
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { UnsafeArchiveError } from './errors';
import { BLOCK, type Entry, encodeHeader, entries, padding } from './tar';

const PIECE = 1 << 20;
const { O_CREAT, O_EXCL, O_NOFOLLOW = 0, O_WRONLY } = fs.constants;

/** The tar archive of what is in a directory, in pieces of at most about 1 MiB. */
export async function* pack(directory: string): AsyncGenerator<Uint8Array> {
  yield* packBelow(directory, '');
  yield new Uint8Array(2 * BLOCK);
}

async function* packBelow(root: string, inside: string): AsyncGenerator<Uint8Array> {
  for (const name of (await fs.readdir(join(root, inside))).sort()) {
    const path = join(root, inside, name);
    const shown = inside ? `${inside}/${name}` : name;
    const stat = await fs.lstat(path);
    const common = { mode: stat.mode & 0o7777, mtime: stat.mtimeMs / 1000, size: 0, link: '' };
    if (stat.isDirectory()) {
      yield encodeHeader({ ...common, name: `${shown}/`, kind: 'directory' });
      yield* packBelow(root, shown);
    } else if (stat.isSymbolicLink()) {
      yield encodeHeader({ ...common, name: shown, kind: 'symlink', link: await fs.readlink(path) });
    } else if (stat.isFile()) {
      yield encodeHeader({ ...common, name: shown, kind: 'file', size: stat.size });
      yield* content(path, stat.size);
      yield padding(stat.size);
    }
  }
}

/** Exactly `size` bytes, also when the file shrinks or grows meanwhile. */
async function* content(path: string, size: number): AsyncGenerator<Uint8Array> {
  if (size === 0) return;
  let left = size;
  for await (const piece of createReadStream(path, { end: size - 1, highWaterMark: PIECE })) {
    left -= piece.length;
    yield piece;
  }
  if (left > 0) throw new Error(`${path} became shorter while it was sent`);
}

/** What a download brought. */
export interface Unpacked {
  /** Files written. */
  files: number;
  /** Bytes written. */
  bytes: number;
  /** Entries that were not created: devices, FIFOs, and links that lead outside. */
  skipped: string[];
}

/** Writes an archive's entries under `destination`, which is made if it is missing. */
export async function unpack(archive: AsyncIterable<Uint8Array>, destination: string): Promise<Unpacked> {
  const result: Unpacked = { files: 0, bytes: 0, skipped: [] };
  await fs.mkdir(destination, { recursive: true });
  for await (const entry of entries(archive)) {
    const parts = partsOf(entry.name);
    if (parts.length === 0) continue;
    const target = await beneath(destination, parts);
    if (entry.kind === 'directory') {
      await makeDirectory(target);
    } else if (entry.kind === 'file') {
      await clear(target);
      await write(target, entry.mode, entry.content);
      result.files += 1;
      result.bytes += entry.size;
    } else if (entry.kind === 'symlink' && staysInside(parts, entry.link)) {
      await clear(target);
      await fs.symlink(entry.link, target);
    } else if (!(entry.kind === 'hardlink' && (await copy(destination, entry, target)))) {
      result.skipped.push(entry.name);
    } else {
      result.files += 1;
    }
  }
  return result;
}

/** A second name of a file that came before becomes a file of its own. */
async function copy(destination: string, entry: Entry, target: string): Promise<boolean> {
  const first = await beneath(destination, partsOf(entry.link));
  if (first === target || !(await lstat(first))?.isFile()) return false;
  await clear(target);
  await write(target, entry.mode, createReadStream(first, { highWaterMark: PIECE }));
  return true;
}

function partsOf(name: string): string[] {
  const parts = name.split('/').filter(part => part !== '' && part !== '.');
  const foreign = process.platform === 'win32' && parts.some(part => /[\\:]/.test(part));
  if (name.startsWith('/') || parts.includes('..') || name.includes('\0') || foreign) {
    throw new UnsafeArchiveError(`the archive holds \`${name}\`, which leads outside the destination`);
  }
  return parts;
}

/** The local path; its directories are made, and none of them may be a link. */
async function beneath(destination: string, parts: readonly string[]): Promise<string> {
  let path = destination;
  for (const part of parts.slice(0, -1)) {
    path = join(path, part);
    await makeDirectory(path);
  }
  return join(path, parts.at(-1) ?? '');
}

async function makeDirectory(path: string): Promise<void> {
  const stat = await lstat(path);
  if (stat === undefined) await fs.mkdir(path);
  else if (!stat.isDirectory()) {
    throw new UnsafeArchiveError(`the archive writes through \`${path}\`, which is not a directory`);
  }
}

/** Removes a file or link that is in the way, so that nothing is written through it. */
async function clear(path: string): Promise<void> {
  const stat = await lstat(path);
  if (stat === undefined) return;
  if (stat.isDirectory()) {
    throw new UnsafeArchiveError(`the archive replaces the directory \`${path}\` by something else`);
  }
  await fs.unlink(path);
}

async function lstat(path: string): Promise<Awaited<ReturnType<typeof fs.lstat>> | undefined> {
  try {
    return await fs.lstat(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

async function write(path: string, mode: number, pieces: AsyncIterable<Uint8Array>): Promise<void> {
  const file = await fs.open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
  try {
    for await (const piece of pieces) await file.writeFile(piece);
    // Never set-uid, set-gid or sticky: the bits come from the sandbox.
    await file.chmod((mode & 0o755) | 0o600);
  } finally {
    await file.close();
  }
}

/**
 * Whether a relative link's text stays beneath the destination, also when it passes through other links.
 *
 * `..` may only lead the text: there it undoes real directories. Behind a name it could undo a link instead, and end
 * elsewhere than it reads.
 */
function staysInside(parts: readonly string[], link: string): boolean {
  if (link.startsWith('/') || link.includes('\0') || (process.platform === 'win32' && /[\\:]/.test(link))) return false;
  const steps = link.split('/').filter(step => step !== '' && step !== '.');
  const down = steps.findIndex(step => step !== '..');
  const up = down < 0 ? steps.length : down;
  return up < parts.length && !steps.slice(up).includes('..');
}
