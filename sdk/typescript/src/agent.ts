/** An agent's sandbox under a name of the caller's choice. */

import { Client } from './client';
import type { ConnectOptions } from './config';
import type { SandboxRequest } from './models';
import type { CallOptions } from './process';
import { Sandbox } from './sandbox';

/** Which agent, and what its sandbox is made of: `sandbox: { kind: … }` chooses the isolation. */
export type AgentOptions = SandboxRequest & { agentId: string };

/** What agents are made with. */
export interface AgentDependencies {
  readonly client: Client;
}

/** The dependencies of agents of one server. */
export function createRuntime(options: ConnectOptions = {}): AgentDependencies {
  return { client: new Client(options) };
}

/** An agent's sandbox, and its name: `sandbox` has everything. With `await using`, it is released at the end. */
export class Agent implements AsyncDisposable {
  readonly agentId: string;
  readonly sandbox: Sandbox;

  private constructor(agentId: string, sandbox: Sandbox) {
    this.agentId = agentId;
    this.sandbox = sandbox;
  }

  /** Makes an agent with a sandbox of its own. */
  static async create(
    options: AgentOptions,
    { client }: AgentDependencies = createRuntime(),
    { signal }: CallOptions = {},
  ): Promise<Agent> {
    const { agentId, ...request } = options;
    // Found again by its label, by people and by programs: `Sandbox.list()` has it.
    const metadata = { ...request.metadata, agent_id: agentId };
    return new Agent(agentId, await Sandbox.create({ ...request, metadata, client, signal }));
  }

  /** Releases its sandbox. */
  release(options: CallOptions = {}): Promise<void> {
    return this.sandbox.release(options);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.release();
  }
}
