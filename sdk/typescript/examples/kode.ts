// Sandboxes of the Kode agent SDK, made by a Cloud Sandbox server. With Kode installed, `factory` is its own:
//
//     import { SandboxFactory } from '@kode/sdk';
//     const factory = new SandboxFactory();
import { type KodeSandbox, type KodeSandboxFactory, registerCloudSandbox } from 'cloud-sandbox/kode';

const made = new Map<string, (config: Record<string, unknown>) => KodeSandbox>();
const factory: KodeSandboxFactory = { register: (kind, make) => void made.set(kind, make) };

async function main(): Promise<void> {
  registerCloudSandbox(factory, { metadata: { app: 'my-agents' } });

  const sandbox = made.get('process')?.({ kind: 'process', workDir: './user-123', enforceBoundary: true });
  await sandbox?.fs.write('hello.py', 'print("Hello from Kode")');
  console.log((await sandbox?.exec('python3 hello.py', { timeoutMs: 30_000 }))?.stdout.trim());
  console.log(await sandbox?.fs.glob('**/*.py'), sandbox?.fs.isInside('../other'));
  await sandbox?.dispose?.();
}

main();
