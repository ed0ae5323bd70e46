/** The package as npm packs it, used as its users do; and the examples, run. */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import * as fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';
import { PACKAGE, type Server, serve } from './server';

const run = promisify(execFile);

describe('the packed package', () => {
  let project: string;

  before(async () => {
    project = await fs.mkdtemp(join(tmpdir(), 'csb-ts-package-'));
    // Built by scripts/test-typescript.sh, as `prepare` would.
    const npm = async (...args: string[]) =>
      run('npm', [...args, '--ignore-scripts', '--loglevel=error'], { cwd: PACKAGE });
    const packed = JSON.parse((await npm('pack', '--json', '--pack-destination', project)).stdout);
    const files: string[] = packed[0].files.map((file: { path: string }) => file.path);
    assert.deepEqual(
      files.filter(path => !/^(dist\/|src\/|package\.json$|README\.md$)/.test(path)),
      [],
    );
    await fs.writeFile(join(project, 'package.json'), '{"private": true}');
    await npm('install', '--offline', '--no-audit', '--prefix', project, join(project, packed[0].filename));
    await fs.symlink(join(PACKAGE, 'node_modules/@types'), join(project, 'node_modules/@types'));
  });
  after(() => fs.rm(project, { recursive: true }));

  it('has no dependency', async () => {
    const installed = (await fs.readdir(join(project, 'node_modules'))).filter(name => !name.startsWith('.'));
    assert.deepEqual(installed.sort(), ['@types', 'cloud-sandbox']);
  });

  it('gives the same classes to `import` and to `require`', async () => {
    const code = `
      import * as imported from 'cloud-sandbox';
      import * as kode from 'cloud-sandbox/kode';
      import { createRequire } from 'node:module';
      const require = createRequire(import.meta.url);
      const same = (one, other) => Object.keys(other).filter(name => one[name] !== other[name]);
      const required = require('cloud-sandbox');
      console.log(JSON.stringify({
        different: [...same(imported, required), ...same(kode, require('cloud-sandbox/kode'))],
        some: ['Sandbox', 'Session', 'Client', 'AgentPool', 'UnsupportedError'].filter(name => !(name in imported)),
        kode: typeof kode.registerCloudSandbox,
        private: Object.keys(imported).filter(name => /^[a-z]/.test(name)),
      }));`;
    await fs.writeFile(join(project, 'both.mjs'), code);
    const { stdout } = await run(process.execPath, ['both.mjs'], { cwd: project });
    const found = { different: [], some: [], kode: 'function', private: ['createRuntime'] };
    assert.deepEqual(JSON.parse(stdout), found);
  });

  it('has types for every way in which TypeScript finds them', async () => {
    const code = `
      import { type SandboxOptions, Sandbox, UnsupportedError } from 'cloud-sandbox';
      import { registerCloudSandbox } from 'cloud-sandbox/kode';
      export const options: SandboxOptions = { kind: 'docker', image: 'node:18-alpine', cpu: '0.5' };
      // @ts-expect-error a field that this kind does not have
      export const wrong: SandboxOptions = { kind: 'vfs', image: 'node:18-alpine' };
      export async function main(): Promise<string> {
        await using sandbox = await Sandbox.create({ sandbox: options });
        // @ts-expect-error in the background there is a process, and no result
        (await sandbox.runCommand('true', { background: true })).exitCode;
        for (const entry of await sandbox.listFiles()) entry.modifiedAt.getTime();
        return (await sandbox.runCode('1', { onStdout: text => text.length })).stdout;
      }
      export const isUnsupported = (error: unknown): boolean => error instanceof UnsupportedError;
      export { registerCloudSandbox };`;
    await fs.writeFile(join(project, 'use.mts'), code);
    await fs.writeFile(join(project, 'use.cts'), code);
    await fs.writeFile(join(project, 'use.ts'), code);
    await fs.writeFile(join(project, 'readme.mts'), await readme());
    const tsc = join(PACKAGE, 'node_modules/typescript/bin/tsc');
    const check = (files: string[], ...options: string[]): Promise<unknown> => {
      const common = ['--noEmit', '--strict', '--target', 'es2022', '--types', 'node', '--exactOptionalPropertyTypes'];
      return run(process.execPath, [tsc, ...common, ...options, ...files], { cwd: project }).catch(error => {
        throw new Error(`tsc ${options.join(' ')}:\n${error.stdout}`);
      });
    };
    await check(['use.mts', 'use.cts', 'readme.mts'], '--module', 'node16', '--moduleResolution', 'node16');
    await check(['use.ts'], '--module', 'esnext', '--moduleResolution', 'bundler', '--skipLibCheck');
    await check(['use.ts'], '--module', 'commonjs', '--moduleResolution', 'node10', '--skipLibCheck');
  });
});

/** The README's programs as one module: each block a function, with the names that it takes for granted. */
async function readme(): Promise<string> {
  const text = await fs.readFile(join(PACKAGE, 'README.md'), 'utf8');
  const blocks = [...text.matchAll(/```ts\n([\s\S]*?)```/g)].map(([, block = '']) => block);
  assert.ok(blocks.length >= 8);
  const bodies = blocks.map(block => {
    const lines = block.split('\n').filter(line => line && !line.startsWith('import '));
    if (!block.startsWith('{ kind'))
      return `export async function f${blocks.indexOf(block)}() {\n${lines.join('\n')}\n}`;
    return `export const kinds: SandboxOptions[] = [${lines.map(line => line.replace(/\s+\/\/ .*/, '')).join(',\n')}];`;
  });
  return `
    import { AgentPool, Client, createRuntime, Sandbox, type SandboxOptions, Session } from 'cloud-sandbox';
    import { type KodeSandboxFactory, registerCloudSandbox } from 'cloud-sandbox/kode';
    declare class SandboxFactory implements KodeSandboxFactory {
      register: KodeSandboxFactory['register'];
      create(config: object): unknown;
    }
    declare const code: string, bytes: Uint8Array, content: string, path: string, a: string, b: string;
    declare const position: number, sandboxId: string, userId: string, keyId: string, baseUrl: string, apiKey: string;
    declare let sandbox: Sandbox;
    ${bodies.join('\n')}`;
}

describe('the examples', () => {
  let server: Server;
  before(async () => {
    server = await serve();
  });
  after(() => server.stop());

  const example = async (name: string): Promise<string> => {
    const env = { ...process.env, CSB_SERVER: server.url };
    return (await run(process.execPath, [join(PACKAGE, 'build/examples', `${name}.js`)], { env, cwd: PACKAGE })).stdout;
  };
  const expected: Record<string, RegExp> = {
    'quick-start': /^Hello, Cloud Sandbox!\n\/workspace\/test\.py 6\n0 test\.py\n$/,
    streaming: /^live: 1\n(live: )?2\n(live: )?3\n(attached again: )?line 3\n[\s\S]*line 5\nterminal: true 0\n$/,
    agents: /^single:user-123 process\n42\nkept\n\n\[ 'user:user-123' \]\n$/,
    kode: /^Hello from Kode\n\[ 'hello\.py' \] false\n$/,
    kinds:
      /^local: \w+\nprocess: ok\nhardened: \w+\n(docker: \w+\n){2}(k8s: \w+\n){2}vfs: ok\nremote: \w+\nmicrovm: \w+\nremote: \w+\noci: \w+\n$/,
  };
  for (const [name, output] of Object.entries(expected)) {
    it(`${name} prints what it should`, async () => assert.match(await example(name), output));
  }

  it('are all run', async () => {
    const there = (await fs.readdir(join(PACKAGE, 'examples'))).map(name => name.replace('.ts', ''));
    assert.deepEqual(there.sort(), Object.keys(expected).sort());
  });
});
