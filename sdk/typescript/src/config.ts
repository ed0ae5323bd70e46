/** Where the server is and who asks: read once from options and the environment, then constant. */

import { CloudSandboxError } from './errors';

export const DEFAULT_URL = 'http://127.0.0.1:8080';

/** Where a server is, as whom, and with how much patience. */
export interface ConnectOptions {
  /** Default: `CSB_SERVER`, else `http://127.0.0.1:8080`. */
  baseUrl?: string | undefined;
  /** Default: `CSB_API_KEY`. Without key and token, a server in `--dev` mode gives tokens on loopback. */
  apiKey?: string | undefined;
  /** Default: `CSB_TOKEN`. */
  token?: string | undefined;
  /** Default: the key's user. An admin's key may name another one. */
  userId?: string | undefined;
  /** How long an answer may take, seconds; default 60. */
  requestTimeout?: number | undefined;
  /** How often a request is sent again when that is safe; default 3. */
  maxRetries?: number | undefined;
  /** How long a lost server is looked for while output is followed, seconds; default 30. */
  reconnectTimeout?: number | undefined;
  /** Sent with every request. */
  headers?: Readonly<Record<string, string>> | undefined;
  /** In place of the global `fetch`, to go through a proxy for instance. */
  fetch?: typeof fetch | undefined;
}

/** `ConnectOptions` with everything decided. */
export interface Config {
  readonly baseUrl: string;
  readonly apiKey: string | undefined;
  readonly token: string | undefined;
  readonly userId: string | undefined;
  readonly requestTimeout: number;
  readonly maxRetries: number;
  readonly reconnectTimeout: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly fetch: typeof fetch;
}

/** Options win over the environment; a key wins over a token of the same place. */
export function loadConfig(options: ConnectOptions, environment: NodeJS.ProcessEnv = process.env): Config {
  const given = options.baseUrl || environment.CSB_SERVER || DEFAULT_URL;
  if (!isServerUrl(given)) {
    const hint = `write it like ${DEFAULT_URL}`;
    throw new CloudSandboxError(`\`${given}\` is not the address of a server`, { hint });
  }
  if (options.token && options.apiKey) throw new CloudSandboxError('give `token` or `apiKey`, not both');
  let { apiKey, token } = options;
  if (!apiKey && !token) {
    apiKey = environment.CSB_API_KEY;
    token = apiKey ? undefined : environment.CSB_TOKEN;
  }
  return {
    baseUrl: given.replace(/\/+$/, ''),
    apiKey: apiKey || undefined,
    token: token || undefined,
    userId: options.userId || undefined,
    requestTimeout: options.requestTimeout ?? 60,
    maxRetries: Math.max(0, options.maxRetries ?? 3),
    reconnectTimeout: options.reconnectTimeout ?? 30,
    headers: options.headers ?? {},
    fetch: options.fetch ?? globalThis.fetch,
  };
}

function isServerUrl(text: string): boolean {
  try {
    const url = new URL(text);
    return (
      /^https?:$/.test(url.protocol) &&
      url.hostname !== '' &&
      url.username === '' &&
      url.search === '' &&
      url.hash === ''
    );
  } catch {
    return false;
  }
}

/** What is about the connection, and what is not. */
export function splitConnection<T extends ConnectOptions>(
  options: T,
): { connect: ConnectOptions; request: Omit<T, keyof ConnectOptions> } {
  const { baseUrl, apiKey, token, userId, requestTimeout, maxRetries, reconnectTimeout, headers, fetch, ...request } =
    options;
  const connect = { baseUrl, apiKey, token, userId, requestTimeout, maxRetries, reconnectTimeout, headers, fetch };
  return { connect, request };
}
