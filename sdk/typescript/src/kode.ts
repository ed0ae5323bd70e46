/**
 * The sandbox of the Kode agent SDK (`@kode/sdk`), made of ours: registered with its `SandboxFactory`, an agent's
 * `sandbox: { kind, … }` becomes a sandbox of a Cloud Sandbox server.
 *
 *     const factory = new SandboxFactory();
 *     registerCloudSandbox(factory);
 *     const sandbox = factory.create({ kind: 'docker', image: 'node:18-alpine', workDir: '/app' });
 *
 * Kode makes sandboxes without waiting. The server's is made when it is first needed.
 */

import { randomUUID } from 'node:crypto';
import { posix } from 'node:path';
import { Client } from './client';
import { splitConnection } from './config';
import { CloudSandboxError, FileNotFoundError, OutsideBoundaryError } from './errors';
import { glob } from './glob';
import type { SandboxOptions } from './kinds';
import type { FileEntry, SandboxRequest } from './models';
import { type Connection, Sandbox } from './sandbox';

// -- the interface of Kode, as it is in its src/infra/sandbox.ts and sandbox-factory.ts -------------------------

export interface KodeSandboxFS {
  resolve(path: string): string;
  isInside(path: string): boolean;
  read(path: string): Promise<string>;
  write(path: string, content: string): Promise<void>;
  temp(name?: string): string;
  stat(path: string): Promise<{ mtimeMs: number }>;
  glob(pattern: string, options?: KodeGlobOptions): Promise<string[]>;
}

export interface KodeGlobOptions {
  cwd?: string;
  ignore?: string[];
  dot?: boolean;
  absolute?: boolean;
}

export interface KodeSandboxExecResult {
  code: number;
  stdout: string;
  stderr: string;
}

export interface KodeFileEvent {
  path: string;
  mtimeMs: number;
}

export interface KodeSandbox<Kind extends string = string> {
  kind: Kind;
  workDir?: string;
  fs: KodeSandboxFS;
  exec(command: string, options?: { timeoutMs?: number }): Promise<KodeSandboxExecResult>;
  watchFiles?(paths: string[], listener: (event: KodeFileEvent) => void): Promise<string>;
  unwatchFiles?(id: string): void;
  dispose?(): Promise<void> | void;
}

/** Kode's `SandboxFactory`, as far as it is needed. Its kinds are a union of its own, hence `never`. */
export interface KodeSandboxFactory {
  // biome-ignore lint/suspicious/noExplicitAny: as Kode has it
  register(kind: never, make: (config: Record<string, any>) => any): void;
}

// -- ours -------------------------------------------------------------------------------------------------------

type Kind = SandboxOptions['kind'];

/** Kinds that are registered unless others are named: all, but for Kode's own `local`. */
const KINDS: readonly Kind[] = ['process', 'hardened', 'docker', 'k8s', 'vfs', 'remote', 'microvm', 'oci'];

/** As Kode's own sandbox has them. */
const EXEC_SECONDS = 120;
const MOST_OUTPUT_BYTES = 10 << 20;
/** As many entries as the server lists at once. */
const MOST_ENTRIES = 100_000;

/** Where sandboxes are made, and what all of them have beside what an agent's configuration says. */
export type KodeOptions = Omit<SandboxRequest, 'sandbox'> &
  Connection & {
    /** Which kinds to register; `local` only when it is named: Kode has one of its own. */
    kinds?: readonly Kind[] | undefined;
    /** How often watched files are looked at, seconds; default 1. */
    watchInterval?: number | undefined;
  };

/** What an agent's configuration may say: a kind with its options, and what is decided on this side. */
export type KodeConfig = SandboxOptions & {
  /** Where relative paths begin and commands start; made if it is missing. Default `/workspace`. */
  workDir?: string | undefined;
  /** Whether files outside `workDir` and `allowPaths` are refused; default true. */
  enforceBoundary?: boolean | undefined;
  allowPaths?: readonly string[] | undefined;
  /** Default true. */
  watchFiles?: boolean | undefined;
};

/** Registers our sandboxes with Kode's factory. */
export function registerCloudSandbox(factory: KodeSandboxFactory, options: KodeOptions = {}): void {
  for (const kind of options.kinds ?? KINDS) {
    factory.register(kind as never, config => new CloudKodeSandbox({ ...config, kind } as KodeConfig, options));
  }
}

/** One agent's sandbox. */
export class CloudKodeSandbox<K extends Kind = Kind> implements KodeSandbox<K>, AsyncDisposable {
  readonly kind: K;
  readonly workDir: string;
  readonly fs: KodeSandboxFS;
  readonly #create: () => Promise<Sandbox>;
  readonly #watchInterval: number;
  readonly #mayWatch: boolean;
  readonly #watches = new Map<string, AbortController>();
  #made: Promise<Sandbox> | undefined;
  #disposed = false;

  constructor(config: KodeConfig & { kind: K }, options: KodeOptions = {}) {
    this.kind = config.kind;
    // Of `local`, `workDir` is the server's directory, which is `/workspace` inside.
    this.workDir = config.kind === 'local' ? '/workspace' : posix.resolve('/workspace', config.workDir ?? '.');
    this.fs = new KodeFiles(this.workDir, config, () => this.sandbox());
    this.#mayWatch = config.watchFiles !== false;
    this.#watchInterval = options.watchInterval ?? 1;
    this.#create = () => create(config, this.workDir, options);
  }

  /** The server's sandbox, made now if it was not. One that could not be made is tried again by the next call. */
  sandbox(): Promise<Sandbox> {
    if (this.#disposed) return Promise.reject(new CloudSandboxError('this sandbox was disposed of'));
    this.#made ??= this.#create().catch(error => {
      this.#made = undefined;
      throw error;
    });
    return this.#made;
  }

  /** Runs a shell line in `workDir`. What ended it other than itself is told at the end of `stderr`. */
  async exec(command: string, { timeoutMs }: { timeoutMs?: number } = {}): Promise<KodeSandboxExecResult> {
    const sandbox = await this.sandbox();
    const result = await sandbox.runCommand(command, {
      cwd: this.workDir,
      timeout: timeoutMs ? timeoutMs / 1000 : EXEC_SECONDS,
      maxOutputBytes: MOST_OUTPUT_BYTES,
    });
    const notes = [
      result.killedBy ? `[killed: ${result.killedBy}]` : '',
      result.truncated ? `[output past ${MOST_OUTPUT_BYTES} bytes was dropped]` : '',
    ].filter(note => note !== '');
    return {
      code: result.exitCode,
      stdout: result.stdout,
      stderr: [result.stderr, ...notes].filter(Boolean).join('\n'),
    };
  }

  /**
   * Calls `listener` when one of the files was changed, made or removed. They are looked at again and again: that
   * works on every kind and needs nothing inside. Paths outside the boundary are passed over, as Kode's own does.
   */
  async watchFiles(paths: string[], listener: (event: KodeFileEvent) => void): Promise<string> {
    const id = `watch-${randomUUID()}`;
    if (!this.#mayWatch) return id;
    const sandbox = await this.sandbox();
    const watched = paths.filter(path => this.fs.isInside(path)).map(path => this.fs.resolve(path));
    const end = new AbortController();
    this.#watches.set(id, end);
    const look = async (path: string): Promise<FileEntry | undefined> => {
      try {
        return await sandbox.stat(path, { signal: end.signal });
      } catch (error) {
        if (error instanceof FileNotFoundError) return undefined;
        throw error;
      }
    };
    const before = new Map<string, string>();
    for (const path of watched) before.set(path, mark(await look(path)));
    const round = async (): Promise<void> => {
      for (const path of watched) {
        const entry = await look(path);
        if (end.signal.aborted || mark(entry) === before.get(path)) continue;
        before.set(path, mark(entry));
        listener({ path, mtimeMs: entry?.modifiedAt.getTime() ?? Date.now() });
      }
    };
    const again = (): void => {
      if (end.signal.aborted) return;
      // A watch keeps no program alive. While the sandbox cannot be asked there is nothing to tell.
      setTimeout(
        () =>
          void round()
            .catch(() => undefined)
            .finally(again),
        this.#watchInterval * 1000,
      ).unref();
    };
    again();
    return id;
  }

  unwatchFiles(id: string): void {
    this.#watches.get(id)?.abort();
    this.#watches.delete(id);
  }

  /** Ends all watches and releases the server's sandbox, if one was made. */
  async dispose(): Promise<void> {
    this.#disposed = true;
    for (const id of [...this.#watches.keys()]) this.unwatchFiles(id);
    const sandbox = await this.#made?.catch(() => undefined);
    await sandbox?.release();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}

/** What the server is asked for: the kind's own options. The others are decided on this side. */
async function create(config: KodeConfig, workDir: string, options: KodeOptions): Promise<Sandbox> {
  const { kinds: _kinds, watchInterval: _interval, client, ...rest } = options;
  const { connect, request } = splitConnection(rest);
  const owner = client ?? new Client(connect);
  const { workDir: given, enforceBoundary, allowPaths, watchFiles, ...own } = config;
  if (config.kind === 'local') {
    const sandbox = { ...own, workDir: given, enforceBoundary, allowPaths } as SandboxOptions;
    return Sandbox.create({ ...request, client: owner, sandbox });
  }
  const kind = own as SandboxOptions;
  const sandbox = await Sandbox.create({
    ...request,
    client: owner,
    sandbox: kind.kind === 'docker' ? { ...kind, workDir } : kind,
  });
  try {
    await sandbox.mkdir(workDir);
  } catch (error) {
    await sandbox.release();
    throw error;
  }
  return sandbox;
}

/** What changes when a file does: a time alone may stand still for two writes. */
function mark(entry: FileEntry | undefined): string {
  return entry ? `${entry.modifiedAt.getTime()} ${entry.size} ${entry.kind} ${entry.mode}` : '';
}

class KodeFiles implements KodeSandboxFS {
  readonly #workDir: string;
  readonly #enforce: boolean;
  readonly #allowed: readonly string[];
  readonly #sandbox: () => Promise<Sandbox>;

  constructor(workDir: string, config: KodeConfig, sandbox: () => Promise<Sandbox>) {
    this.#workDir = workDir;
    this.#enforce = config.enforceBoundary !== false;
    this.#allowed = (config.allowPaths ?? []).map(path => posix.resolve(workDir, path));
    this.#sandbox = sandbox;
  }

  resolve(path: string): string {
    return posix.resolve(this.#workDir, path);
  }

  isInside(path: string): boolean {
    const resolved = this.resolve(path);
    return !this.#enforce || [this.#workDir, ...this.#allowed].some(root => isBelow(root, resolved));
  }

  async read(path: string): Promise<string> {
    const resolved = this.#inside(path);
    return (await this.#sandbox()).readText(resolved);
  }

  async write(path: string, content: string): Promise<void> {
    const resolved = this.#inside(path);
    await (await this.#sandbox()).writeFile(resolved, content);
  }

  temp(name = `temp-${randomUUID()}`): string {
    return posix.join('.temp', name);
  }

  async stat(path: string): Promise<{ mtimeMs: number }> {
    const resolved = this.#inside(path);
    return { mtimeMs: (await (await this.#sandbox()).stat(resolved)).modifiedAt.getTime() };
  }

  /** Files, sorted; relative to `workDir` unless `absolute`. Links to directories are not followed. */
  async glob(pattern: string, { cwd = '.', ignore = [], dot, absolute }: KodeGlobOptions = {}): Promise<string[]> {
    const from = posix.isAbsolute(pattern) ? '/' : this.#inside(cwd);
    const wanted = glob(pattern, { dot });
    const ignored = ignore.map(one => glob(one, { dot: true }));
    const base = this.#inside(posix.join(from, wanted.base));
    return (await this.#below(base))
      .filter(entry => entry.kind !== 'directory' && this.isInside(entry.path))
      .map(entry => ({ path: entry.path, shown: posix.relative(from, entry.path) }))
      .filter(({ shown }) => wanted.matches(shown) && !ignored.some(one => one.matches(shown)))
      .map(({ path }) => (absolute ? path : posix.relative(this.#workDir, path)));
  }

  async #below(base: string): Promise<FileEntry[]> {
    try {
      const found = await (await this.#sandbox()).listFiles(base, { recursive: true, limit: MOST_ENTRIES });
      if (found.truncated) {
        throw new CloudSandboxError(`there are more than ${MOST_ENTRIES} files below ${base}`, {
          hint: 'begin the pattern with a directory',
        });
      }
      return found;
    } catch (error) {
      if (error instanceof FileNotFoundError) return [];
      throw error;
    }
  }

  #inside(path: string): string {
    if (!this.isInside(path)) throw new OutsideBoundaryError(`Path outside sandbox: ${path}`);
    return this.resolve(path);
  }
}

function isBelow(root: string, path: string): boolean {
  return path === root || path.startsWith(root.endsWith('/') ? root : `${root}/`);
}
