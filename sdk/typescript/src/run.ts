/** Runs a command to its end: its output to callbacks, its input behind the request, its death with its caller's. */

import { ExecEndedError, ProtocolError, StdinClosedError } from './errors';
import type { ExecInfo } from './models';
import { Collector, type Start, start, type TextSink } from './output';
import type { CallOptions, Process } from './process';
import type { CommandResult } from './result';
import type { Transport } from './transport';

/** Longer input is written behind the request that starts its command. */
const MOST_INLINE_STDIN = 64 * 1024;

export interface RunOptions extends CallOptions {
  onStdout?: TextSink | undefined;
  onStderr?: TextSink | undefined;
}

/** Short text travels in the request itself; anything else is written behind it (`true` keeps stdin open). */
export function splitStdin(stdin: string | Uint8Array | undefined): {
  inline: string | true | undefined;
  behind: Uint8Array | undefined;
} {
  if (stdin === undefined) return { inline: undefined, behind: undefined };
  const raw = typeof stdin === 'string' ? new TextEncoder().encode(stdin) : stdin;
  if (typeof stdin === 'string' && raw.length <= MOST_INLINE_STDIN) return { inline: stdin, behind: undefined };
  return { inline: true, behind: raw };
}

/** Writes all of a command's input. It may close its stdin or end without reading everything, as `head` does. */
export async function feed(exec: Process, data: Uint8Array, options: CallOptions = {}): Promise<void> {
  try {
    await exec.sendStdin(data, { close: true, ...options });
  } catch (error) {
    if (!(error instanceof ExecEndedError || error instanceof StdinClosedError)) throw error;
  }
}

/**
 * Starts a command, follows it, and returns its result. A caller who gives up gets the signal's reason at once, and
 * the command is killed as soon as it is known to run.
 */
export function run(
  transport: Transport,
  request: Omit<Start, 'signal'>,
  processOf: (info: ExecInfo) => Promise<Process>,
  { signal, ...sinks }: RunOptions,
  behind?: Uint8Array,
): Promise<CommandResult> {
  if (!signal) return toTheEnd(transport, request, processOf, sinks, behind);
  if (signal.aborted) return Promise.reject(signal.reason);
  const following = new AbortController();
  let known: ExecInfo | undefined;
  const kill = (): void => {
    if (!known) return;
    following.abort();
    // The caller has gone: nobody is left to hear that it was too late, or that the server is away.
    processOf(known)
      .then(exec => exec.kill())
      .catch(() => undefined);
  };
  const started = (info: ExecInfo): void => {
    known = info;
    if (signal.aborted) kill();
  };
  return new Promise((resolve, reject) => {
    const giveUp = (): void => {
      reject(signal.reason);
      kill();
    };
    signal.addEventListener('abort', giveUp, { once: true });
    toTheEnd(transport, { ...request, signal: following.signal }, processOf, sinks, behind, started)
      .then(resolve, reject)
      .finally(() => signal.removeEventListener('abort', giveUp));
  });
}

async function toTheEnd(
  transport: Transport,
  request: Start,
  processOf: (info: ExecInfo) => Promise<Process>,
  sinks: RunOptions,
  behind: Uint8Array | undefined,
  started?: (info: ExecInfo) => void,
): Promise<CommandResult> {
  const collector = new Collector(sinks);
  for await (const event of start(transport, request)) {
    if (event.kind === 'output') await collector.take(event.chunk);
    else if (event.kind === 'ended') return collector.finish(event.info);
    else if (event.kind === 'started') {
      started?.(event.info);
      if (behind) await feed(await processOf(event.info), behind, { signal: request.signal });
    }
  }
  throw new ProtocolError('the output ended without a result');
}
