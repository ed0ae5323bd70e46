/** Starts the real program for a test file, and ends it with everything it started. */

import { execFile, spawn } from 'node:child_process';
import { mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

/** Not this program's settings: what a developer's shell may hold must not reach the server under test. */
const FOREIGN = /^(CSB_|POOL_|JWT_|SANDBOX_|CLOUD_SANDBOX_)/;

/** The repository's folder of this package: the tests run from there. */
export const PACKAGE = process.cwd();

export interface Server {
  readonly url: string;
  readonly dataDir: string;
  /** `kill -9`, as the kernel does when memory is short; sandboxes live on. */
  kill(): Promise<void>;
  /** Starts it again, on the same port and data. */
  start(): Promise<void>;
  stop(): Promise<void>;
  /** The program itself, such as `csb key create`. */
  csb(...args: string[]): Promise<string>;
}

/** `csb serve` on a port and a data directory of its own. */
export async function serve({
  dev = true,
  ...settings
}: { dev?: boolean } & Record<string, unknown> = {}): Promise<Server> {
  const program = process.env.CSB_BIN;
  if (!program) throw new Error('CSB_BIN is not set: run scripts/test-typescript.sh, which builds the program');
  const dataDir = await mkdtemp(join(tmpdir(), 'csb-ts-'));
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  const kept = Object.fromEntries(Object.entries(process.env).filter(([name]) => !FOREIGN.test(name)));
  const secret = 'a secret that only this test knows, 32 bytes or more';
  const env = { ...kept, JWT_SECRET: secret, POOL_MIN_SIZE: '1', ...(settings as Record<string, string>) };
  const flags = ['serve', ...(dev ? ['--dev'] : []), '--listen', `127.0.0.1:${port}`, '--data-dir', dataDir];
  let exited: Promise<void> = Promise.resolve();
  let kill: (signal: NodeJS.Signals) => void = () => undefined;

  const start = async (): Promise<void> => {
    const log = await open(`${dataDir}.log`, 'a');
    const child = spawn(program, flags, { env, stdio: ['ignore', log.fd, log.fd] });
    await log.close();
    let gone = false;
    exited = new Promise(resolve => {
      child.once('exit', () => {
        gone = true;
        resolve();
      });
      child.once('error', () => resolve());
    });
    kill = signal => child.kill(signal);
    for (const deadline = Date.now() + 30_000; ; await sleep(20)) {
      const answer = await fetch(`${url}/health`).catch(() => undefined);
      if (answer?.ok) return;
      if (gone || Date.now() > deadline) {
        throw new Error(`the server did not start:\n${await readFile(`${dataDir}.log`, 'utf8')}`);
      }
    }
  };
  const csb = async (...args: string[]): Promise<string> =>
    (await promisify(execFile)(program, [...args, '--data-dir', dataDir], { env })).stdout;
  const server: Server = {
    url,
    dataDir,
    start,
    csb,
    kill: async () => {
      kill('SIGKILL');
      await exited;
    },
    stop: async () => {
      kill('SIGTERM');
      await exited;
      await csb('warden', 'stop');
      await rm(dataDir, { recursive: true });
      await rm(`${dataDir}.log`);
    },
  };
  await start().catch(async error => {
    await server.stop();
    throw error;
  });
  return server;
}

async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>(resolve => probe.listen(0, '127.0.0.1', resolve));
  const { port } = probe.address() as { port: number };
  await new Promise(resolve => probe.close(resolve));
  return port;
}
