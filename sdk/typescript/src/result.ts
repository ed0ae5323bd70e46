/** What comes of commands: pieces of output, and results. */

import { CloudSandboxError, ProtocolError } from './errors';
import { type ExecResult, readExecResult } from './models';

/** Where output was written: a terminal's is one stream, `pty`. */
export type StreamName = 'stdout' | 'stderr' | 'pty';

/** Some output. */
export class OutputChunk {
  readonly stream: StreamName;
  readonly data: Uint8Array;
  /** The position after it: `output(chunk.seq)` goes on right behind. */
  readonly seq: number;

  constructor(stream: StreamName, data: Uint8Array, seq: number) {
    this.stream = stream;
    this.data = data;
    this.seq = seq;
  }

  /** The bytes as UTF-8; a character cut at the chunk's edge shows as U+FFFD. `lines()` does not cut. */
  get text(): string {
    return decodeText(this.data);
  }
}

interface Ending {
  readonly execId: string;
  readonly exitCode: number | null;
  readonly durationMs: number | null;
  readonly truncated: boolean | null;
  readonly killedBy: string | null;
  readonly signal: number | null;
  readonly result: unknown;
  readonly note: string | null;
}

/** How a command ended. One that fails is a result, not an error: look at `exitCode`, or call `check()`. */
export class CommandResult {
  readonly execId: string;
  readonly stdoutBytes: Uint8Array;
  readonly stderrBytes: Uint8Array;
  readonly exitCode: number;
  /** Wall-clock time, ms. */
  readonly durationMs: number;
  /** Whether output past the limit was dropped. */
  readonly truncated: boolean;
  /** `timeout`, `oom`, `pids`, `disk`, `signal` or `released`, when something other than itself ended it. */
  readonly killedBy: string | null;
  /** The signal that ended it. */
  readonly signal: number | null;
  /** What `handler` returned, when code in a session defines one. */
  readonly result: unknown;
  /** Something the caller should know, such as a session whose files were lost with its host. */
  readonly note: string | null;

  constructor(end: Ending, stdout: Uint8Array, stderr: Uint8Array) {
    if (end.exitCode === null) {
      throw new ProtocolError(`exec ${end.execId} is said to have ended but has no exit code`);
    }
    this.execId = end.execId;
    this.stdoutBytes = stdout;
    this.stderrBytes = stderr;
    this.exitCode = end.exitCode;
    this.durationMs = end.durationMs ?? 0;
    this.truncated = end.truncated ?? false;
    this.killedBy = end.killedBy;
    this.signal = end.signal;
    this.result = end.result;
    this.note = end.note;
  }

  /** Standard output (for a terminal: all output) as UTF-8; other bytes show as U+FFFD. */
  get stdout(): string {
    return decodeText(this.stdoutBytes);
  }

  /** Standard error as UTF-8; other bytes show as U+FFFD. */
  get stderr(): string {
    return decodeText(this.stderrBytes);
  }

  /** Whether it exited with 0. */
  get ok(): boolean {
    return this.exitCode === 0;
  }

  /** Itself; throws `CommandFailedError` unless the exit code is 0. */
  check(): this {
    if (!this.ok) throw new CommandFailedError(this);
    return this;
  }
}

/** Thrown by `CommandResult.check()`; `result` has everything. */
export class CommandFailedError extends CloudSandboxError {
  readonly result: CommandResult;

  constructor(result: CommandResult) {
    const why = result.killedBy ? ` (ended by ${result.killedBy})` : '';
    const tail = (result.stderr.trim() || result.stdout.trim()).slice(-2000);
    super(`command exited with ${result.exitCode}${why}${tail ? `\n${tail}` : ''}`);
    this.result = result;
  }
}

/** Reads an exec's result with its output. */
export function readCommandResult(data: unknown): CommandResult {
  const view: ExecResult = readExecResult(data);
  const raw = (text: string): Uint8Array => fromText(text, view.encoding);
  return new CommandResult(view, raw(view.stdout), raw(view.stderr));
}

/** The bytes of a text in JSON. */
export function fromText(text: string, encoding: string): Uint8Array {
  if (encoding === 'utf-8') return new TextEncoder().encode(text);
  if (encoding !== 'base64' || !/^[A-Za-z0-9+/]*={0,2}$/.test(text) || text.length % 4 !== 0) {
    throw new ProtocolError(`output cannot be read: it is not ${encoding}`);
  }
  return new Uint8Array(Buffer.from(text, 'base64'));
}

/** Without taking a byte order mark away: output is shown as it is. */
export function decodeText(bytes: Uint8Array): string {
  return new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);
}
