/** An answer whose headers are there: its bytes as they come. Knows nothing of what they mean. */

import { errorFrom } from './error-codes';
import { type CloudSandboxError, ConnectionLostError, TimedOutError } from './errors';
import type { Watchdog } from './watchdog';

const MOST_ERROR_BYTES = 1 << 20;

export class Answer implements AsyncIterable<Uint8Array> {
  readonly headers: Headers;
  readonly #what: string;
  readonly #response: Response;
  readonly #watchdog: Watchdog;
  readonly #signal: AbortSignal | undefined;
  #onEnd: (() => void) | undefined;
  #ended = false;

  constructor(what: string, response: Response, watchdog: Watchdog, signal: AbortSignal | undefined) {
    this.headers = response.headers;
    this.#what = what;
    this.#response = response;
    this.#watchdog = watchdog;
    this.#signal = signal;
  }

  /** Called once, when all was read or the answer was closed. */
  onEnd(call: () => void): void {
    this.#onEnd = call;
  }

  /** The bytes, once; who stops early closes the connection. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    const reader = this.#response.body?.getReader();
    try {
      while (reader) {
        this.#watchdog.arm();
        const { done, value } = await reader.read().catch(error => {
          throw this.#broken(error);
        });
        this.#watchdog.disarm();
        if (done) break;
        yield value;
      }
      this.#end(false);
    } finally {
      this.#end(true);
    }
  }

  /** All of it. */
  async bytes(): Promise<Uint8Array> {
    const pieces: Uint8Array[] = [];
    for await (const piece of this) pieces.push(piece);
    const [only] = pieces;
    return pieces.length === 1 && only ? only : Buffer.concat(pieces);
  }

  /** The error that a refusing answer names. */
  async error(): Promise<CloudSandboxError> {
    const pieces: Uint8Array[] = [];
    let size = 0;
    let body: unknown;
    try {
      for await (const piece of this) {
        pieces.push(piece);
        size += piece.length;
        if (size > MOST_ERROR_BYTES) break;
      }
      body = JSON.parse(Buffer.concat(pieces).toString());
    } catch {
      // Not JSON, or cut off: the status alone says what failed.
      if (this.#signal?.aborted) throw this.#signal.reason;
    }
    return errorFrom(this.#response.status, body, this.headers);
  }

  /** Lets go of it; what was not read is not wanted. */
  close(): void {
    this.#end(true);
  }

  /** A connection whose answer was read to its end is used again; any other is closed. */
  #end(abort: boolean): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#watchdog.end(abort);
    this.#onEnd?.();
  }

  #broken(cause: unknown): unknown {
    if (this.#signal?.aborted) return this.#signal.reason;
    if (this.#watchdog.fired) return new TimedOutError(`${this.#what}: the answer came to a halt`, cause);
    const inner = cause instanceof Error && cause.cause instanceof Error ? cause.cause : cause;
    const why = inner instanceof Error ? inner.message : String(inner);
    return new ConnectionLostError(`${this.#what}: the connection broke: ${why}`, { cause: inner });
  }
}
