/** Files of a sandbox: read, write, list, move, whole directories. */

import { createReadStream, createWriteStream } from 'node:fs';
import * as fs from 'node:fs/promises';
import { basename } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { TextDecoder } from 'node:util';
import { pack, type Unpacked, unpack } from './archive';
import type { Body } from './body';
import { wire } from './fields';
import { type FileEntry, mkdirRequest, moveRequest, readFileEntry, readFileListing, readUnpackInfo } from './models';
import type { CallOptions } from './process';
import type { Query, Transport } from './transport';

const PIECE = 1 << 20;
const BINARY = { 'content-type': 'application/octet-stream' };
const TAR = { 'content-type': 'application/x-tar' };

/** What `writeFile` takes: text (stored as UTF-8), bytes, or a stream of bytes, which is sent as it comes. */
export type Content = string | Body;

/** Who does it inside the sandbox; the default is `user`. */
export interface FileOptions extends CallOptions {
  user?: string | undefined;
}

/** What is in a directory, sorted by path. */
export interface FileList extends Array<FileEntry> {
  /** Whether there is more than `limit` allowed. */
  readonly truncated: boolean;
}

/** File operations. Paths are absolute paths inside the sandbox. */
export abstract class Files {
  protected readonly transport: Transport;
  protected readonly path: string;

  protected constructor(transport: Transport, path: string) {
    this.transport = transport;
    this.path = path;
  }

  // -- content ------------------------------------------------------------------------------------------------

  /** A file's bytes, or `length` of them from `offset` on. */
  async readFile(
    path: string,
    options: { offset?: number | undefined; length?: number | undefined } & FileOptions = {},
  ): Promise<Uint8Array> {
    const { signal, user, offset, length } = options;
    return this.transport.request('GET', `${this.path}/files`, { query: { path, offset, length, user }, signal });
  }

  /** A file's content as text; a `TypeError` where it is not UTF-8. */
  async readText(path: string, options: FileOptions = {}): Promise<string> {
    const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
    return decoder.decode(await this.readFile(path, options));
  }

  /** A file's bytes piece by piece, without holding all of them. */
  async *streamFile(path: string, options: FileOptions = {}): AsyncGenerator<Uint8Array> {
    yield* this.#download(`${this.path}/files`, path, options);
  }

  /**
   * Replaces a file at once (readers see the old or the new content), or appends. Missing directories are made.
   * `mode` is the permission bits: `0o755` or `'755'`.
   */
  async writeFile(
    path: string,
    content: Content,
    options: { mode?: number | string | undefined; append?: boolean | undefined } & FileOptions = {},
  ): Promise<FileEntry> {
    const { append, user, signal } = options;
    const mode = typeof options.mode === 'number' ? options.mode.toString(8) : options.mode;
    const data = await this.transport.json('PUT', `${this.path}/files`, {
      safety: append ? 'once' : 'repeatable',
      query: { path, mode, append: append || undefined, user },
      body: typeof content === 'string' ? new TextEncoder().encode(content) : content,
      headers: BINARY,
      signal,
    });
    return readFileEntry(data);
  }

  // -- directories --------------------------------------------------------------------------------------------

  /** What is in a directory, `depth` levels down, or with `recursive` all of it; at most `limit` entries (1000). */
  async listFiles(
    path = '/workspace',
    options: {
      depth?: number | undefined;
      recursive?: boolean | undefined;
      limit?: number | undefined;
    } & FileOptions = {},
  ): Promise<FileList> {
    const { recursive, limit, user, signal } = options;
    const query: Query = recursive
      ? { path, recursive, limit, user }
      : { path, depth: options.depth ?? 1, limit, user };
    const data = await this.transport.json('GET', `${this.path}/files/list`, { query, signal });
    const { items, truncated } = readFileListing(data);
    return Object.assign([...items], { truncated });
  }

  /** What a path is; a link is not followed. */
  async stat(path: string, { user, signal }: FileOptions = {}): Promise<FileEntry> {
    const query = { path, user };
    return readFileEntry(await this.transport.json('GET', `${this.path}/files/stat`, { query, signal }));
  }

  /** Makes a directory, and those above it that are missing. */
  async mkdir(path: string, { user, signal }: FileOptions = {}): Promise<FileEntry> {
    const json = wire({ path, user }, mkdirRequest);
    return readFileEntry(await this.transport.json('POST', `${this.path}/files/mkdir`, { json, signal }));
  }

  /** Renames a file or directory; a file at the destination is replaced. */
  async move(from: string, to: string, { user, signal }: FileOptions = {}): Promise<FileEntry> {
    const json = wire({ from, to, user }, moveRequest);
    return readFileEntry(await this.transport.json('POST', `${this.path}/files/move`, { json, signal }));
  }

  /** Removes a file or an empty directory, or with `recursive` everything below as well. */
  async remove(path: string, options: { recursive?: boolean | undefined } & FileOptions = {}): Promise<void> {
    const { recursive, user, signal } = options;
    const query = { path, recursive: recursive || undefined, user };
    await this.transport.request('DELETE', `${this.path}/files`, { query, signal });
  }

  // -- between here and there ---------------------------------------------------------------------------------

  /**
   * Sends a local file, or what is in a local directory, streamed. Returns the bytes sent or unpacked.
   * A file is stored *as* `remote`, or under its own name if `remote` ends with `/` or is the default.
   */
  async upload(local: string, remote = '/workspace', options: FileOptions = {}): Promise<number> {
    const { user, signal } = options;
    const stat = await fs.stat(local);
    if (stat.isDirectory()) {
      const query = { path: remote, user };
      const data = await this.transport.json('PUT', `${this.path}/archive`, {
        query,
        body: pack(local),
        headers: TAR,
        signal,
      });
      return readUnpackInfo(data).bytes;
    }
    const into = remote.endsWith('/') || remote === '/workspace';
    const path = into ? `${remote.replace(/\/+$/, '')}/${basename(local)}` : remote;
    const content = createReadStream(local, { highWaterMark: PIECE });
    return (await this.writeFile(path, content, { mode: stat.mode & 0o777, ...options })).size;
  }

  /**
   * Fetches a file as `local`, or what is in a directory into the directory `local`, streamed.
   * What comes is treated as hostile: see `Unpacked.skipped`. `UnsafeArchiveError` if it would leave `local`.
   */
  async download(remote: string, local: string, options: FileOptions = {}): Promise<Unpacked> {
    const entry = await this.stat(remote, options);
    if (entry.kind === 'directory') return unpack(this.#download(`${this.path}/archive`, remote, options), local);
    let bytes = 0;
    const counted = async function* (pieces: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
      for await (const piece of pieces) {
        bytes += piece.length;
        yield piece;
      }
    };
    await pipeline(counted(this.streamFile(remote, options)), createWriteStream(local, { highWaterMark: PIECE }));
    return { files: 1, bytes, skipped: [] };
  }

  async *#download(url: string, path: string, { user, signal }: FileOptions): AsyncGenerator<Uint8Array> {
    yield* await this.transport.stream('GET', url, { query: { path, user }, signal });
  }
}
