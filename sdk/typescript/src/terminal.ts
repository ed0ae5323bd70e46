/**
 * An attached exec: keystrokes in, output out. Output is the exec's event stream, which survives lost connections;
 * what is typed goes in requests of its own, one after the other (docs/decisions has the reason).
 */

import { TimedOutError } from './errors';
import type { Signal } from './models';
import type { Process } from './process';
import type { OutputChunk } from './result';

/** What is typed while a request is under way, for the next one. */
interface Batch {
  readonly pieces: Uint8Array[];
  readonly sent: Promise<void>;
}

/** Closing it detaches; the exec goes on. */
export class Terminal implements AsyncIterable<OutputChunk>, AsyncDisposable {
  readonly process: Process;
  readonly #end = new AbortController();
  readonly #chunks: AsyncGenerator<OutputChunk>;
  /** A read that `recv` gave up waiting for: the next one takes it over. */
  #pending: Promise<IteratorResult<OutputChunk>> | undefined;
  #tail: Promise<void> = Promise.resolve();
  #batch: Batch | undefined;
  /** How far output was read; `process.attach(terminal.seq)` goes on from here. */
  seq: number;

  constructor(process: Process, from: number) {
    this.process = process;
    this.seq = from;
    this.#chunks = process.output(from, { signal: this.#end.signal });
  }

  /** How its exec ended; null while it runs. */
  get exitCode(): number | null {
    return this.process.info.exitCode;
  }

  /** Detaches. */
  async close(): Promise<void> {
    this.#end.abort();
    await this.#pending?.catch(() => undefined);
    await this.#chunks.return(undefined);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  // -- output -------------------------------------------------------------------------------------------------

  /**
   * The next output, or undefined when the exec has ended and all was read.
   * `TimedOutError` after `timeout` seconds loses nothing.
   */
  async recv({ timeout }: { timeout?: number | undefined } = {}): Promise<OutputChunk | undefined> {
    this.#pending ??= this.#chunks.next();
    const { done, value } = await within(timeout, this.#pending);
    this.#pending = undefined;
    if (done) return undefined;
    this.seq = value.seq;
    return value;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<OutputChunk> {
    for (let chunk = await this.recv(); chunk; chunk = await this.recv()) yield chunk;
  }

  // -- input --------------------------------------------------------------------------------------------------

  /** Types. Resolves when the exec's terminal has it; what is typed meanwhile goes together, in order. */
  send(data: string | Uint8Array): Promise<void> {
    const raw = typeof data === 'string' ? new TextEncoder().encode(data) : data.slice();
    if (this.#batch) {
      this.#batch.pieces.push(raw);
      return this.#batch.sent;
    }
    const pieces = [raw];
    const sent = this.#next(() => {
      this.#batch = undefined;
      return this.process.sendStdin(Buffer.concat(pieces));
    });
    this.#batch = { pieces, sent };
    return sent;
  }

  /** Changes the terminal's size. */
  resize(cols: number, rows: number): Promise<void> {
    return this.#next(() => this.process.resize(cols, rows));
  }

  /** Sends a signal to the exec's process. */
  signal(signal: Signal): Promise<void> {
    return this.#next(() => this.process.signal(signal));
  }

  /** Ends its stdin. */
  closeStdin(): Promise<void> {
    return this.#next(() => this.process.closeStdin());
  }

  /** After all that was asked for before, whether that went well or not: each caller hears of their own. */
  #next(call: () => Promise<void>): Promise<void> {
    this.#batch = undefined;
    const done = this.#tail.then(call);
    this.#tail = done.catch(() => undefined);
    return done;
  }
}

async function within<T>(seconds: number | undefined, promise: Promise<T>): Promise<T> {
  if (seconds === undefined) return promise;
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new TimedOutError(`no output within ${seconds} s`)), seconds * 1000);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}
