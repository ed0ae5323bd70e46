/** A session: what a user keeps, with a sandbox bound to it. */

import { Client } from './client';
import { splitConnection } from './config';
import { ConflictError, SessionNotFoundError } from './errors';
import { wire } from './fields';
import {
  type ExecInfo,
  readSessionInfo,
  type SessionExecuteRequest,
  type SessionInfo,
  type SessionRequest,
  sessionExecuteRequest,
} from './models';
import { type CallOptions, execPath, Process } from './process';
import { type CommandResult, readCommandResult } from './result';
import { type RunOptions, run } from './run';
import { type Connection, Sandbox } from './sandbox';

/** What a session is made of, and where. `timeout` is its lifetime in seconds. */
export type SessionOptions = SessionRequest & Connection & CallOptions & { idempotencyKey?: string | undefined };

/** How code is run in a session. `signal` kills it; `timeout` is in seconds and kills it and all that it started. */
export type ExecuteOptions = Omit<SessionExecuteRequest, 'code' | 'stream' | 'stdin'> &
  RunOptions & { stdin?: string | undefined };

/** With `await using`, one that was made by `create` is ended; one found by `connect` is kept. */
export class Session implements AsyncDisposable {
  readonly #client: Client;
  readonly #path: string;
  #delete: boolean;
  /** What was last known of it; `refresh()` asks again. */
  info: SessionInfo;

  constructor(client: Client, info: SessionInfo, { release = false }: { release?: boolean } = {}) {
    this.#client = client;
    this.#path = `/api/v1/sessions/${encodeURIComponent(info.sessionId)}`;
    this.#delete = release;
    this.info = info;
  }

  /** Its id; `Session.connect(sessionId)` finds it again. */
  get sessionId(): string {
    return this.info.sessionId;
  }

  /** Makes a session. */
  static async create(options: SessionOptions = {}): Promise<Session> {
    const { client, idempotencyKey, signal, ...rest } = options;
    const { connect, request } = splitConnection(rest);
    const owner = client ?? new Client(connect);
    return new Session(owner, await owner.createSession(request, { idempotencyKey, signal }), { release: true });
  }

  /** Finds a session that exists. */
  static async connect(sessionId: string, options: Connection & CallOptions = {}): Promise<Session> {
    const { client, signal, ...connect } = options;
    const owner = client ?? new Client(connect);
    return new Session(owner, await owner.getSession(sessionId, { signal }));
  }

  /** All sessions of the user. */
  static async list(options: Connection & CallOptions = {}): Promise<SessionInfo[]> {
    const { client, signal, ...connect } = options;
    const found: SessionInfo[] = [];
    for await (const info of (client ?? new Client(connect)).iterSessions({ signal })) found.push(info);
    return found;
  }

  /** Ends the session and its sandbox. One that is gone already counts as ended. */
  async delete({ signal }: CallOptions = {}): Promise<void> {
    try {
      await this.#client.transport.request('DELETE', this.#path, { safety: 'repeatable', signal });
    } catch (error) {
      if (!(error instanceof SessionNotFoundError)) throw error;
    }
    this.#delete = false;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#delete) await this.delete();
  }

  /** Asks how it is. */
  async refresh(options: CallOptions = {}): Promise<SessionInfo> {
    this.info = await this.#client.getSession(this.sessionId, options);
    return this.info;
  }

  /** Freezes its work. */
  async pause({ signal }: CallOptions = {}): Promise<SessionInfo> {
    this.info = readSessionInfo(await this.#client.transport.json('POST', `${this.#path}/pause`, { signal }));
    return this.info;
  }

  /** Goes on with its work. */
  async resume({ signal }: CallOptions = {}): Promise<SessionInfo> {
    this.info = readSessionInfo(await this.#client.transport.json('POST', `${this.#path}/resume`, { signal }));
    return this.info;
  }

  /** The sandbox bound to it, for files and commands. */
  async sandbox(options: CallOptions = {}): Promise<Sandbox> {
    return Sandbox.connect(await this.#where(options), { client: this.#client, ...options });
  }

  /**
   * Runs source code and returns its result. Python or JavaScript that defines a top-level `handler` has it called
   * with `event`; what it returns is in `result`.
   */
  async execute(code: string, options: ExecuteOptions = {}): Promise<CommandResult> {
    const { onStdout, onStderr, signal, ...rest } = options;
    const { transport } = this.#client;
    let attachedAgain = false;
    const request = {
      path: `${this.#path}/execute`,
      body: wire({ language: 'python', ...rest, code, stream: true }, sessionExecuteRequest),
      findOutput: async (execId: string): Promise<string> => {
        attachedAgain = true;
        return `${execPath(await this.#where(), execId)}/output`;
      },
    };
    const processOf = async (info: ExecInfo): Promise<Process> => new Process(transport, await this.#where(), info);
    const result = await run(transport, request, processOf, { onStdout, onStderr, signal });
    // What a handler returned comes with the first stream's end, and is no part of the output.
    return attachedAgain ? this.result(result.execId, { signal }) : result;
  }

  /** The result of an earlier `execute`. */
  async result(execId: string, { signal }: CallOptions = {}): Promise<CommandResult> {
    const path = `${this.#path}/executions/${encodeURIComponent(execId)}`;
    return readCommandResult(await this.#client.transport.json('GET', path, { signal }));
  }

  async #where(options: CallOptions = {}): Promise<string> {
    const { sandboxId, state } = await this.refresh(options);
    if (sandboxId === null) {
      throw new ConflictError(`session ${this.sessionId} has no sandbox: its state is \`${state}\``);
    }
    return sandboxId;
  }
}
