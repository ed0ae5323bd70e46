/** A command that runs in a sandbox while the caller does something else. */

import { TextDecoder } from 'node:util';
import { ExecRunningError, TimedOutError } from './errors';
import { wire } from './fields';
import { type ExecInfo, readExecInfo, type Signal, signalRequest } from './models';
import { Collector, follow, type TextSink } from './output';
import { type CommandResult, type OutputChunk, readCommandResult } from './result';
import { Progress } from './sse';
import { Terminal } from './terminal';
import type { Transport } from './transport';

/** One long poll of `wait`, seconds; short enough for any proxy's patience. */
const POLL = 20;
/** Input goes in such pieces. */
const STDIN_PIECE = 256 * 1024;

/** Ends a wait with the signal's reason. */
export interface CallOptions {
  signal?: AbortSignal | undefined;
}

/** An exec. It belongs to the sandbox: losing this object, or the connection, does not end it. */
export class Process implements AsyncIterable<OutputChunk> {
  readonly sandboxId: string;
  readonly #transport: Transport;
  readonly #path: string;
  /** What was last known of it; `poll()` asks again. */
  info: ExecInfo;

  constructor(transport: Transport, sandboxId: string, info: ExecInfo) {
    this.#transport = transport;
    this.#path = execPath(sandboxId, info.execId);
    this.sandboxId = sandboxId;
    this.info = info;
  }

  /** Its id; `sandbox.process(execId)` finds it again, from any client. */
  get execId(): string {
    return this.info.execId;
  }

  /** Its process id inside the sandbox. */
  get pid(): number {
    return this.info.pid;
  }

  /** Whether its process was alive when last asked. */
  get running(): boolean {
    return this.info.state === 'running';
  }

  /** Asks how it is. */
  async poll({ signal }: CallOptions = {}): Promise<ExecInfo> {
    this.info = readExecInfo(await this.#transport.json('GET', this.#path, { signal }));
    return this.info;
  }

  /** Waits for its end and returns all its output. `TimedOutError` after `timeout` seconds leaves it running. */
  async wait({ timeout, signal }: { timeout?: number | undefined } & CallOptions = {}): Promise<CommandResult> {
    const deadline = timeout === undefined ? Number.POSITIVE_INFINITY : performance.now() + timeout * 1000;
    for (;;) {
      const wait = Math.min(POLL, Math.max(0, (deadline - performance.now()) / 1000));
      try {
        const data = await this.#transport.json('GET', `${this.#path}/result`, {
          query: { wait: wait.toFixed(3) },
          timeout: wait + this.#transport.requestTimeout,
          signal,
        });
        const result = readCommandResult(data);
        await this.poll({ signal });
        return result;
      } catch (error) {
        if (!(error instanceof ExecRunningError)) throw error;
        if (performance.now() >= deadline) {
          throw new TimedOutError(`${this.execId} is still running after ${timeout} s`);
        }
      }
    }
  }

  // -- output -------------------------------------------------------------------------------------------------

  /** All output, from the beginning, as it comes. */
  [Symbol.asyncIterator](): AsyncGenerator<OutputChunk> {
    return this.output();
  }

  /**
   * All output behind the position `from`, as it comes, until the end; over lost connections too.
   * With `follow: false`, what is there now.
   */
  async *output(
    from = 0,
    { follow: toTheEnd = true, signal }: { follow?: boolean | undefined } & CallOptions = {},
  ): AsyncGenerator<OutputChunk> {
    const path = `${this.#path}/output`;
    for await (const event of follow(this.#transport, path, this.execId, new Progress(from), { toTheEnd, signal })) {
      if (event.kind === 'output') yield event.chunk;
      else if (event.kind === 'ended' || event.kind === 'running') this.info = event.info;
    }
  }

  /** Standard output (a terminal's output, if it has one) as it comes. */
  async *stdout(options: CallOptions = {}): AsyncGenerator<Uint8Array> {
    for await (const chunk of this.output(0, options)) if (chunk.stream !== 'stderr') yield chunk.data;
  }

  /** Standard error as it comes. */
  async *stderr(options: CallOptions = {}): AsyncGenerator<Uint8Array> {
    for await (const chunk of this.output(0, options)) if (chunk.stream === 'stderr') yield chunk.data;
  }

  /** Lines of standard output as they are completed, without their line ends. */
  async *lines(options: CallOptions = {}): AsyncGenerator<string> {
    const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
    let rest = '';
    for await (const data of this.stdout(options)) {
      const lines = (rest + decoder.decode(data, { stream: true })).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) yield line.endsWith('\r') ? line.slice(0, -1) : line;
    }
    rest += decoder.decode();
    if (rest) yield rest;
  }

  /** Hands all output, from the beginning, to callbacks as it comes, and returns the result. */
  async stream(
    options: { onStdout?: TextSink | undefined; onStderr?: TextSink | undefined } & CallOptions = {},
  ): Promise<CommandResult> {
    const collector = new Collector(options);
    for await (const chunk of this.output(0, { signal: options.signal })) await collector.take(chunk);
    return collector.finish(this.info);
  }

  // -- input --------------------------------------------------------------------------------------------------

  /** Writes to its stdin, which must have been kept open (`start(…, { stdin: true })`), or to its terminal. */
  async sendStdin(
    data: string | Uint8Array,
    { close = false, signal }: { close?: boolean | undefined } & CallOptions = {},
  ): Promise<void> {
    const raw = typeof data === 'string' ? new TextEncoder().encode(data) : data;
    for (let at = 0; at === 0 || at < raw.length; at += STDIN_PIECE) {
      await this.#transport.request('POST', `${this.#path}/stdin`, {
        safety: 'once',
        query: { close: close && at + STDIN_PIECE >= raw.length },
        body: raw.subarray(at, at + STDIN_PIECE),
        headers: { 'content-type': 'application/octet-stream' },
        signal,
      });
    }
  }

  /** Ends its stdin: it reads end of file. */
  async closeStdin(options: CallOptions = {}): Promise<void> {
    await this.sendStdin('', { close: true, ...options });
  }

  /** Sends a signal (`'TERM'`, `15`) to its process, or with `tree` to everything it started. */
  async signal(signal: Signal, { tree, ...options }: { tree?: boolean | undefined } & CallOptions = {}): Promise<void> {
    const json = wire({ signal, tree }, signalRequest);
    await this.#transport.request('POST', `${this.#path}/signal`, { safety: 'once', json, ...options });
  }

  /** Kills it and everything it started. */
  async kill(options: CallOptions = {}): Promise<void> {
    await this.signal('KILL', { tree: true, ...options });
  }

  /** Changes the size of its terminal. */
  async resize(cols: number, rows: number, options: CallOptions = {}): Promise<void> {
    const json = { cols, rows };
    await this.#transport.request('POST', `${this.#path}/resize`, { safety: 'repeatable', json, ...options });
  }

  /** A two-way connection for interactive use: output behind the position `from`, keystrokes, sizes. */
  async attach(from = 0, options: CallOptions = {}): Promise<Terminal> {
    await this.poll(options);
    return new Terminal(this, from);
  }
}

/** Where an exec is. */
export function execPath(sandboxId: string, execId: string): string {
  return `/api/v1/sandboxes/${encodeURIComponent(sandboxId)}/execs/${encodeURIComponent(execId)}`;
}
