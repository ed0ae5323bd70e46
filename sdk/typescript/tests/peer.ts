/**
 * An HTTP peer that does as a test says: answers, stalls, or breaks the connection at a chosen byte.
 * The real server cannot be made to fail at such points.
 */

import { createServer, type Server, type Socket } from 'node:net';
import type { TestContext } from 'node:test';

export const SANDBOX = `sb-${'a'.repeat(20)}`;
export const EXEC = `ex-${'b'.repeat(20)}`;
export const BASE = `/api/v1/sandboxes/${SANDBOX}`;

export const sandboxView = (changes: object = {}): object => ({
  sandbox_id: SANDBOX,
  user_id: 'u',
  state: 'running',
  kind: 'process',
  template: 'host',
  resources: { cpu: 1, memory: 1, disk: 1, pids: 1, inodes: 1, nofile: 1 },
  network: 'none',
  storage: 'memory',
  metadata: {},
  hostname: 'sandbox',
  started_by: 'claim',
  start_ms: 1.5,
  created_at: '2026-01-02T03:04:05.678901234Z',
  expires_at: null,
  ...changes,
});

export const execView = (state = 'running', changes: object = {}): object => ({
  exec_id: EXEC,
  state,
  command: 'x',
  pid: 7,
  pty: false,
  started_at: '2026-01-02T03:04:05Z',
  ...changes,
});

export const ENDED = { exit_code: 0, signal: null, duration_ms: 1.5, truncated: false, killed_by: null };

export interface Request {
  readonly method: string;
  readonly path: string;
  readonly query: Record<string, string>;
  readonly headers: Record<string, string>;
  readonly body: Buffer;
  // biome-ignore lint/suspicious/noExplicitAny: what a test looks into
  readonly json: any;
}

/** What a handler answers on. */
export class Connection {
  readonly socket: Socket;

  constructor(socket: Socket) {
    this.socket = socket;
  }

  send(raw: string | Buffer): void {
    this.socket.write(raw);
  }

  json(status: number, body: unknown, headers: Record<string, string> = {}): void {
    const raw = Buffer.from(JSON.stringify(body));
    const lines = Object.entries({ 'content-type': 'application/json', 'content-length': raw.length, ...headers });
    const head = lines.map(([key, value]) => `${key}: ${value}\r\n`).join('');
    this.send(Buffer.concat([Buffer.from(`HTTP/1.1 ${status} X\r\n${head}\r\n`), raw]));
  }

  error(status: number, code: string, headers: Record<string, string> = {}): void {
    this.json(status, { error: { code, message: `${code} happened`, hint: 'a hint', request_id: 'rq-1' } }, headers);
  }

  empty(): void {
    this.send('HTTP/1.1 204 X\r\n\r\n');
  }

  beginEvents(): void {
    this.send('HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n');
  }

  chunk(raw: string | Buffer): void {
    const bytes = Buffer.from(raw as string);
    this.send(Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from('\r\n')]));
  }

  event(name: string, data: unknown): void {
    this.chunk(`event: ${name}\ndata: ${JSON.stringify(data)}\n\n`);
  }

  /** Returns the position behind it. */
  output(stream: string, before: number, raw: Buffer): number {
    const seq = before + raw.length;
    const text = raw.toString();
    const utf8 = Buffer.from(text).equals(raw);
    this.event(stream, { seq, data: utf8 ? text : raw.toString('base64'), encoding: utf8 ? 'utf-8' : 'base64' });
    return seq;
  }

  endEvents(): void {
    this.send('0\r\n\r\n');
  }

  /** Breaks the connection with a TCP reset. */
  reset(): void {
    this.socket.resetAndDestroy();
  }

  /** Closes it in the middle of whatever was being said. */
  cut(): void {
    this.socket.end();
  }
}

export type Handler = (connection: Connection, request: Request) => void | Promise<void>;

/** Listens on a free port of 127.0.0.1. */
export class Peer {
  readonly requests: Request[] = [];
  readonly #handlers = new Map<string, Handler[]>();
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;
  #port = 0;

  /** One that gives tokens and a sandbox, until the test is over. */
  static async start(test: TestContext): Promise<Peer> {
    for (const name of ['CSB_SERVER', 'CSB_API_KEY', 'CSB_TOKEN']) delete process.env[name];
    const peer = new Peer();
    await peer.listen();
    test.after(() => peer.silence());
    peer.on('POST /api/v1/auth/token', c =>
      c.json(200, { access_token: 'token-1', token_type: 'bearer', expires_in: 60 }),
    );
    peer.on('POST /api/v1/sandboxes', c => c.json(201, sandboxView()));
    peer.on(`GET ${BASE}`, c => c.json(200, sandboxView()));
    peer.on(`DELETE ${BASE}`, c => c.empty());
    return peer;
  }

  get url(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** The first request to `route` meets the first handler, and so on; the last stays. */
  on(route: string, ...handlers: Handler[]): void {
    this.#handlers.set(route, handlers);
  }

  to(route: string): Request[] {
    return this.requests.filter(request => `${request.method} ${request.path}` === route);
  }

  /** No connection is taken any more, and those that are there end. */
  async silence(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise<void>(resolve => (this.#server?.listening ? this.#server.close(() => resolve()) : resolve()));
  }

  async listen(): Promise<void> {
    this.#server = createServer(socket => this.#serve(socket));
    await new Promise<void>(resolve => this.#server?.listen(this.#port, '127.0.0.1', resolve));
    this.#port = (this.#server.address() as { port: number }).port;
  }

  #serve(socket: Socket): void {
    this.#sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('close', () => this.#sockets.delete(socket));
    let rest: Buffer = Buffer.alloc(0);
    socket.on('data', piece => {
      rest = Buffer.concat([rest, piece as Buffer]);
      for (let found = parse(rest); found; found = parse(rest)) {
        rest = found.rest;
        this.requests.push(found.request);
        const handlers = this.#handlers.get(`${found.request.method} ${found.request.path}`);
        const handler = handlers && handlers.length > 1 ? handlers.shift() : handlers?.[0];
        const connection = new Connection(socket);
        if (handler) void handler(connection, found.request);
        else connection.error(404, 'not_found');
      }
    });
  }
}

function parse(raw: Buffer): { request: Request; rest: Buffer } | undefined {
  const end = raw.indexOf('\r\n\r\n');
  if (end < 0) return undefined;
  const [first = '', ...lines] = raw.toString('latin1', 0, end).split('\r\n');
  const headers = Object.fromEntries(
    lines.map(line => [line.slice(0, line.indexOf(':')).toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]),
  ) as Record<string, string>;
  const found = bodyOf(raw.subarray(end + 4), headers);
  if (!found) return undefined;
  const [method = '', target = ''] = first.split(' ');
  const url = new URL(target, 'http://x');
  const query = Object.fromEntries(url.searchParams);
  const request: Request = {
    ...{ method, path: url.pathname, query, headers, body: found.body },
    get json() {
      return JSON.parse(found.body.toString());
    },
  };
  return { request, rest: found.rest };
}

function bodyOf(raw: Buffer, headers: Record<string, string>): { body: Buffer; rest: Buffer } | undefined {
  if (headers['transfer-encoding'] !== 'chunked') {
    const length = Number(headers['content-length'] ?? 0);
    return raw.length < length ? undefined : { body: raw.subarray(0, length), rest: raw.subarray(length) };
  }
  const pieces: Buffer[] = [];
  for (let at = 0; ; ) {
    const line = raw.indexOf('\r\n', at);
    if (line < 0) return undefined;
    const size = Number.parseInt(raw.toString('latin1', at, line), 16);
    const end = line + 2 + size + 2;
    if (raw.length < end) return undefined;
    if (size === 0) return { body: Buffer.concat(pieces), rest: raw.subarray(end) };
    pieces.push(raw.subarray(line + 2, line + 2 + size));
    at = end;
  }
}
