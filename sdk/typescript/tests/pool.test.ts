/** The pool of agents, on a real server. */

import assert from 'node:assert/strict';
import { after, before, beforeEach, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  Agent,
  AgentPool,
  Client,
  ConflictError,
  createRuntime,
  PoolFullError,
  Sandbox,
  UnsupportedError,
} from '../src/index';
import { type Server, serve } from './server';

let server: Server;
let client: Client;

before(async () => {
  server = await serve({ POOL_MIN_SIZE: '2' });
});
after(() => server.stop());
let users = 0;
beforeEach(() => {
  users += 1;
  client = new Client({ baseUrl: server.url, userId: `pool-${users}` });
});

const alive = async (): Promise<(string | undefined)[]> =>
  (await Sandbox.list({ client })).map(info => info.metadata.agent_id).sort();

it('gives one agent for one name, also to those who ask at once', async () => {
  await using pool = new AgentPool({ dependencies: { client } });
  const agents = await Promise.all(Array.from({ length: 8 }, () => pool.create({ agentId: 'user:1' })));
  assert.deepEqual([new Set(agents).size, pool.size, pool.get('user:1')], [1, 1, agents[0]]);
  assert.deepEqual(await alive(), ['user:1']);
  const other = { agentId: 'user:1', env: { A: 'b' } };
  await assert.rejects(pool.create(other), ConflictError);
  await pool.create({ agentId: 'bot:1' });
  assert.deepEqual([pool.list().sort(), pool.list({ prefix: 'user:' })], [['bot:1', 'user:1'], ['user:1']]);
});

it('releases the one that was used longest ago when it is full', async () => {
  await using pool = new AgentPool({ dependencies: { client }, maxAgents: 2 });
  const a = await pool.create({ agentId: 'a' });
  await pool.create({ agentId: 'b' });
  await sleep(2);
  // A call of its sandbox is a use of the agent.
  await a.sandbox.runCommand('true');
  await pool.create({ agentId: 'c' });
  assert.deepEqual(
    [pool.list().sort(), await alive()],
    [
      ['a', 'c'],
      ['a', 'c'],
    ],
  );
  await sleep(2);
  pool.get('a');
  await pool.create({ agentId: 'd' });
  assert.deepEqual(await alive(), ['a', 'd']);
});

it('releases no agent that is busy: used, called, or running a command', async () => {
  await using pool = new AgentPool({ dependencies: { client }, maxAgents: 1 });
  await pool.use({ agentId: 'a' }, async agent => {
    assert.equal(agent.agentId, 'a');
    await assert.rejects(pool.create({ agentId: 'b' }), PoolFullError);
    assert.deepEqual(pool.list(), ['a']);
  });
  const a = await pool.create({ agentId: 'a' });
  const stop = new AbortController();
  let on: (() => void) | undefined;
  const running = new Promise<void>(resolve => {
    on = resolve;
  });
  const called = a.sandbox.runCommand('echo on; sleep 1000', { signal: stop.signal, onStdout: () => on?.() });
  await running;
  await assert.rejects(pool.create({ agentId: 'b' }), PoolFullError);
  stop.abort();
  await assert.rejects(called);
  // Killed on its own behalf, a moment later.
  while ((await a.sandbox.processes()).some(process => process.running)) await sleep(10);
  const background = await a.sandbox.start('sleep 1000');
  await assert.rejects(pool.create({ agentId: 'b' }), PoolFullError);
  await background.kill();
  await background.wait();
  await pool.create({ agentId: 'b' });
  assert.deepEqual(await alive(), ['b']);
});

it('never has more than it may, however many ask at once', async () => {
  await using pool = new AgentPool({ dependencies: { client }, maxAgents: 3 });
  const asked = Array.from({ length: 9 }, async (_, i) => {
    const agent = await pool.create({ agentId: `a${i}` });
    return agent.sandbox.runCommand('echo $((6 * 7))').then(result => result.stdout);
  });
  const ended = await Promise.allSettled(asked);
  for (const one of ended) {
    if (one.status === 'fulfilled') assert.equal(one.value, '42\n');
    else assert.ok(one.reason instanceof PoolFullError, String(one.reason));
  }
  assert.ok(ended.filter(one => one.status === 'fulfilled').length >= 3);
  assert.ok(pool.size <= 3);
  assert.deepEqual((await alive()).length, pool.size);
});

it('keeps no place for an agent that could not be made, and works across kinds', async () => {
  await using pool = new AgentPool({ dependencies: { client }, maxAgents: 1 });
  await assert.rejects(pool.create({ agentId: 'a', sandbox: { kind: 'k8s' } }), UnsupportedError);
  const agent = await pool.create({ agentId: 'a', sandbox: { kind: 'process' } });
  assert.equal(agent.sandbox.info.kind, 'process');
});

it('makes an agent again whose lifetime is over', async () => {
  await using pool = new AgentPool({ dependencies: { client }, maxAgents: 1 });
  const first = await pool.create({ agentId: 'a', timeout: 1 });
  await sleep(1100);
  const second = await pool.create({ agentId: 'a', timeout: 60 }).catch(error => error);
  assert.ok(second instanceof Agent && second.sandbox.id !== first.sandbox.id, String(second));
});

it('closes all, and makes no more', async () => {
  const pool = new AgentPool({ dependencies: createRuntime({ baseUrl: server.url, userId: `pool-${users}` }) });
  const making = pool.create({ agentId: 'a' });
  await pool.create({ agentId: 'b' });
  await pool.release('none');
  await pool.close();
  await making;
  assert.deepEqual([await alive(), pool.size], [[], 0]);
  await assert.rejects(pool.create({ agentId: 'c' }), /closed/);
  assert.throws(() => new AgentPool({ maxAgents: 0 }), /maxAgents/);
});
