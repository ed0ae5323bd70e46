/**
 * The tar format (POSIX pax with GNU's long names and sizes): headers as bytes, entries from a stream.
 * Knows nothing of the local disk.
 */

import { UnsafeArchiveError } from './errors';

export const BLOCK = 512;
/** A name longer than this is no name; larger extended headers would only fill memory. */
const MOST_EXTENDED = 1 << 20;

export type EntryKind = 'file' | 'directory' | 'symlink' | 'hardlink' | 'other';

/** What stands before an entry's bytes. */
export interface Header {
  readonly name: string;
  readonly kind: EntryKind;
  /** Bytes of content that follow. */
  readonly size: number;
  /** Permission bits. */
  readonly mode: number;
  /** Seconds since 1970. */
  readonly mtime: number;
  /** Where a link points. */
  readonly link: string;
}

const TYPES: Readonly<Record<EntryKind, string>> = {
  file: '0',
  hardlink: '1',
  symlink: '2',
  directory: '5',
  other: '6',
};

// -- writing ----------------------------------------------------------------------------------------------------

/** A header, with an extended one before it where the old format cannot say it. */
export function encodeHeader(header: Header): Uint8Array {
  const records: string[] = [];
  if (!fits(header.name, 100)) records.push(record('path', header.name));
  if (!fits(header.link, 100)) records.push(record('linkpath', header.link));
  if (header.size >= 8 ** 11) records.push(record('size', String(header.size)));
  const main = block(header, TYPES[header.kind]);
  if (records.length === 0) return main;
  const extended = Buffer.from(records.join(''));
  const before = block({ ...header, name: 'pax', link: '', size: extended.length }, 'x');
  return Buffer.concat([before, extended, padding(extended.length), main]);
}

/** Zeros up to the next block. */
export function padding(size: number): Uint8Array {
  return new Uint8Array((BLOCK - (size % BLOCK)) % BLOCK);
}

function fits(text: string, size: number): boolean {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: what is not ASCII goes into the extended header
  return /^[\x01-\x7f]*$/.test(text) && text.length <= size;
}

/** "LENGTH key=value\n", where LENGTH counts itself. */
function record(key: string, value: string): string {
  const rest = Buffer.byteLength(` ${key}=${value}\n`);
  let length = rest + String(rest).length;
  length = rest + String(length).length;
  return `${length} ${key}=${value}\n`;
}

function block(header: Header, type: string): Buffer {
  const bytes = Buffer.alloc(BLOCK);
  const octal = (value: number, at: number, size: number): void => {
    bytes.write(
      `${Math.floor(value)
        .toString(8)
        .padStart(size - 1, '0')
        .slice(1 - size)}\0`,
      at,
      'latin1',
    );
  };
  bytes.write(header.name, 0, 100);
  octal(header.mode, 100, 8);
  // Who owns a file here means nothing in there.
  octal(0, 108, 8);
  octal(0, 116, 8);
  octal(header.size < 8 ** 11 ? header.size : 0, 124, 12);
  octal(Math.max(0, header.mtime), 136, 12);
  bytes.write(' '.repeat(8), 148);
  bytes.write(type, 156);
  bytes.write(header.link, 157, 100);
  bytes.write('ustar\x0000', 257, 'latin1');
  bytes.write(`${checksum(bytes).toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return bytes;
}

function checksum(bytes: Uint8Array): number {
  return bytes.reduce((sum, byte) => sum + byte, 0);
}

// -- reading ----------------------------------------------------------------------------------------------------

/** An entry of an archive; what is not read of `content` before the next entry is asked for is skipped. */
export interface Entry extends Header {
  readonly content: AsyncIterable<Uint8Array>;
}

/** The entries of an archive as it arrives. Its end cut off is an error, not a shorter archive. */
export async function* entries(archive: AsyncIterable<Uint8Array>): AsyncGenerator<Entry> {
  const bytes = new Bytes(archive);
  try {
    let extended: Extended = {};
    for (;;) {
      const raw = await bytes.exactly(BLOCK);
      if (raw.every(byte => byte === 0)) {
        await bytes.skipAll();
        return;
      }
      const type = String.fromCharCode(raw[156] ?? 0);
      const header = decodeHeader(raw, type);
      if (type === 'x' || type === 'L' || type === 'K' || type === 'g') {
        if (header.size > MOST_EXTENDED) throw new UnsafeArchiveError('the archive holds a name without end');
        const value = await bytes.exactly(header.size);
        await bytes.exactly(padding(header.size).length);
        if (type === 'x') extended = { ...extended, ...decodeRecords(value) };
        else if (type === 'L') extended = { ...extended, path: text(value) };
        else if (type === 'K') extended = { ...extended, linkpath: text(value) };
        continue;
      }
      const size = extended.size ?? header.size;
      const content = bytes.next(size);
      const name = extended.path ?? header.name;
      yield { ...header, name, link: extended.linkpath ?? header.link, size, content };
      for await (const _ of content);
      await bytes.exactly(padding(size).length);
      extended = {};
    }
  } finally {
    await bytes.close();
  }
}

interface Extended {
  path?: string;
  linkpath?: string;
  size?: number;
}

function decodeHeader(raw: Uint8Array, type: string): Header {
  const told = number(raw.subarray(148, 156));
  const summed = raw.slice();
  summed.fill(32, 148, 156);
  if (checksum(summed) !== told) throw new UnsafeArchiveError('the archive is damaged: a header does not add up');
  const prefix = text(raw.subarray(257, 262)) === 'ustar' && raw[262] === 0 ? text(raw.subarray(345, 500)) : '';
  const name = text(raw.subarray(0, 100));
  const kind =
    (Object.keys(TYPES) as EntryKind[]).find(one => TYPES[one] === type) ?? (isFile(type) ? 'file' : 'other');
  return {
    name: prefix ? `${prefix}/${name}` : name,
    // Before POSIX a directory was a file whose name ends with a slash.
    kind: kind === 'file' && name.endsWith('/') ? 'directory' : kind,
    size: number(raw.subarray(124, 136)),
    mode: number(raw.subarray(100, 108)) & 0o7777,
    mtime: number(raw.subarray(136, 148)),
    link: text(raw.subarray(157, 257)),
  };
}

function isFile(type: string): boolean {
  return type === '\0' || type === '7';
}

/** Octal digits; or, where they do not suffice, GNU's binary with the first bit set. */
function number(raw: Uint8Array): number {
  const value =
    ((raw[0] ?? 0) & 0x80) === 0
      ? Number.parseInt(text(raw).trim() || '0', 8)
      : raw.slice(1).reduce((sum, byte) => sum * 256 + byte, (raw[0] ?? 0) & 0x7f);
  if (!Number.isSafeInteger(value) || value < 0) throw new UnsafeArchiveError('the archive is damaged: no number');
  return value;
}

function text(raw: Uint8Array): string {
  const end = raw.indexOf(0);
  return Buffer.from(end < 0 ? raw : raw.subarray(0, end)).toString();
}

function decodeRecords(raw: Uint8Array): Extended {
  const found: Extended = {};
  for (let at = 0; at < raw.length; ) {
    const space = raw.indexOf(32, at);
    const length = Number(Buffer.from(raw.subarray(at, space)).toString());
    const line = Buffer.from(raw.subarray(space + 1, at + length));
    const equals = line.indexOf('=');
    if (space < 0 || !(length > 0) || at + length > raw.length || equals < 0 || line.at(-1) !== 10) {
      throw new UnsafeArchiveError('the archive is damaged: an extended header cannot be read');
    }
    const value = line.toString('utf8', equals + 1, line.length - 1);
    const key = line.toString('utf8', 0, equals);
    if (key === 'path') found.path = value;
    if (key === 'linkpath') found.linkpath = value;
    if (key === 'size') found.size = wholeNumber(value);
    at += length;
  }
  return found;
}

function wholeNumber(value: string): number {
  const number = /^\d+$/.test(value) ? Number(value) : Number.NaN;
  if (!Number.isSafeInteger(number)) throw new UnsafeArchiveError('the archive is damaged: no number');
  return number;
}

/** A stream of pieces, read by amounts. */
class Bytes {
  readonly #source: AsyncIterator<Uint8Array>;
  #rest: Uint8Array = new Uint8Array(0);

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** The next bytes, at most so many, at least one. */
  async #some(most: number): Promise<Uint8Array> {
    while (this.#rest.length === 0) {
      const { done, value } = await this.#source.next();
      if (done) throw new UnsafeArchiveError('the archive breaks off');
      this.#rest = value;
    }
    const piece = this.#rest.subarray(0, most);
    this.#rest = this.#rest.subarray(piece.length);
    return piece;
  }

  async exactly(size: number): Promise<Uint8Array> {
    const whole = new Uint8Array(size);
    let at = 0;
    for await (const piece of this.next(size)) {
      whole.set(piece, at);
      at += piece.length;
    }
    return whole;
  }

  /** The next `size` bytes in pieces; asked again, those that are left of them. */
  next(size: number): AsyncIterable<Uint8Array> {
    let left = size;
    const some = (most: number): Promise<Uint8Array> => this.#some(most);
    return {
      async *[Symbol.asyncIterator]() {
        while (left > 0) {
          const piece = await some(left);
          left -= piece.length;
          yield piece;
        }
      },
    };
  }

  /** What comes behind the end: a connection that was read whole is used again. */
  async skipAll(): Promise<void> {
    while (!(await this.#source.next()).done);
  }

  async close(): Promise<void> {
    await this.#source.return?.();
  }
}
