/** Reads server-sent events (HTML standard, 9.2) from bytes as they arrive. Knows nothing of HTTP. */

import { ProtocolError } from './errors';
import { type ExecInfo, readExecInfo, readOutputPiece } from './models';
import { fromText, OutputChunk } from './result';

export const MOST_EVENT_BYTES = 64 << 20;

/** One event as it was sent. */
export interface Event {
  readonly name: string;
  readonly data: string;
}

/** `feed` it bytes and get the events that are complete. What a broken connection cut off never becomes an event. */
export class Parser {
  readonly #most: number;
  /** The pieces of a line whose end has not come. */
  #rest: Uint8Array[] = [];
  #restSize = 0;
  #name = '';
  #data: string[] = [];
  #dataSize = 0;

  constructor(mostEventBytes = MOST_EVENT_BYTES) {
    this.#most = mostEventBytes;
  }

  *feed(piece: Uint8Array): Generator<Event> {
    let start = 0;
    for (let end = piece.indexOf(LF); end >= 0; end = piece.indexOf(LF, start)) {
      this.#rest.push(piece.subarray(start, end));
      start = end + 1;
      const event = this.#line(Buffer.concat(this.#rest));
      this.#rest = [];
      this.#restSize = 0;
      if (event) yield event;
    }
    if (start < piece.length) {
      // A copy: whoever sent it may use the buffer again.
      this.#rest.push(piece.slice(start));
      this.#restSize += piece.length - start;
    }
    if (this.#dataSize + this.#restSize > this.#most) {
      throw new ProtocolError(`an event of the output stream is larger than ${this.#most} bytes`);
    }
  }

  #line(raw: Buffer): Event | undefined {
    const line = raw.toString('utf8', 0, raw.at(-1) === CR ? raw.length - 1 : raw.length);
    if (line === '') {
      const event = this.#data.length ? { name: this.#name || 'message', data: this.#data.join('\n') } : undefined;
      this.#name = '';
      this.#data = [];
      this.#dataSize = 0;
      return event;
    }
    const colon = line.indexOf(':');
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(line[colon + 1] === ' ' ? colon + 2 : colon + 1);
    if (field === 'event') this.#name = value;
    else if (field === 'data') {
      this.#data.push(value);
      this.#dataSize += raw.length;
    }
    // Comments (`:` first) keep the connection alive; `id` repeats the data's `seq`.
    return undefined;
  }
}

const LF = 10;
const CR = 13;

/** What an event of an exec's stream means. */
export type Signal =
  | { readonly kind: 'output'; readonly chunk: OutputChunk }
  /** The exec runs; from here on its output can be attached to again. */
  | { readonly kind: 'started'; readonly info: ExecInfo }
  /** The exec has ended and all its output was delivered. */
  | { readonly kind: 'ended'; readonly info: ExecInfo }
  /** All output that was there is delivered, and the exec goes on. */
  | { readonly kind: 'running'; readonly info: ExecInfo }
  /** The stream ends with an error instead of a result; `body` has the API's error shape. */
  | { readonly kind: 'failed'; readonly body: unknown };

/** Undefined for events that this client does not know. */
export function decode(event: Event): Signal | undefined {
  switch (event.name) {
    case 'stdout':
    case 'stderr':
    case 'pty': {
      const { seq, data, encoding } = readOutputPiece(json(event));
      return { kind: 'output', chunk: new OutputChunk(event.name, fromText(data, encoding), seq) };
    }
    case 'start':
      return { kind: 'started', info: readExecInfo(json(event)) };
    case 'end':
      return { kind: 'ended', info: readExecInfo(json(event)) };
    case 'running':
      return { kind: 'running', info: readExecInfo(json(event)) };
    case 'error':
      return { kind: 'failed', body: json(event) };
    default:
      return undefined;
  }
}

function json(event: Event): unknown {
  try {
    return JSON.parse(event.data);
  } catch (cause) {
    throw new ProtocolError(`event \`${event.name}\` is not JSON`, cause);
  }
}

/** How far an exec's output was read: what to ask for after a lost connection, and what to skip when it overlaps. */
export class Progress {
  seq: number;

  constructor(seq = 0) {
    this.seq = seq;
  }

  /** The part of `chunk` that is new. A gap is an error: output would have been lost silently. */
  accept(chunk: OutputChunk): OutputChunk | undefined {
    const begin = chunk.seq - chunk.data.length;
    if (chunk.seq <= this.seq) return undefined;
    if (begin > this.seq) throw new ProtocolError(`output jumped from byte ${this.seq} to ${begin}`);
    const known = this.seq - begin;
    this.seq = chunk.seq;
    return known === 0 ? chunk : new OutputChunk(chunk.stream, chunk.data.subarray(known), chunk.seq);
  }
}
