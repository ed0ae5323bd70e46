/**
 * Cloud Sandbox: run code that nobody has read, safely and at once.
 *
 *     await using sandbox = await Sandbox.create();
 *     console.log((await sandbox.runCode("print('Hello')")).stdout);
 */

export { Agent, type AgentDependencies, type AgentOptions, createRuntime } from './agent';
export type { Unpacked } from './archive';
export type { Body } from './body';
export { Client, type OnceOptions, type Page, type PageOptions } from './client';
export type { ConnectOptions } from './config';
export * from './errors';
export type { Content, FileList, FileOptions, Files } from './files';
export type * from './kinds';
export type {
  ApiKey,
  Bytes,
  Capabilities,
  Command,
  Cpus,
  ExecInfo,
  ExecState,
  FileEntry,
  Health,
  IoLimits,
  IoRequest,
  KeyRequest,
  Kind,
  KindInfo,
  Language,
  Network,
  NewApiKey,
  PoolCounts,
  PoolStats,
  Resources,
  ResourcesRequest,
  Role,
  SandboxCounts,
  SandboxInfo,
  SandboxRequest,
  SandboxState,
  SandboxStats,
  SessionInfo,
  SessionRequest,
  SessionState,
  Signal,
  StartedBy,
  Stdin,
  Storage,
  Template,
  TerminalSize,
  Token,
  TokenRequest,
  WardenInfo,
} from './models';
export type { TextSink } from './output';
export { AgentPool, type AgentPoolOptions } from './pool';
export { type CallOptions, Process } from './process';
export { CommandFailedError, CommandResult, OutputChunk, type StreamName } from './result';
export type { RunOptions } from './run';
export {
  type CodeOptions,
  type CommandOptions,
  type Connection,
  type CreateOptions,
  type InputOptions,
  Sandbox,
  type StartOptions,
} from './sandbox';
export { type ExecuteOptions, Session, type SessionOptions } from './session';
export { Terminal } from './terminal';
export { VERSION } from './version';
