// Every kind of sandbox that a request can ask for. A server says by name which of them it does not have.
import { CloudSandboxError, Sandbox, type SandboxOptions } from 'cloud-sandbox';

const userId = '123';

const kinds: SandboxOptions[] = [
  { kind: 'local', workDir: `workspace/${userId}`, enforceBoundary: true },
  { kind: 'process' },
  { kind: 'hardened' },
  { kind: 'docker', image: 'node:18-alpine', workDir: '/app' },
  { kind: 'docker', image: 'node:18-alpine', memory: '128m', cpu: '0.5' },
  { kind: 'k8s', namespace: 'agents', podTemplate: {} },
  {
    kind: 'k8s',
    namespace: 'agents',
    resources: {
      limits: { memory: '256Mi', cpu: '500m' },
      requests: { memory: '128Mi', cpu: '250m' },
    },
  },
  { kind: 'vfs', memoryOnly: true },
  { kind: 'remote', endpoint: 'https://sandbox-api.example.com' },
  { kind: 'microvm' },
  { kind: 'remote', endpoint: ['https://one.example.com', 'https://two.example.com'] },
  { kind: 'oci', runtime: 'runc' },
];

async function main(): Promise<void> {
  for (const sandbox of kinds) {
    try {
      await using made = await Sandbox.create({ sandbox });
      console.log(`${sandbox.kind}: ${(await made.runCommand('echo ok')).stdout.trim()}`);
    } catch (error) {
      if (!(error instanceof CloudSandboxError)) throw error;
      console.log(`${sandbox.kind}: ${error.code}`);
    }
  }
}

main();
