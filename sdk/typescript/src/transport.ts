/** Sends requests: credentials, retries, errors as classes. Knows nothing of sandboxes. */

import { Answer } from './answer';
import { type Body, Outgoing } from './body';
import type { Config } from './config';
import {
  type CloudSandboxError,
  ConnectionFailedError,
  ConnectionLostError,
  ProtocolError,
  TimedOutError,
} from './errors';
import { delayBeforeRetry, type Outcome, outcomeOf, type Safety } from './retry';
import { VERSION } from './version';
import { sleep, Watchdog } from './watchdog';

export type Query = Readonly<Record<string, string | number | boolean | undefined>>;

export interface RequestOptions {
  /** Default: reads are repeatable, all else is sent once. A body that can be drawn from once is sent once. */
  safety?: Safety | undefined;
  query?: Query | undefined;
  json?: unknown;
  body?: Body | undefined;
  headers?: Readonly<Record<string, string>> | undefined;
  /** Seconds of silence that are borne; default: the client's `requestTimeout`. */
  timeout?: number | undefined;
  signal?: AbortSignal | undefined;
  /** Whether the request says who asks; default true. */
  authorize?: boolean | undefined;
}

/** What one holder of a transport has under way. */
export class Activity {
  /** Requests and followed outputs. */
  inFlight = 0;
  /** When one last began or ended, ms since 1970. */
  lastUsed = Date.now();

  begin(): void {
    this.inFlight += 1;
    this.lastUsed = Date.now();
  }

  end(): void {
    this.inFlight -= 1;
    this.lastUsed = Date.now();
  }
}

/** A token that was bought, shared by all that act as one user. */
class Wallet {
  token: Promise<string> | undefined;
}

/** Requests to one server, as one user. */
export class Transport {
  // Private: what prints a client must not print its key.
  readonly #config: Config;
  readonly #wallet: Wallet;
  readonly #activity: Activity | undefined;

  constructor(config: Config, wallet = new Wallet(), activity?: Activity) {
    this.#config = config;
    this.#wallet = wallet;
    this.#activity = activity;
  }

  /** The same server and user, with what is under way counted apart. */
  counted(activity: Activity): Transport {
    return new Transport(this.#config, this.#wallet, activity);
  }

  get baseUrl(): string {
    return this.#config.baseUrl;
  }

  get requestTimeout(): number {
    return this.#config.requestTimeout;
  }

  get maxRetries(): number {
    return this.#config.maxRetries;
  }

  get reconnectTimeout(): number {
    return this.#config.reconnectTimeout;
  }

  /** Sends a request and reads the whole answer. */
  async request(method: string, path: string, options: RequestOptions = {}): Promise<Uint8Array> {
    return (await this.stream(method, path, options)).bytes();
  }

  /** `request`, with the answer as JSON. */
  async json(method: string, path: string, options: RequestOptions = {}): Promise<unknown> {
    const raw = await this.request(method, path, options);
    try {
      return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(raw));
    } catch (cause) {
      throw new ProtocolError(`${method} ${path}: the answer is not JSON`, cause);
    }
  }

  /** Sends a request and hands out the answer as soon as its headers are there. Read it to its end, or close it. */
  async stream(method: string, path: string, options: RequestOptions = {}): Promise<Answer> {
    this.#activity?.begin();
    try {
      const answer = await this.#send(method, path, options);
      answer.onEnd(() => this.#activity?.end());
      return answer;
    } catch (error) {
      this.#activity?.end();
      throw error;
    }
  }

  async #send(method: string, path: string, options: RequestOptions): Promise<Answer> {
    const body = new Outgoing(options.json === undefined ? options.body : encode(options.json));
    try {
      return await this.#sendBody(method, path, options, body);
    } finally {
      await body.close();
    }
  }

  async #sendBody(method: string, path: string, options: RequestOptions, body: Outgoing): Promise<Answer> {
    const safety = body.once ? 'once' : (options.safety ?? (method === 'GET' ? 'repeatable' : 'once'));
    let renewed = false;
    for (let attempt = 0; ; attempt += 1) {
      const credential = options.authorize === false ? {} : await this.#credential(options.signal);
      const tried = await this.#try(method, path, options, body, credential);
      if (tried instanceof Answer) return tried;
      const { failure, outcome } = tried;
      if (failure.status === 401 && credential.authorization && !renewed && this.#mayRenew && !body.once) {
        // Refused before anything was done: a new token and the same request again.
        renewed = true;
        attempt -= 1;
        await this.#forget(credential);
        continue;
      }
      const delay =
        outcome !== undefined && (outcome === 'not_sent' ? body.replayable : !body.once)
          ? delayBeforeRetry(outcome, safety, attempt, this.maxRetries, failure.retryAfter)
          : undefined;
      if (delay === undefined) throw failure;
      await sleep(delay, options.signal);
    }
  }

  async #try(
    method: string,
    path: string,
    options: RequestOptions,
    body: Outgoing,
    credential: Readonly<Record<string, string>>,
  ): Promise<Answer | { failure: CloudSandboxError; outcome: Outcome | undefined }> {
    const what = `${method} ${path}`;
    const { signal } = options;
    const watchdog = new Watchdog(options.timeout ?? this.requestTimeout, signal);
    let response: Response;
    try {
      watchdog.arm();
      response = await this.#config.fetch(this.baseUrl + path + queryText(options.query), {
        method,
        headers: {
          'user-agent': `cloud-sandbox-typescript/${VERSION}`,
          ...(options.json === undefined ? {} : { 'content-type': 'application/json' }),
          ...this.#config.headers,
          ...credential,
          ...options.headers,
        },
        body: body.open(
          () => watchdog.disarm(),
          () => watchdog.arm(),
        ) as never,
        duplex: 'half',
        // A credential goes nowhere but to the server that it was given for.
        redirect: 'manual',
        signal: watchdog.signal,
      });
      watchdog.disarm();
    } catch (error) {
      watchdog.end(true);
      if (signal?.aborted) throw signal.reason;
      if (watchdog.fired) {
        return { failure: new TimedOutError(`${what}: no answer in time`, error), outcome: 'unknown' };
      }
      const cause = causeOf(error);
      if (neverConnected(cause)) {
        const failure = new ConnectionFailedError(`cannot reach ${this.baseUrl}: ${reason(cause)}`, cause);
        return { failure, outcome: 'not_sent' };
      }
      // Not of the network: an error of the body's source, or a request that cannot be made.
      if (!(error instanceof TypeError) || cause === error) throw error;
      const failure = new ConnectionLostError(`${what}: the connection broke: ${reason(cause)}`, { cause });
      return { failure, outcome: 'unknown' };
    }
    const answer = new Answer(what, response, watchdog, signal);
    if (response.status < 300) return answer;
    if (response.status < 400) {
      answer.close();
      throw new ProtocolError(`${what}: redirected to ${response.headers.get('location')}`);
    }
    const failure = await answer.error();
    return { failure, outcome: outcomeOf(response.status, failure.retryAfter) };
  }

  // -- credentials --------------------------------------------------------------------------------------------

  get #mayRenew(): boolean {
    return this.#config.token === undefined && this.#wallet.token !== undefined;
  }

  /** An API key is sent as it is, unless its (admin) owner acts for another user; then it buys a token. */
  async #credential(signal: AbortSignal | undefined): Promise<Readonly<Record<string, string>>> {
    const { apiKey, userId, token } = this.#config;
    if (apiKey && !userId) return { 'x-api-key': apiKey };
    if (token) return { authorization: `Bearer ${token}` };
    // Bought once for all who wait for it; one caller who gives up does not give up for the others.
    this.#wallet.token ??= this.#buy();
    const bought = this.#wallet.token;
    try {
      return { authorization: `Bearer ${await unless(signal, bought)}` };
    } catch (error) {
      if (!signal?.aborted && this.#wallet.token === bought) this.#wallet.token = undefined;
      throw error;
    }
  }

  async #buy(): Promise<string> {
    const { apiKey, userId } = this.#config;
    const data = await this.json('POST', '/api/v1/auth/token', {
      safety: 'repeatable',
      json: userId ? { user_id: userId } : {},
      headers: apiKey ? { 'x-api-key': apiKey } : {},
      authorize: false,
    }).catch(error => {
      throw error instanceof ProtocolError ? this.#noServer(error) : error;
    });
    const token = (data as { access_token?: unknown } | null)?.access_token;
    if (typeof token !== 'string') throw this.#noServer();
    return token;
  }

  #noServer(cause?: unknown): ProtocolError {
    return new ProtocolError(`${this.baseUrl} gave no token: is it a Cloud Sandbox server?`, cause);
  }

  async #forget(used: Readonly<Record<string, string>>): Promise<void> {
    const current = this.#wallet.token;
    if (current && `Bearer ${await current.catch(() => '')}` === used.authorization && this.#wallet.token === current) {
      this.#wallet.token = undefined;
    }
  }
}

function encode(value: unknown): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(value));
}

function queryText(query: Query | undefined): string {
  const text = new URLSearchParams();
  for (const [key, value] of Object.entries(query ?? {})) {
    if (value !== undefined) text.append(key, String(value));
  }
  return text.size > 0 ? `?${text}` : '';
}

function causeOf(error: unknown): unknown {
  return error instanceof Error && error.cause !== undefined ? error.cause : error;
}

/** Whether the error is of making a connection: then the server has not seen the request. */
function neverConnected(cause: unknown): boolean {
  const { code, syscall } = (cause ?? {}) as { code?: string; syscall?: string };
  if (syscall === 'connect' || syscall === 'getaddrinfo') return true;
  // A port that `fetch` refuses to talk to, such as those of mail.
  if (cause instanceof Error && cause.message === 'bad port') return true;
  return (
    code !== undefined &&
    (code === 'ECONNREFUSED' || code === 'UND_ERR_CONNECT_TIMEOUT' || /^ERR_TLS|CERT|SELF_SIGNED|SIGNATURE/.test(code))
  );
}

function reason(cause: unknown): string {
  if (!(cause instanceof Error)) return String(cause);
  // Several addresses were tried: Node has the reasons inside and an empty message.
  const inner = cause instanceof AggregateError ? cause.errors.map(reason).join(', ') : '';
  return cause.message || inner || (cause as { code?: string }).code || cause.name;
}

/** The promise, unless its caller gives up first. */
function unless<T>(signal: AbortSignal | undefined, promise: Promise<T>): Promise<T> {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const giveUp = (): void => reject(signal.reason);
    if (signal.aborted) giveUp();
    signal.addEventListener('abort', giveUp, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', giveUp));
  });
}
