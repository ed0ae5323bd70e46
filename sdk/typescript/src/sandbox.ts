/** A sandbox: what runs in it, what it may use, how it ends. */

import { Client } from './client';
import { type ConnectOptions, splitConnection } from './config';
import { SandboxGoneError, SandboxNotFoundError } from './errors';
import { Fields, wire } from './fields';
import { Files } from './files';
import {
  type Command,
  type ExecInfo,
  type ExecRequest,
  execRequest,
  patchSandboxRequest,
  type ResourcesRequest,
  type RunCodeRequest,
  readExecInfo,
  readSandboxInfo,
  readSandboxStats,
  runCodeRequest,
  type SandboxInfo,
  type SandboxRequest,
  type SandboxState,
  type SandboxStats,
} from './models';
import { once } from './output';
import { type CallOptions, execPath, Process } from './process';
import type { CommandResult } from './result';
import { feed, type RunOptions, run, splitStdin } from './run';
import { Activity } from './transport';

/** Where the server is; or a client that knows it. */
export type Connection = ConnectOptions & { client?: Client | undefined };

/** What a sandbox is made of, and where. */
export type CreateOptions = SandboxRequest &
  Connection &
  CallOptions & {
    /** Of one's own choice, 1 to 255 visible characters: the same one makes the same sandbox within 24 hours. */
    idempotencyKey?: string | undefined;
  };

/** What bytes or text a command reads. */
export interface InputOptions {
  stdin?: string | Uint8Array | undefined;
}

/** How code is run. `signal` kills it; `timeout` is in seconds and kills it and all that it started. */
export type CodeOptions = Omit<RunCodeRequest, 'code' | 'wait' | 'stdin'> & InputOptions & RunOptions;

/** How a command is run. `signal` kills it; `timeout` is in seconds and kills it and all that it started. */
export type CommandOptions = Omit<ExecRequest, 'command' | 'wait' | 'stdin' | 'pty'> & InputOptions & RunOptions;

/** How a command is started. `stdin: true` keeps its input open; `pty` gives it a terminal of 80 × 24, or of a size. */
export type StartOptions = Omit<ExecRequest, 'command' | 'wait' | 'pty'> & {
  pty?: boolean | { cols: number; rows: number } | undefined;
} & CallOptions;

/**
 * A confined process tree with its files.
 *
 * With `await using`, one that was made by `create` is released at the end; one found by `connect` is left running.
 */
export class Sandbox extends Files implements AsyncDisposable {
  readonly #client: Client;
  readonly #activity: Activity;
  #release: boolean;
  /** What was last known of it; `refresh()` asks again. */
  info: SandboxInfo;

  constructor(client: Client, info: SandboxInfo, { release = false }: { release?: boolean } = {}) {
    const activity = new Activity();
    super(client.transport.counted(activity), `/api/v1/sandboxes/${encodeURIComponent(info.sandboxId)}`);
    this.#client = client;
    this.#activity = activity;
    this.#release = release;
    this.info = info;
  }

  /** Its id; `Sandbox.connect(sandboxId)` finds it again. */
  get sandboxId(): string {
    return this.info.sandboxId;
  }

  /** The same as `sandboxId`. */
  get id(): string {
    return this.info.sandboxId;
  }

  /** How many calls of this object are under way. */
  get inFlight(): number {
    return this.#activity.inFlight;
  }

  /** When a call of this object last began or ended. */
  get lastUsed(): Date {
    return new Date(this.#activity.lastUsed);
  }

  // -- making and finding -------------------------------------------------------------------------------------

  /** Makes a sandbox. `timeout` is its lifetime in seconds; `sandbox: { kind: … }` chooses the isolation. */
  static async create(options: CreateOptions = {}): Promise<Sandbox> {
    const { client, idempotencyKey, signal, ...rest } = options;
    const { connect, request } = splitConnection(rest);
    const owner = client ?? new Client(connect);
    const info = await owner.createSandbox(request, { idempotencyKey, signal });
    return new Sandbox(owner, info, { release: true });
  }

  /** Finds a sandbox that exists. */
  static async connect(sandboxId: string, options: Connection & CallOptions = {}): Promise<Sandbox> {
    const { client, signal, ...connect } = options;
    const owner = client ?? new Client(connect);
    return new Sandbox(owner, await owner.getSandbox(sandboxId, { signal }));
  }

  /** All sandboxes of the user. */
  static async list(
    options: Connection & CallOptions & { state?: SandboxState | undefined } = {},
  ): Promise<SandboxInfo[]> {
    const { client, signal, state, ...connect } = options;
    const found: SandboxInfo[] = [];
    for await (const info of (client ?? new Client(connect)).iterSandboxes({ state, signal })) found.push(info);
    return found;
  }

  /** Ends the sandbox with all its processes and files. One that is gone already counts as released. */
  async release({ signal }: CallOptions = {}): Promise<void> {
    try {
      await this.transport.request('DELETE', this.path, { safety: 'repeatable', signal });
    } catch (error) {
      if (!(error instanceof SandboxNotFoundError || error instanceof SandboxGoneError)) throw error;
    }
    this.#release = false;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#release) await this.release();
  }

  // -- commands -----------------------------------------------------------------------------------------------

  /** Runs source code and returns its result; `onStdout` and `onStderr` get the output as it comes. */
  async runCode(code: string, options: CodeOptions = {}): Promise<CommandResult> {
    const { onStdout, onStderr, signal, stdin, ...rest } = options;
    const { inline, behind } = splitStdin(stdin);
    const body = wire({ language: 'python', ...rest, code, stdin: inline }, runCodeRequest);
    return this.#run('run-code', body, { onStdout, onStderr, signal }, behind);
  }

  /**
   * Runs a shell line, or a program with arguments (a list), and returns its result.
   * With `background: true` it returns a `Process` at once; callbacks then go to `process.stream(…)`.
   */
  async runCommand(
    command: Command,
    options?: CommandOptions & { background?: false | undefined },
  ): Promise<CommandResult>;
  async runCommand(
    command: Command,
    options: Omit<CommandOptions, 'onStdout' | 'onStderr'> & { background: true },
  ): Promise<Process>;
  async runCommand(
    command: Command,
    options: CommandOptions & { background?: boolean | undefined } = {},
  ): Promise<CommandResult | Process> {
    const { onStdout, onStderr, signal, stdin, background, ...rest } = options;
    const { inline, behind } = splitStdin(stdin);
    if (!background) {
      const body = wire({ ...rest, command, stdin: inline }, execRequest);
      return this.#run('execs', body, { onStdout, onStderr, signal }, behind);
    }
    if (onStdout || onStderr) {
      throw new TypeError('with `background: true`, give callbacks to process.stream({ onStdout, onStderr })');
    }
    const process = await this.start(command, { ...rest, stdin: inline, signal });
    if (behind) await feed(process, behind, { signal });
    return process;
  }

  /** Starts a command and returns at once. */
  async start(command: Command, options: StartOptions = {}): Promise<Process> {
    const { pty, signal, ...rest } = options;
    const size = pty === true ? { cols: 80, rows: 24 } : pty || undefined;
    const data = await this.transport.json('POST', `${this.path}/execs`, {
      safety: 'repeatable',
      json: wire({ ...rest, command, pty: size, wait: false }, execRequest),
      headers: once(),
      signal,
    });
    return this.#process(readExecInfo(data));
  }

  /** Commands that run, and those that ended lately. */
  async processes({ signal }: CallOptions = {}): Promise<Process[]> {
    const data = new Fields('execs', await this.transport.json('GET', `${this.path}/execs`, { signal }));
    return data.list('items', readExecInfo).map(info => this.#process(info));
  }

  /** Finds a command by its id. */
  async process(execId: string, { signal }: CallOptions = {}): Promise<Process> {
    return this.#process(readExecInfo(await this.transport.json('GET', execPath(this.sandboxId, execId), { signal })));
  }

  #process(info: ExecInfo): Process {
    return new Process(this.transport, this.sandboxId, info);
  }

  #run(
    action: string,
    body: Record<string, unknown>,
    options: RunOptions,
    behind: Uint8Array | undefined,
  ): Promise<CommandResult> {
    const findOutput = async (execId: string): Promise<string> => `${execPath(this.sandboxId, execId)}/output`;
    const request = { path: `${this.path}/${action}`, body, findOutput };
    return run(this.transport, request, async info => this.#process(info), options, behind);
  }

  // -- the sandbox itself -------------------------------------------------------------------------------------

  /** Asks how it is. */
  async refresh(options: CallOptions = {}): Promise<SandboxInfo> {
    this.info = await this.#client.getSandbox(this.sandboxId, options);
    return this.info;
  }

  /** Freezes every process; memory and files stay. */
  async pause({ signal }: CallOptions = {}): Promise<SandboxInfo> {
    return this.#changed(await this.transport.json('POST', `${this.path}/pause`, { signal }));
  }

  /** Lets a paused sandbox go on. */
  async resume({ signal }: CallOptions = {}): Promise<SandboxInfo> {
    return this.#changed(await this.transport.json('POST', `${this.path}/resume`, { signal }));
  }

  /** Changes what it may use while it runs. */
  async setResources(resources: ResourcesRequest, { signal }: CallOptions = {}): Promise<SandboxInfo> {
    const json = wire({ resources }, patchSandboxRequest);
    return this.#changed(await this.transport.json('PATCH', this.path, { json, signal }));
  }

  /** What it uses now and has used. */
  async stats({ signal }: CallOptions = {}): Promise<SandboxStats> {
    return readSandboxStats(await this.transport.json('GET', `${this.path}/stats`, { signal }));
  }

  #changed(data: unknown): SandboxInfo {
    this.info = readSandboxInfo(data);
    return this.info;
  }
}
