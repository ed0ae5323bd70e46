/**
 * Follows the output of an exec over lost connections: no byte twice, none left out.
 * Knows the transport and the stream's events; nothing of sandboxes.
 */

import { randomUUID } from 'node:crypto';
import { TextDecoder } from 'node:util';
import type { Answer } from './answer';
import { errorFrom } from './error-codes';
import { ConnectionFailedError, ConnectionLostError, ProtocolError, ServerError, TimedOutError } from './errors';
import type { ExecInfo } from './models';
import { CommandResult, type OutputChunk, type StreamName } from './result';
import { backoff } from './retry';
import { decode, Parser, Progress, type Signal } from './sse';
import type { RequestOptions, Transport } from './transport';
import { sleep } from './watchdog';

const EVENT_STREAM = { accept: 'text/event-stream' };
/** Servers send a comment every few seconds; a stream that is silent for so many is dead, and is attached to again. */
const SILENCE = 60;

/** Takes output as it comes; a promise that it returns is waited for. */
export type TextSink = (text: string) => unknown;

/** A header of one request, however often it is sent: the server does it once. */
export function once(key: string = randomUUID()): { 'idempotency-key': string } {
  return { 'idempotency-key': key };
}

/** Options of a request that asks for an exec's events. */
function eventOptions(signal: AbortSignal | undefined): RequestOptions {
  return { safety: 'repeatable', headers: EVENT_STREAM, timeout: SILENCE, signal };
}

/** A start that is to be followed: what is sent where, and where the exec is then found. */
export interface Start {
  readonly path: string;
  readonly body: Readonly<Record<string, unknown>>;
  /** Asked when its output has to be attached to again. */
  readonly findOutput: (execId: string) => Promise<string>;
  readonly signal?: AbortSignal | undefined;
}

/** Starts an exec and yields that it started, its output, its end. Sent again, a start finds what it started before. */
export async function* start(transport: Transport, { path, body, findOutput, signal }: Start): AsyncGenerator<Signal> {
  const options = eventOptions(signal);
  const headers = { ...options.headers, ...once() };
  const progress = new Progress();
  let started: ExecInfo | undefined;
  for (let attempt = 0; ; attempt += 1) {
    let why: unknown = new ProtocolError('the answer ended before the id of the exec came');
    const answer = await transport.stream('POST', path, { ...options, json: body, headers });
    try {
      for await (const event of signals(answer)) {
        if (event.kind === 'started') started = event.info;
        if (event.kind !== 'output') {
          yield event;
          if (event.kind === 'ended') return;
          continue;
        }
        const chunk = progress.accept(event.chunk);
        if (chunk) yield { kind: 'output', chunk };
      }
    } catch (error) {
      if (!isBroken(error)) throw error;
      why = error;
    }
    if (started !== undefined) break;
    if (attempt >= transport.maxRetries) throw new ConnectionLostError(`POST ${path}: ${text(why)}`, { cause: why });
    await sleep(backoff(attempt), signal);
  }
  yield* follow(transport, await findOutput(started.execId), started.execId, progress, { signal });
}

/**
 * Attaches to an exec's output behind `progress` and stays to the end, over as many connections as it takes.
 * With `toTheEnd: false`, to what is there now.
 */
export async function* follow(
  transport: Transport,
  path: string,
  execId: string,
  progress: Progress,
  { toTheEnd = true, signal }: { toTheEnd?: boolean; signal?: AbortSignal | undefined } = {},
): AsyncGenerator<Signal> {
  let lastSuccess = performance.now();
  for (let attempt = 0; ; attempt += 1) {
    let why: unknown = new ProtocolError('the stream ended before the exec did');
    try {
      const query = { from: progress.seq, follow: toTheEnd };
      const answer = await transport.stream('GET', path, { ...eventOptions(signal), query });
      for await (const event of signals(answer)) {
        attempt = 0;
        lastSuccess = performance.now();
        if (event.kind === 'output') {
          const chunk = progress.accept(event.chunk);
          if (chunk) yield { kind: 'output', chunk };
        } else if (event.kind !== 'started') {
          yield event;
          return;
        }
      }
    } catch (error) {
      if (!isBroken(error)) throw error;
      why = error;
    }
    if (performance.now() - lastSuccess > transport.reconnectTimeout * 1000) {
      const message = `the output of ${execId} could not be reached again: ${text(why)}`;
      throw new ConnectionLostError(message, { execId, seq: progress.seq, cause: why });
    }
    await sleep(backoff(attempt), signal);
  }
}

/** The events of an answer. The last one comes when all was read: such a connection is used again. */
async function* signals(answer: Answer): AsyncGenerator<Signal> {
  const kind = answer.headers.get('content-type') ?? '';
  if (!kind.startsWith('text/event-stream')) {
    answer.close();
    throw new ProtocolError(`expected an event stream, got \`${kind}\``);
  }
  const parser = new Parser();
  let last: Signal | undefined;
  try {
    for await (const piece of answer) {
      for (const event of parser.feed(piece)) {
        const signal = decode(event);
        if (signal?.kind === 'failed') {
          const code = (signal.body as { error?: { code?: unknown } } | null)?.error?.code;
          throw errorFrom(code === 'sandbox_gone' ? 410 : 500, signal.body, answer.headers);
        }
        if (signal?.kind === 'ended' || signal?.kind === 'running') last = signal;
        else if (signal) yield signal;
      }
    }
  } catch (error) {
    // Nothing that matters comes behind the last event.
    if (!last) throw error;
  }
  if (last) yield last;
}

/** Whether a connection broke or a gateway spoke, so that the stream may be had again. */
function isBroken(error: unknown): boolean {
  return (
    error instanceof ConnectionFailedError ||
    error instanceof ConnectionLostError ||
    error instanceof TimedOutError ||
    (error instanceof ServerError && [502, 503, 504].includes(error.status ?? 0))
  );
}

function text(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Gathers an exec's output and hands it to callbacks as text, without cutting characters. */
export class Collector {
  readonly #sinks: Record<StreamName, TextSink | undefined>;
  readonly #pieces: Record<StreamName, Uint8Array[]> = { stdout: [], stderr: [], pty: [] };
  readonly #decoders: Record<StreamName, TextDecoder>;

  constructor(sinks: { onStdout?: TextSink | undefined; onStderr?: TextSink | undefined }) {
    this.#sinks = { stdout: sinks.onStdout, stderr: sinks.onStderr, pty: sinks.onStdout };
    const decoder = (): TextDecoder => new TextDecoder('utf-8', { ignoreBOM: true });
    this.#decoders = { stdout: decoder(), stderr: decoder(), pty: decoder() };
  }

  /** Keeps a chunk and shows it. */
  async take({ stream, data }: OutputChunk): Promise<void> {
    this.#pieces[stream].push(data);
    const shown = this.#decoders[stream].decode(data, { stream: true });
    if (shown) await this.#sinks[stream]?.(shown);
  }

  /** The result, once the exec has ended. */
  async finish(info: ExecInfo): Promise<CommandResult> {
    for (const stream of ['stdout', 'stderr', 'pty'] as const) {
      const shown = this.#decoders[stream].decode();
      if (shown) await this.#sinks[stream]?.(shown);
    }
    const { stdout, stderr, pty } = this.#pieces;
    return new CommandResult(info, join(pty.length ? pty : stdout), join(stderr));
  }
}

/** Plain bytes: a `Buffer` from Node's pool would carry its neighbours along. */
function join(pieces: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(pieces.reduce((size, piece) => size + piece.length, 0));
  let at = 0;
  for (const piece of pieces) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
