/**
 * Agents by name, at most so many. Where there is no room for another, the one that was used longest ago is released,
 * unless it is busy. Knows nothing of kinds: each agent brings its own.
 */

import { Agent, type AgentDependencies, type AgentOptions, createRuntime } from './agent';
import { CloudSandboxError, ConflictError, PoolFullError, SandboxGoneError, SandboxNotFoundError } from './errors';
import { Sandbox } from './sandbox';

export interface AgentPoolOptions {
  /** Default: `createRuntime()`. */
  dependencies?: AgentDependencies | undefined;
  /** Most agents at once; default 50. */
  maxAgents?: number | undefined;
}

interface Entry {
  /** What it was asked to be: one name is one agent. */
  readonly request: string;
  readonly making: Promise<Agent>;
  /** Once it is made. */
  agent: Agent | undefined;
  /** How many `use` calls have it. */
  users: number;
  /** When it was last asked for, ms since 1970. */
  asked: number;
}

/**
 * At most `maxAgents` agents, by name. Where there is no room for another, the one that was used longest ago is
 * released, unless it is busy: held by `use`, called, or with a command that runs.
 */
export class AgentPool implements AsyncDisposable {
  readonly maxAgents: number;
  readonly #dependencies: AgentDependencies;
  readonly #entries = new Map<string, Entry>();
  /** How many sandboxes of ours there are or are being made or released. */
  #taken = 0;
  #closed = false;

  constructor({ dependencies = createRuntime(), maxAgents = 50 }: AgentPoolOptions = {}) {
    if (!Number.isInteger(maxAgents) || maxAgents < 1) {
      throw new CloudSandboxError(`\`maxAgents\` is ${maxAgents}`, { hint: 'it is a whole number from 1 on' });
    }
    this.#dependencies = dependencies;
    this.maxAgents = maxAgents;
  }

  /** How many agents there are, those included that are asked for. */
  get size(): number {
    return this.#entries.size;
  }

  /** The names of agents, also only of those that begin with `prefix`. */
  list({ prefix = '' }: { prefix?: string | undefined } = {}): string[] {
    return [...this.#entries.keys()].filter(agentId => agentId.startsWith(prefix));
  }

  /** An agent that is there. */
  get(agentId: string): Agent | undefined {
    const entry = this.#entries.get(agentId);
    if (entry) entry.asked = Date.now();
    return entry?.agent;
  }

  /**
   * The agent of this name, made if it is not there; whoever asks at the same time gets the same one.
   * It may be released for another one once nothing runs in it: `use` holds it.
   */
  async create(options: AgentOptions): Promise<Agent> {
    return this.#entry(options).making;
  }

  /** Calls `work` with the agent of this name, which is not released before `work` has ended. */
  async use<T>(options: AgentOptions, work: (agent: Agent) => Promise<T>): Promise<T> {
    const entry = this.#entry(options);
    entry.users += 1;
    try {
      return await work(await entry.making);
    } finally {
      entry.users -= 1;
      entry.asked = Date.now();
    }
  }

  /** Releases an agent, busy or not. One that is not there counts as released. */
  async release(agentId: string): Promise<void> {
    const entry = this.#entries.get(agentId);
    if (!entry) return;
    this.#entries.delete(agentId);
    // One that could not be made is not there either; who asked for it has the error.
    const agent = await entry.making.catch(() => undefined);
    if (agent) await this.#free(agent);
  }

  /** Releases all agents, busy or not; the pool makes no more. Errors come together, after all were tried. */
  async close(): Promise<void> {
    this.#closed = true;
    const ended = await Promise.allSettled(this.list().map(agentId => this.release(agentId)));
    const errors = ended.flatMap(one => (one.status === 'rejected' ? [one.reason] : []));
    if (errors.length) throw new AggregateError(errors, `${errors.length} agents could not be released`);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  #entry(options: AgentOptions): Entry {
    if (this.#closed) throw new CloudSandboxError('this pool is closed');
    const { agentId } = options;
    const request = JSON.stringify(options);
    const known = this.#entries.get(agentId);
    if (known && isExpired(known)) this.#taken -= 1;
    else if (known) {
      if (known.request !== request) {
        const hint = 'release it first, or choose another name';
        throw new ConflictError(`agent \`${agentId}\` was made with other options`, { hint });
      }
      known.asked = Date.now();
      return known;
    }
    const entry: Entry = {
      request,
      making: Promise.resolve().then(() => this.#make(options, entry)),
      agent: undefined,
      users: 0,
      asked: Date.now(),
    };
    this.#entries.set(agentId, entry);
    return entry;
  }

  async #make(options: AgentOptions, entry: Entry): Promise<Agent> {
    try {
      while (this.#taken >= this.maxAgents) await this.#free(await this.#evict());
      this.#taken += 1;
      try {
        entry.agent = await Agent.create(options, this.#dependencies);
      } catch (error) {
        this.#taken -= 1;
        throw error;
      }
      return entry.agent;
    } catch (error) {
      if (this.#entries.get(options.agentId) === entry) this.#entries.delete(options.agentId);
      throw error;
    }
  }

  async #free(agent: Agent): Promise<void> {
    try {
      await agent.release();
    } finally {
      this.#taken -= 1;
    }
  }

  /** Takes the idle agent that was used longest ago out of the pool. */
  async #evict(): Promise<Agent> {
    const oldestFirst = [...this.#entries].sort(([, one], [, other]) => lastUsed(one) - lastUsed(other));
    for (const [agentId, entry] of oldestFirst) {
      const { agent } = entry;
      if (!agent || isHeld(entry) || (await this.#runsCommands(agent))) continue;
      // Meanwhile somebody may have begun to use it, or have taken it out.
      if (isHeld(entry) || this.#entries.get(agentId) !== entry) continue;
      this.#entries.delete(agentId);
      return agent;
    }
    throw new PoolFullError(`all ${this.maxAgents} agents are busy`);
  }

  /** Whether a command runs that nobody here waits for. */
  async #runsCommands({ sandbox }: Agent): Promise<boolean> {
    // Looked at through an object of its own: asking is no use of the agent.
    const looked = new Sandbox(this.#dependencies.client, sandbox.info);
    try {
      return (await looked.processes()).some(process => process.running);
    } catch (error) {
      if (error instanceof SandboxNotFoundError || error instanceof SandboxGoneError) return false;
      throw error;
    }
  }
}

function isHeld(entry: Entry): boolean {
  return entry.users > 0 || (entry.agent?.sandbox.inFlight ?? 0) > 0;
}

function lastUsed(entry: Entry): number {
  return Math.max(entry.asked, entry.agent?.sandbox.lastUsed.getTime() ?? 0);
}

/** Whether its sandbox's lifetime is over, so that the server has released it. */
function isExpired(entry: Entry): boolean {
  const at = entry.agent?.sandbox.info.expiresAt;
  return at != null && at.getTime() <= Date.now();
}
