// The first steps. Start a server with `csb serve --dev` first.
import { Sandbox } from 'cloud-sandbox';

async function main(): Promise<void> {
  await using sandbox = await Sandbox.create({ userId: 'my-user' });

  const result = await sandbox.runCode("print('Hello, Cloud Sandbox!')");
  console.log(result.stdout.trim());

  await sandbox.writeFile('/workspace/test.py', 'x = 42');
  for (const file of await sandbox.listFiles('/workspace')) console.log(file.path, file.size);

  const listing = await sandbox.runCommand('ls /workspace');
  console.log(listing.exitCode, listing.stdout.trim());
}

main();
