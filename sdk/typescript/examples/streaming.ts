// Live output, a command that outlives its reader, and a terminal.
import { Sandbox } from 'cloud-sandbox';

async function main(): Promise<void> {
  await using sandbox = await Sandbox.create();

  await sandbox.runCommand('for i in 1 2 3; do echo $i; sleep 0.1; done', {
    onStdout: text => process.stdout.write(`live: ${text}`),
  });

  const running = await sandbox.start('for i in $(seq 5); do echo line $i; sleep 0.1; done');
  let position = 0;
  for await (const chunk of running) {
    position = chunk.seq;
    if (chunk.text.includes('line 2')) break; // the command goes on
  }
  const again = await sandbox.process(running.execId);
  for await (const chunk of again.output(position)) process.stdout.write(`attached again: ${chunk.text}`);

  const shell = await sandbox.start('bash', { pty: { cols: 100, rows: 30 }, env: { PS1: '$ ' } });
  await using terminal = await shell.attach();
  await terminal.send('echo $((6 * 7)); exit\n');
  let said = '';
  for await (const chunk of terminal) said += chunk.text;
  console.log('terminal:', said.includes('42'), terminal.exitCode);
}

main();
