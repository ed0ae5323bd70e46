// Made from openapi/openapi.json by tools/models.mjs: change that, not this.

import { Fields, type Names } from './fields';
import type { SandboxOptions } from './kinds';

/** Bytes, or a text with a unit of 1024 */
export type Bytes = string | number;

/** What not every kind of sandbox can do. */
export interface Capabilities {
  /** Go on when the server ends, and be found again by the next one. */
  readonly adopt: boolean;
  /** Writes that go to the host's disk. */
  readonly disk: boolean;
  /** A limit of the bytes and files that it may write, and a count of them. */
  readonly diskLimit: boolean;
  /** Change limits of a living one. */
  readonly liveLimits: boolean;
  /** Freeze and thaw. */
  readonly pause: boolean;
  /** A limit of its processes. */
  readonly pidsLimit: boolean | null;
  /** Terminals. */
  readonly pty: boolean;
}

export function readCapabilities(data: unknown): Capabilities {
  const from = new Fields('Capabilities', data);
  return {
    adopt: from.boolean('adopt'),
    disk: from.boolean('disk'),
    diskLimit: from.boolean('disk_limit'),
    liveLimits: from.boolean('live_limits'),
    pause: from.boolean('pause'),
    pidsLimit: from.maybeBoolean('pids_limit'),
    pty: from.boolean('pty'),
  };
}

/** Removes workspaces. */
export interface CleanRequest {
  /** Whether to say which, and leave them. */
  dryRun?: boolean | undefined;
  /** Those that nobody has used for so many seconds. */
  olderThan: Seconds;
}

export const cleanRequest: Names = {
  dryRun: 'dry_run',
  olderThan: 'older_than',
};

/** What a cleaning found and did. */
export interface CleanView {
  /** Bytes of all of them on the disk. */
  readonly bytes: number;
  /** Whether nothing was removed. */
  readonly dryRun: boolean;
  /** Those that could not be removed. */
  readonly failed: readonly FailedWorkspaceView[];
  /** How many belong to sandboxes that exist. */
  readonly inUse: number;
  /** How many were used more recently. */
  readonly recent: number;
  /** Those that were removed or, with `dry_run`, would be. */
  readonly removed: readonly WorkspaceView[];
}

export function readCleanView(data: unknown): CleanView {
  const from = new Fields('CleanView', data);
  return {
    bytes: from.number('bytes'),
    dryRun: from.boolean('dry_run'),
    failed: from.list('failed', readFailedWorkspaceView),
    inUse: from.number('in_use'),
    recent: from.number('recent'),
    removed: from.list('removed', readWorkspaceView),
  };
}

/** A line for the shell, or a program and its arguments. */
export type Command = string | readonly string[];

/** CPUs */
export type Cpus = string | number;

/** How bytes are written in JSON. */
export type Encoding = 'utf-8' | 'base64';

/** Size of a terminal in characters. */
export interface TerminalSize {
  /** Columns. */
  cols: number;
  /** Rows. */
  rows: number;
}

export const terminalSize: Names = {};

/** What stdin is: a text and then its end, open for later writes, or empty. */
export type Stdin = string | boolean;

/** Runs a command. */
export interface ExecRequest {
  /** What to run. */
  command: Command;
  /** Directory to start in; default `/workspace`. */
  cwd?: string | undefined;
  /** Environment on top of the sandbox's. */
  env?: Readonly<Record<string, string>> | undefined;
  /** Output kept, both streams together. */
  maxOutputBytes?: Bytes | undefined;
  /** A terminal of this size; stdout and stderr are then one stream. */
  pty?: TerminalSize | undefined;
  /** Stdin; default empty. */
  stdin?: Stdin | undefined;
  /** Seconds after which everything the exec started is killed. */
  timeout?: Seconds | undefined;
  /** User inside the sandbox; default `user`. */
  user?: string | undefined;
  /** Whether the answer waits for the end; default true. */
  wait?: boolean | undefined;
}

export const execRequest: Names = {
  maxOutputBytes: 'max_output_bytes',
  pty: ['pty', terminalSize],
};

/** An exec that has ended, with its output. */
export interface ExecResult {
  /** Wall-clock time, ms. */
  readonly durationMs: number;
  /** Of `stdout` and `stderr`: `base64` when one of them is not UTF-8. */
  readonly encoding: Encoding;
  /** Its id. */
  readonly execId: string;
  /** Exit code; 128 + signal when a signal ended it. */
  readonly exitCode: number;
  /** What ended it, when not itself: `timeout`, `oom`, `pids`, `disk`, `signal`, `released`. */
  readonly killedBy: string | null;
  /** Something the caller should know, such as a session whose files were lost with its host. */
  readonly note: string | null;
  /** What `handler` returned, when the code defines one. */
  readonly result: unknown;
  /** The session, when it ran in one. */
  readonly sessionId: string | null;
  /** The signal that ended it. */
  readonly signal: number | null;
  /** Always `ended`. */
  readonly state: ExecState;
  /** Error output. */
  readonly stderr: string;
  /** Output; a terminal's when it had one. */
  readonly stdout: string;
  /** Whether output past the limit was dropped. */
  readonly truncated: boolean;
}

export function readExecResult(data: unknown): ExecResult {
  const from = new Fields('ExecResult', data);
  return {
    durationMs: from.number('duration_ms'),
    encoding: from.text('encoding') as Encoding,
    execId: from.text('exec_id'),
    exitCode: from.number('exit_code'),
    killedBy: from.maybeText('killed_by'),
    note: from.maybeText('note'),
    result: from.maybeAny('result'),
    sessionId: from.maybeText('session_id'),
    signal: from.maybeNumber('signal'),
    state: from.text('state') as ExecState,
    stderr: from.text('stderr'),
    stdout: from.text('stdout'),
    truncated: from.boolean('truncated'),
  };
}

/** Where an exec is. */
export type ExecState = 'running' | 'ended';

/** An exec. */
export interface ExecInfo {
  /** What runs. */
  readonly command: Command;
  /** Wall-clock time, ms. Null while it runs. */
  readonly durationMs: number | null;
  /** Its id. */
  readonly execId: string;
  /** Exit code; 128 + signal when a signal ended it. Null while it runs. */
  readonly exitCode: number | null;
  /** What ended it, when not itself: `timeout`, `oom`, `pids`, `disk`, `signal`, `released`. */
  readonly killedBy: string | null;
  /** Something the caller should know about `result`. */
  readonly note: string | null;
  /** Process id inside the sandbox. */
  readonly pid: number;
  /** Whether it has a terminal. */
  readonly pty: boolean;
  /** In the last event of a session's stream: what `handler` returned, when the code defines one. */
  readonly result: unknown;
  /** The signal that ended it. */
  readonly signal: number | null;
  /** When it started. */
  readonly startedAt: Date;
  /** State. */
  readonly state: ExecState;
  /** Whether output past the limit was dropped. Null while it runs. */
  readonly truncated: boolean | null;
}

export function readExecInfo(data: unknown): ExecInfo {
  const from = new Fields('ExecInfo', data);
  return {
    command: from.any('command') as Command,
    durationMs: from.maybeNumber('duration_ms'),
    execId: from.text('exec_id'),
    exitCode: from.maybeNumber('exit_code'),
    killedBy: from.maybeText('killed_by'),
    note: from.maybeText('note'),
    pid: from.number('pid'),
    pty: from.boolean('pty'),
    result: from.maybeAny('result'),
    signal: from.maybeNumber('signal'),
    startedAt: from.time('started_at'),
    state: from.text('state') as ExecState,
    truncated: from.maybeBoolean('truncated'),
  };
}

/** A workspace that could not be removed. */
export interface FailedWorkspaceView {
  /** Why. */
  readonly message: string;
  /** Where it is. */
  readonly path: string;
}

export function readFailedWorkspaceView(data: unknown): FailedWorkspaceView {
  const from = new Fields('FailedWorkspaceView', data);
  return {
    message: from.text('message'),
    path: from.text('path'),
  };
}

/** One file or directory. */
export interface FileEntry {
  /** Group inside the sandbox. */
  readonly gid: number;
  /** `file`, `directory`, `symlink` or `other`; a link is not followed. */
  readonly kind: string;
  /** Permission bits in octal. */
  readonly mode: string;
  /** Last modification. */
  readonly modifiedAt: Date;
  /** Last component of `path`. */
  readonly name: string;
  /** Absolute path in the sandbox. */
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  /** Where a link points. */
  readonly target: string | null;
  /** Owner inside the sandbox. */
  readonly uid: number;
}

export function readFileEntry(data: unknown): FileEntry {
  const from = new Fields('FileEntry', data);
  return {
    gid: from.number('gid'),
    kind: from.text('kind'),
    mode: from.text('mode'),
    modifiedAt: from.time('modified_at'),
    name: from.text('name'),
    path: from.text('path'),
    size: from.number('size'),
    target: from.maybeText('target'),
    uid: from.number('uid'),
  };
}

/** A directory's entries, sorted by path. */
export interface FileListing {
  /** The entries. */
  readonly items: readonly FileEntry[];
  /** Whether there are more than `limit`. */
  readonly truncated: boolean;
}

export function readFileListing(data: unknown): FileListing {
  const from = new Fields('FileListing', data);
  return {
    items: from.list('items', readFileEntry),
    truncated: from.boolean('truncated'),
  };
}

/** Health. */
export interface Health {
  /** Always `gateway`. */
  readonly service: string;
  /** `ok`. */
  readonly status: string;
}

export function readHealth(data: unknown): Health {
  const from = new Fields('Health', data);
  return {
    service: from.text('service'),
    status: from.text('status'),
  };
}

/** How fast a disk may be used; 0 is no limit, and what is absent keeps its value. */
export interface IoRequest {
  /** Bytes read a second. */
  readBps?: Bytes | undefined;
  /** Reads a second. */
  readIops?: number | undefined;
  /** Bytes written a second. */
  writeBps?: Bytes | undefined;
  /** Writes a second. */
  writeIops?: number | undefined;
}

export const ioRequest: Names = {
  readBps: 'read_bps',
  readIops: 'read_iops',
  writeBps: 'write_bps',
  writeIops: 'write_iops',
};

/** How fast a disk may be used; null is no limit. */
export interface IoLimits {
  /** Bytes read a second. */
  readonly readBps: number | null;
  /** Reads a second. */
  readonly readIops: number | null;
  /** Bytes written a second. */
  readonly writeBps: number | null;
  /** Writes a second. */
  readonly writeIops: number | null;
}

export function readIoLimits(data: unknown): IoLimits {
  const from = new Fields('IoLimits', data);
  return {
    readBps: from.maybeNumber('read_bps'),
    readIops: from.maybeNumber('read_iops'),
    writeBps: from.maybeNumber('write_bps'),
    writeIops: from.maybeNumber('write_iops'),
  };
}

/** Makes an API key. Admins only. */
export interface KeyRequest {
  /** A label for people. */
  name?: string | undefined;
  /** Its role; default `user`. */
  role?: Role | undefined;
  /** Whose key. */
  userId: string;
}

export const keyRequest: Names = {
  userId: 'user_id',
};

/** A new API key. The secret is shown this once; the server keeps only its hash. */
export interface NewApiKey {
  /** When it was made. */
  readonly createdAt: Date;
  /** Id for revoking. */
  readonly keyId: string;
  /** Label for people. */
  readonly name: string | null;
  /** When it was revoked. */
  readonly revokedAt: Date | null;
  /** Its role. */
  readonly role: Role;
  /** Whose key. */
  readonly userId: string;
  /** For `X-API-Key`. */
  readonly apiKey: string;
}

export function readNewApiKey(data: unknown): NewApiKey {
  const from = new Fields('NewApiKey', data);
  return {
    createdAt: from.time('created_at'),
    keyId: from.text('key_id'),
    name: from.maybeText('name'),
    revokedAt: from.maybeTime('revoked_at'),
    role: from.text('role') as Role,
    userId: from.text('user_id'),
    apiKey: from.text('api_key'),
  };
}

/** An API key without its secret. */
export interface ApiKey {
  /** When it was made. */
  readonly createdAt: Date;
  /** Id for revoking. */
  readonly keyId: string;
  /** Label for people. */
  readonly name: string | null;
  /** When it was revoked. */
  readonly revokedAt: Date | null;
  /** Its role. */
  readonly role: Role;
  /** Whose key. */
  readonly userId: string;
}

export function readApiKey(data: unknown): ApiKey {
  const from = new Fields('ApiKey', data);
  return {
    createdAt: from.time('created_at'),
    keyId: from.text('key_id'),
    name: from.maybeText('name'),
    revokedAt: from.maybeTime('revoked_at'),
    role: from.text('role') as Role,
    userId: from.text('user_id'),
  };
}

/** Every kind of isolation the API has a name for. What this build lacks is answered with `unsupported`. */
export type Kind = 'process' | 'local' | 'hardened' | 'microvm' | 'docker' | 'k8s' | 'oci' | 'vfs' | 'remote';

/** A way to isolate sandboxes: what `sandbox.kind` of a request may be. */
export interface KindInfo {
  /** Whether this server can make such sandboxes. */
  readonly available: boolean;
  /** What they cannot, by the name of the capability, with the reason. It is answered with `unsupported`. */
  readonly cannot: Readonly<Record<string, string>>;
  /** What its sandboxes can do besides commands, files and limits. */
  readonly capabilities: Capabilities;
  /** What stands between a sandbox and the host, and between sandboxes. */
  readonly isolation: string;
  /** Name for `kind`. */
  readonly name: Kind;
  /** What this host makes of it, where that differs: `microvm`, what machines run on. Null where there is nothing to say. */
  readonly note: string | null;
  /** Options that this kind has. */
  readonly options: readonly string[];
  /** Why not; null where it can. */
  readonly whyNot: string | null;
}

export function readKindInfo(data: unknown): KindInfo {
  const from = new Fields('KindInfo', data);
  return {
    available: from.boolean('available'),
    cannot: from.labels('cannot'),
    capabilities: from.object('capabilities', readCapabilities),
    isolation: from.text('isolation'),
    name: from.text('name') as Kind,
    note: from.maybeText('note'),
    options: from.texts('options'),
    whyNot: from.maybeText('why_not'),
  };
}

/** A language of `run-code` and `execute`. */
export interface Language {
  /** Other names of it. */
  readonly aliases: readonly string[];
  /** Extension of its files. */
  readonly extension: string;
  /** Name for `language`. */
  readonly name: string;
}

export function readLanguage(data: unknown): Language {
  const from = new Fields('Language', data);
  return {
    aliases: from.texts('aliases'),
    extension: from.text('extension'),
    name: from.text('name'),
  };
}

/** Makes a directory and its missing parents. */
export interface MkdirRequest {
  /** Absolute path. */
  path: string;
  /** User inside the sandbox; default `user`. */
  user?: string | undefined;
}

export const mkdirRequest: Names = {};

/** Renames a file or directory. */
export interface MoveRequest {
  /** Absolute path now. */
  from: string;
  /** Absolute path then; a file there is replaced. */
  to: string;
  /** User inside the sandbox; default `user`. */
  user?: string | undefined;
}

export const moveRequest: Names = {};

/** What a sandbox can reach. */
export type Network = 'none' | 'allowlist' | 'full';

/** Data of a `stdout`, `stderr` or `pty` event. */
export interface OutputPiece {
  /** The bytes. */
  readonly data: string;
  /** How they are written. */
  readonly encoding: Encoding;
  /** Position after these bytes; pass it as `from` to go on behind them. */
  readonly seq: number;
}

export function readOutputPiece(data: unknown): OutputPiece {
  const from = new Fields('OutputPiece', data);
  return {
    data: from.text('data'),
    encoding: from.text('encoding') as Encoding,
    seq: from.number('seq'),
  };
}

/** Limits; what is absent keeps its default (in PATCH: its value). */
export interface ResourcesRequest {
  /** CPUs. */
  cpu?: Cpus | undefined;
  /** Share of a busy CPU beside other sandboxes, 1 to 10000; default 100. */
  cpuWeight?: number | undefined;
  /** Bytes the sandbox may write. */
  disk?: Bytes | undefined;
  /** Files and directories it may create. */
  inodes?: number | undefined;
  /** How fast its disk may be used; only with `storage` `disk`. */
  io?: IoRequest | undefined;
  /** Memory, in-memory files included. */
  memory?: Bytes | undefined;
  /** Open descriptors of one process. */
  nofile?: number | undefined;
  /** Processes and threads at once. */
  pids?: number | undefined;
}

export const resourcesRequest: Names = {
  cpuWeight: 'cpu_weight',
  io: ['io', ioRequest],
};

/** Changes a sandbox. */
export interface PatchSandboxRequest {
  /** Limits to change. */
  resources: ResourcesRequest;
}

export const patchSandboxRequest: Names = {
  resources: ['resources', resourcesRequest],
};

/** Counters of the pool. */
export interface PoolCounts {
  /** Creates served from the pool. */
  readonly claims: number;
  /** Creates built on request. */
  readonly colds: number;
  /** Failed builds. */
  readonly failures: number;
  /** Given out and not released yet. */
  readonly inUse: number;
  /** Most ready sandboxes at once. */
  readonly max: number;
  /** Ready sandboxes that are kept. */
  readonly min: number;
  /** Ready now. */
  readonly ready: number;
}

export function readPoolCounts(data: unknown): PoolCounts {
  const from = new Fields('PoolCounts', data);
  return {
    claims: from.number('claims'),
    colds: from.number('colds'),
    failures: from.number('failures'),
    inUse: from.number('in_use'),
    max: from.number('max'),
    min: from.number('min'),
    ready: from.number('ready'),
  };
}

/** The pool of ready sandboxes, and what runs. */
export interface PoolStats {
  /** The pool. */
  readonly pool: PoolCounts;
  /** Sandboxes of all users by state. */
  readonly sandboxes: SandboxCounts;
  /** The process that owns them. */
  readonly warden: WardenInfo;
}

export function readPoolStats(data: unknown): PoolStats {
  const from = new Fields('PoolStats', data);
  return {
    pool: from.object('pool', readPoolCounts),
    sandboxes: from.object('sandboxes', readSandboxCounts),
    warden: from.object('warden', readWardenInfo),
  };
}

/** Limits in force. */
export interface Resources {
  /** CPUs. */
  readonly cpu: number;
  /** Share of a busy CPU beside other sandboxes. */
  readonly cpuWeight: number | null;
  /** Bytes of disk. */
  readonly disk: number;
  /** Files and directories. */
  readonly inodes: number;
  /** How fast its disk may be used. */
  readonly io: IoLimits | null;
  /** Bytes of memory. */
  readonly memory: number;
  /** Open descriptors of one process. */
  readonly nofile: number;
  /** Processes and threads. */
  readonly pids: number;
}

export function readResources(data: unknown): Resources {
  const from = new Fields('Resources', data);
  return {
    cpu: from.number('cpu'),
    cpuWeight: from.maybeNumber('cpu_weight'),
    disk: from.number('disk'),
    inodes: from.number('inodes'),
    io: from.maybeObject('io', readIoLimits),
    memory: from.number('memory'),
    nofile: from.number('nofile'),
    pids: from.number('pids'),
  };
}

/** What a caller may do. */
export type Role = 'user' | 'admin';

/** Runs code in a language of the server's table. */
export interface RunCodeRequest {
  /** The code. */
  code: string;
  /** Directory to start in; default `/workspace`. */
  cwd?: string | undefined;
  /** Environment on top of the sandbox's. */
  env?: Readonly<Record<string, string>> | undefined;
  /** Language; default `python`. */
  language?: string | undefined;
  /** Output kept, both streams together. */
  maxOutputBytes?: Bytes | undefined;
  /** Stdin; default empty. */
  stdin?: Stdin | undefined;
  /** Seconds after which everything the code started is killed. */
  timeout?: Seconds | undefined;
  /** Whether the answer waits for the end; default true. */
  wait?: boolean | undefined;
}

export const runCodeRequest: Names = {
  maxOutputBytes: 'max_output_bytes',
};

/** Sandboxes by state. */
export interface SandboxCounts {
  /** Frozen. */
  readonly paused: number;
  /** Ready for execs. */
  readonly running: number;
}

export function readSandboxCounts(data: unknown): SandboxCounts {
  const from = new Fields('SandboxCounts', data);
  return {
    paused: from.number('paused'),
    running: from.number('running'),
  };
}

/** Asks for a sandbox. Every field is optional. */
export interface SandboxRequest {
  /** Environment of every exec. */
  env?: Readonly<Record<string, string>> | undefined;
  /** Host name inside; default `sandbox`. */
  hostname?: string | undefined;
  /** Labels. */
  metadata?: Readonly<Record<string, string>> | undefined;
  /** Network; default `none`. */
  network?: Network | undefined;
  /** Limits. */
  resources?: ResourcesRequest | undefined;
  /** Kind of isolation. */
  sandbox?: SandboxOptions | undefined;
  /** Storage; default `memory` where `resources.disk` fits in three quarters of `resources.memory`, else `disk`. */
  storage?: Storage | undefined;
  /** Template or alias; default: the server's. */
  template?: string | undefined;
  /** Seconds from creation to release; absent: as the server is configured. */
  timeout?: Seconds | undefined;
}

export const sandboxRequest: Names = {
  resources: ['resources', resourcesRequest],
};

/** Where a sandbox is in its life. */
export type SandboxState = 'running' | 'paused' | 'releasing';

/** A sandbox. */
export interface SandboxInfo {
  /** When it was made. */
  readonly createdAt: Date;
  /** When it will be released; null: not by itself. */
  readonly expiresAt: Date | null;
  /** Host name inside. */
  readonly hostname: string;
  /** Kind of isolation. */
  readonly kind: Kind;
  /** Labels. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Network. */
  readonly network: Network;
  /** Limits in force. */
  readonly resources: Resources;
  /** Its id. */
  readonly sandboxId: string;
  /** Milliseconds from the request until it was ready. */
  readonly startMs: number;
  /** How it came to be. */
  readonly startedBy: StartedBy;
  /** State. */
  readonly state: SandboxState;
  /** Storage. */
  readonly storage: Storage;
  /** Template it started from. */
  readonly template: string;
  /** Whose it is. */
  readonly userId: string;
}

export function readSandboxInfo(data: unknown): SandboxInfo {
  const from = new Fields('SandboxInfo', data);
  return {
    createdAt: from.time('created_at'),
    expiresAt: from.maybeTime('expires_at'),
    hostname: from.text('hostname'),
    kind: from.text('kind') as Kind,
    metadata: from.labels('metadata'),
    network: from.text('network') as Network,
    resources: from.object('resources', readResources),
    sandboxId: from.text('sandbox_id'),
    startMs: from.number('start_ms'),
    startedBy: from.text('started_by') as StartedBy,
    state: from.text('state') as SandboxState,
    storage: from.text('storage') as Storage,
    template: from.text('template'),
    userId: from.text('user_id'),
  };
}

/** Seconds, fractions allowed; more than zero */
export type Seconds = number;

/** Runs code in a session. */
export interface SessionExecuteRequest {
  /** The code. Python and JavaScript that define a top-level `handler` have it called with `event`. */
  code: string;
  /** Environment on top of the session's. */
  env?: Readonly<Record<string, string>> | undefined;
  /** Argument of `handler`; absent: `{}` when the code defines one. */
  event?: unknown | undefined;
  /** Language; default `python`. */
  language?: string | undefined;
  /** Stdin; default empty. */
  stdin?: Stdin | undefined;
  /** Whether the answer is a stream of events; default: as `Accept` says. */
  stream?: boolean | undefined;
  /** Seconds after which everything the code started is killed. */
  timeout?: Seconds | undefined;
}

export const sessionExecuteRequest: Names = {};

/** Asks for a session. Every field is optional. */
export interface SessionRequest {
  /** Environment of every exec. */
  env?: Readonly<Record<string, string>> | undefined;
  /** Labels. */
  metadata?: Readonly<Record<string, string>> | undefined;
  /** Limits. */
  resources?: ResourcesRequest | undefined;
  /** Kind of isolation. */
  sandbox?: SandboxOptions | undefined;
  /** Template or alias; default: the server's. */
  templateId?: string | undefined;
  /** Seconds from creation until it closes; absent: as the server is configured. */
  timeout?: Seconds | undefined;
}

export const sessionRequest: Names = {
  resources: ['resources', resourcesRequest],
  templateId: 'template_id',
};

/** Where a session is in its life. */
export type SessionState = 'running' | 'paused' | 'closed';

/** A session. */
export interface SessionInfo {
  /** When it was made. */
  readonly createdAt: Date;
  /** When it closes; null: not by itself. */
  readonly expiresAt: Date | null;
  /** Labels. */
  readonly metadata: Readonly<Record<string, string>>;
  /** Something the caller should know, such as files that were lost with its host. */
  readonly note: string | null;
  /** Limits of its sandbox. */
  readonly resources: Resources;
  /** Its sandbox now; null when it is closed, or when its sandbox is gone and no code has run since. */
  readonly sandboxId: string | null;
  /** Its id. */
  readonly sessionId: string;
  /** State. */
  readonly state: SessionState;
  /** Template its sandboxes start from. */
  readonly templateId: string;
  /** Seconds from creation until it closes; null: not by itself. */
  readonly timeout: Seconds | null;
  /** When it last changed or ran code. */
  readonly updatedAt: Date;
  /** Whose it is. */
  readonly userId: string;
}

export function readSessionInfo(data: unknown): SessionInfo {
  const from = new Fields('SessionInfo', data);
  return {
    createdAt: from.time('created_at'),
    expiresAt: from.maybeTime('expires_at'),
    metadata: from.labels('metadata'),
    note: from.maybeText('note'),
    resources: from.object('resources', readResources),
    sandboxId: from.maybeText('sandbox_id'),
    sessionId: from.text('session_id'),
    state: from.text('state') as SessionState,
    templateId: from.text('template_id'),
    timeout: from.maybeNumber('timeout'),
    updatedAt: from.time('updated_at'),
    userId: from.text('user_id'),
  };
}

/** Sends a signal. */
export interface SignalRequest {
  /** Which. */
  signal: Signal;
  /** To everything the exec started, and not only to its first process. */
  tree?: boolean | undefined;
}

export const signalRequest: Names = {};

/** A signal by name (with or without `SIG`) or number. */
export type Signal = string | number;

/** How a sandbox came to be. */
export type StartedBy = 'claim' | 'cold';

/** What a sandbox uses now and has used. */
export interface SandboxStats {
  /** CPU time, µs. */
  readonly cpuUsec: number;
  /** Bytes written now. */
  readonly disk: number;
  /** Limit, bytes. */
  readonly diskLimit: number;
  /** Inodes free now. */
  readonly inodesFree: number;
  /** Bytes now. */
  readonly memory: number;
  /** Limit, bytes. */
  readonly memoryLimit: number;
  /** Highest so far, bytes. */
  readonly memoryPeak: number;
  /** OOM kills so far. */
  readonly oomKills: number;
  /** Processes and threads now. */
  readonly pids: number;
  /** Limit. */
  readonly pidsLimit: number;
  /** Forks refused so far. */
  readonly pidsRefused: number;
  /** Which. */
  readonly sandboxId: string;
}

export function readSandboxStats(data: unknown): SandboxStats {
  const from = new Fields('SandboxStats', data);
  return {
    cpuUsec: from.number('cpu_usec'),
    disk: from.number('disk'),
    diskLimit: from.number('disk_limit'),
    inodesFree: from.number('inodes_free'),
    memory: from.number('memory'),
    memoryLimit: from.number('memory_limit'),
    memoryPeak: from.number('memory_peak'),
    oomKills: from.number('oom_kills'),
    pids: from.number('pids'),
    pidsLimit: from.number('pids_limit'),
    pidsRefused: from.number('pids_refused'),
    sandboxId: from.text('sandbox_id'),
  };
}

/** Where a sandbox's writes go. */
export type Storage = 'memory' | 'disk';

/** What sandboxes can start from. */
export interface Template {
  /** Other names of it. */
  readonly aliases: readonly string[];
  /** Its size; 0 when it shares the host's files. */
  readonly bytes: number;
  /** When it was added; null for what is built in. */
  readonly createdAt: Date | null;
  /** Languages whose interpreter or compiler it has. */
  readonly languages: readonly string[];
  /** Name for `template`. */
  readonly name: string;
  /** `host`, `directory` or `tar`. */
  readonly source: string;
}

export function readTemplate(data: unknown): Template {
  const from = new Fields('Template', data);
  return {
    aliases: from.texts('aliases'),
    bytes: from.number('bytes'),
    createdAt: from.maybeTime('created_at'),
    languages: from.texts('languages'),
    name: from.text('name'),
    source: from.text('source'),
  };
}

/** Asks for a token. */
export interface TokenRequest {
  /** Role of the token; default: `user`. Never above the API key's. */
  role?: Role | undefined;
  /** Whose token; default: the API key's user (with `--dev`: `dev`). */
  userId?: string | undefined;
}

export const tokenRequest: Names = {
  userId: 'user_id',
};

/** A token. */
export interface Token {
  /** For `Authorization: Bearer …`. */
  readonly accessToken: string;
  /** Seconds until it expires. */
  readonly expiresIn: number;
  /** Its role. */
  readonly role: Role;
  /** Always `bearer`. */
  readonly tokenType: string;
  /** Whose it is. */
  readonly userId: string;
}

export function readToken(data: unknown): Token {
  const from = new Fields('Token', data);
  return {
    accessToken: from.text('access_token'),
    expiresIn: from.number('expires_in'),
    role: from.text('role') as Role,
    tokenType: from.text('token_type'),
    userId: from.text('user_id'),
  };
}

/** An unpacked archive. */
export interface UnpackInfo {
  /** Bytes of files that were written. */
  readonly bytes: number;
}

export function readUnpackInfo(data: unknown): UnpackInfo {
  const from = new Fields('UnpackInfo', data);
  return {
    bytes: from.number('bytes'),
  };
}

/** The warden. */
export interface WardenInfo {
  /** With which rights it runs. */
  readonly mode: string;
  /** Its process id. */
  readonly pid: number;
}

export function readWardenInfo(data: unknown): WardenInfo {
  const from = new Fields('WardenInfo', data);
  return {
    mode: from.text('mode'),
    pid: from.number('pid'),
  };
}

/** A workspace. */
export interface WorkspaceView {
  /** Bytes on the disk. */
  readonly bytes: number;
  /** Files and directories in it. */
  readonly files: number;
  /** Where it is below the server's directory of workspaces: the user's directory and its name. */
  readonly path: string;
  /** When something in it was last changed, or a sandbox last began or ceased to use it. */
  readonly usedAt: Date;
}

export function readWorkspaceView(data: unknown): WorkspaceView {
  const from = new Fields('WorkspaceView', data);
  return {
    bytes: from.number('bytes'),
    files: from.number('files'),
    path: from.text('path'),
    usedAt: from.time('used_at'),
  };
}
