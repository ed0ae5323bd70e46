// One sandbox for each user's agent, at most a hundred at once; the one used longest ago makes room.
import { Agent, AgentPool, createRuntime } from 'cloud-sandbox';

async function main(): Promise<void> {
  const deps = createRuntime(/* { baseUrl, apiKey } */);
  const userId = 'user-123';

  await using single = await Agent.create({ agentId: `single:${userId}`, sandbox: { kind: 'process' } }, deps);
  console.log(single.agentId, single.sandbox.info.kind);

  await using pool = new AgentPool({ dependencies: deps, maxAgents: 100 });
  const agent = await pool.create({ agentId: `user:${userId}`, sandbox: { kind: 'process' } });
  console.log((await agent.sandbox.runCode('print(6 * 7)')).stdout.trim());

  // Not released while this runs, however many others ask.
  await pool.use({ agentId: `user:${userId}`, sandbox: { kind: 'process' } }, async ({ sandbox }) => {
    await sandbox.runCommand('mkdir -p notes && echo kept > notes/a');
    console.log(await sandbox.readText('/workspace/notes/a'));
  });
  console.log(pool.list());
}

main();
