/** One server, one user: what is not about a single sandbox. */

import { type ConnectOptions, loadConfig } from './config';
import { Fields, wire } from './fields';
import {
  type ApiKey,
  type Health,
  type KeyRequest,
  type KindInfo,
  keyRequest,
  type Language,
  type NewApiKey,
  type PoolStats,
  readApiKey,
  readHealth,
  readKindInfo,
  readLanguage,
  readNewApiKey,
  readPoolStats,
  readSandboxInfo,
  readSessionInfo,
  readTemplate,
  readToken,
  type SandboxInfo,
  type SandboxRequest,
  type SandboxState,
  type SessionInfo,
  type SessionRequest,
  sandboxRequest,
  sessionRequest,
  type Template,
  type Token,
  type TokenRequest,
  tokenRequest,
} from './models';
import { once } from './output';
import type { CallOptions } from './process';
import { Transport } from './transport';

/** A part of a list; `nextCursor` is null on the last one. */
export interface Page<T> {
  readonly items: readonly T[];
  readonly nextCursor: string | null;
}

/** Which part of a list. */
export interface PageOptions extends CallOptions {
  /** Most items; the server's default is 50. */
  limit?: number | undefined;
  /** `nextCursor` of the page before. */
  cursor?: string | undefined;
}

/** A request that is carried out once, however often it is sent. */
export interface OnceOptions extends CallOptions {
  idempotencyKey?: string | undefined;
}

/** A server as one user sees it; many sandboxes can share it (`Sandbox.create({ client })`). It needs no closing. */
export class Client {
  /** Sends requests as this user. */
  readonly transport: Transport;

  constructor(options: ConnectOptions = {}) {
    this.transport = new Transport(loadConfig(options));
  }

  // -- sandboxes ----------------------------------------------------------------------------------------------

  /** Makes a sandbox and says how it is. `Sandbox.create` gives an object to work with. */
  async createSandbox(request: SandboxRequest = {}, options: OnceOptions = {}): Promise<SandboxInfo> {
    return readSandboxInfo(await this.#create('/api/v1/sandboxes', wire(request, sandboxRequest), options));
  }

  /** Looks a sandbox up. */
  async getSandbox(sandboxId: string, { signal }: CallOptions = {}): Promise<SandboxInfo> {
    const path = `/api/v1/sandboxes/${encodeURIComponent(sandboxId)}`;
    return readSandboxInfo(await this.transport.json('GET', path, { signal }));
  }

  /** One page of the user's sandboxes, newest first. */
  async listSandboxes(options: { state?: SandboxState | undefined } & PageOptions = {}): Promise<Page<SandboxInfo>> {
    const { signal, limit, cursor, state } = options;
    const query = { limit, cursor, state };
    return readPage(await this.transport.json('GET', '/api/v1/sandboxes', { query, signal }), readSandboxInfo);
  }

  /** All of the user's sandboxes, page by page. */
  iterSandboxes(options: { state?: SandboxState | undefined } & CallOptions = {}): AsyncGenerator<SandboxInfo, void> {
    return pages(cursor => this.listSandboxes({ ...options, cursor }));
  }

  // -- sessions -----------------------------------------------------------------------------------------------

  /** Makes a session and says how it is. `Session.create` gives an object to work with. */
  async createSession(request: SessionRequest = {}, options: OnceOptions = {}): Promise<SessionInfo> {
    return readSessionInfo(await this.#create('/api/v1/sessions', wire(request, sessionRequest), options));
  }

  /** Looks a session up. */
  async getSession(sessionId: string, { signal }: CallOptions = {}): Promise<SessionInfo> {
    const path = `/api/v1/sessions/${encodeURIComponent(sessionId)}`;
    return readSessionInfo(await this.transport.json('GET', path, { signal }));
  }

  /** One page of the user's sessions. */
  async listSessions({ signal, limit, cursor }: PageOptions = {}): Promise<Page<SessionInfo>> {
    const query = { limit, cursor };
    return readPage(await this.transport.json('GET', '/api/v1/sessions', { query, signal }), readSessionInfo);
  }

  /** All of the user's sessions, page by page. */
  iterSessions(options: CallOptions = {}): AsyncGenerator<SessionInfo, void> {
    return pages(cursor => this.listSessions({ ...options, cursor }));
  }

  // -- who may ------------------------------------------------------------------------------------------------

  /** A token as this client would buy it, for a page in a browser for instance. */
  async createToken(request: TokenRequest = {}, { signal }: CallOptions = {}): Promise<Token> {
    const json = wire(request, tokenRequest);
    return readToken(await this.transport.json('POST', '/api/v1/auth/token', { json, signal }));
  }

  /** Makes an API key; its secret is shown this once. Admins only. */
  async createKey(request: KeyRequest, { signal }: CallOptions = {}): Promise<NewApiKey> {
    const json = wire(request, keyRequest);
    return readNewApiKey(await this.transport.json('POST', '/api/v1/keys', { json, signal }));
  }

  /** All API keys, without their secrets. Admins only. */
  async listKeys({ signal }: CallOptions = {}): Promise<ApiKey[]> {
    return readItems(await this.transport.json('GET', '/api/v1/keys', { signal }), readApiKey);
  }

  /** Revokes an API key. Admins only. */
  async revokeKey(keyId: string, { signal }: CallOptions = {}): Promise<void> {
    await this.transport.request('DELETE', `/api/v1/keys/${encodeURIComponent(keyId)}`, { signal });
  }

  // -- the server ---------------------------------------------------------------------------------------------

  /** Whether the server is up. */
  async health({ signal }: CallOptions = {}): Promise<Health> {
    return readHealth(await this.transport.json('GET', '/health', { signal, authorize: false }));
  }

  /** The sandbox pool, how many sandboxes there are, and the warden. */
  async poolStats({ signal }: CallOptions = {}): Promise<PoolStats> {
    return readPoolStats(await this.transport.json('GET', '/api/v1/sandbox/stats', { signal }));
  }

  /** What sandboxes can start from. */
  async templates({ signal }: CallOptions = {}): Promise<Template[]> {
    return readItems(await this.transport.json('GET', '/api/v1/templates', { signal }), readTemplate);
  }

  /** How sandboxes can be isolated, what each kind cannot do, and which of them this server has. */
  async kinds({ signal }: CallOptions = {}): Promise<KindInfo[]> {
    return readItems(await this.transport.json('GET', '/api/v1/kinds', { signal }), readKindInfo);
  }

  /** What `runCode` can run. */
  async languages({ signal }: CallOptions = {}): Promise<Language[]> {
    return readItems(await this.transport.json('GET', '/api/v1/languages', { signal }), readLanguage);
  }

  #create(path: string, json: unknown, { idempotencyKey, signal }: OnceOptions): Promise<unknown> {
    // With a key the server recognises a second sending, so that a lost answer leaves no second sandbox behind.
    const headers = once(idempotencyKey);
    return this.transport.json('POST', path, { safety: 'repeatable', json, headers, signal });
  }
}

function readItems<T>(data: unknown, read: (item: unknown) => T): T[] {
  return new Fields('a list', data).list('items', read);
}

function readPage<T>(data: unknown, read: (item: unknown) => T): Page<T> {
  const from = new Fields('a list', data);
  return { items: from.list('items', read), nextCursor: from.maybeText('next_cursor') };
}

async function* pages<T>(page: (cursor: string | undefined) => Promise<Page<T>>): AsyncGenerator<T, void> {
  let cursor: string | undefined;
  do {
    const { items, nextCursor } = await page(cursor);
    yield* items;
    cursor = nextCursor ?? undefined;
  } while (cursor !== undefined);
}
