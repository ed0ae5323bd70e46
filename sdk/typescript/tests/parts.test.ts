/** The parts without I/O: events, positions, patterns, the retry rule; and that what is generated is up to date. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { it } from 'node:test';
import { ERROR_CLASSES } from '../src/error-codes';
import { expandBraces, glob } from '../src/glob';
import * as sdk from '../src/index';
import { backoff, delayBeforeRetry } from '../src/retry';
import { decode, type Event, Parser } from '../src/sse';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

it('events are the same however the bytes are cut', () => {
  const wanted = [...Array.from({ length: 50 }, (_, i) => ['stdout', `line ${i}: é🎈`]), ['end', 'a\nb']];
  let text = ': comment\r\n\r\n';
  wanted.forEach(([name, data = ''], i) => {
    const end = i % 3 ? '\n' : '\r\n';
    text += `event: ${name}${end}id: 1${end}${data
      .split('\n')
      .map(line => `data: ${line}${end}`)
      .join('')}${end}`;
  });
  const raw = bytes(text);
  for (const size of [1, 2, 3, 7, 10, 100, 1000, raw.length]) {
    const parser = new Parser();
    const got: Event[] = [];
    for (let at = 0; at < raw.length; at += size) got.push(...parser.feed(raw.subarray(at, at + size)));
    assert.deepEqual(
      got.map(event => [event.name, event.data]),
      wanted,
      `in pieces of ${size}`,
    );
  }
});

it('a cut event never counts, an endless one is refused, a new one is passed over', () => {
  const raw = bytes('event: stdout\ndata: {"seq":2,"data":"hi","encoding":"utf-8"}\n\n');
  for (let end = 0; end < raw.length; end += 1) assert.deepEqual([...new Parser().feed(raw.subarray(0, end))], []);
  const parser = new Parser(1000);
  assert.throws(() => {
    for (let i = 0; i < 20; i += 1) [...parser.feed(bytes(`data: ${'x'.repeat(94)}\n`))];
  }, sdk.ProtocolError);
  assert.equal(decode({ name: 'progress', data: 'anything' }), undefined);
});

it('an output event that cannot be read is a protocol error', () => {
  const texts = ['', 'null', '[]', '{"seq":"x","data":"a","encoding":"utf-8"}', '{"seq":1}', '{"data":1,"seq":1}'];
  for (const data of [
    ...texts,
    '{"seq":1,"data":"?","encoding":"base64"}',
    '{"seq":1,"data":"a","encoding":"rot13"}',
  ]) {
    assert.throws(() => decode({ name: 'stdout', data }), sdk.ProtocolError, data);
  }
});

it('nothing that may not happen twice is sent again where the server may have seen it', () => {
  for (const outcome of ['unknown', 'gateway'] as const) {
    assert.equal(delayBeforeRetry(outcome, 'once', 0, 9), undefined);
    assert.ok(delayBeforeRetry(outcome, 'repeatable', 0, 9));
  }
  for (const safety of ['once', 'repeatable'] as const) {
    assert.ok(delayBeforeRetry('not_sent', safety, 0, 1));
    assert.equal(delayBeforeRetry('not_sent', safety, 1, 1), undefined);
    assert.deepEqual(
      [delayBeforeRetry('refused', safety, 0, 1, 7), delayBeforeRetry('refused', safety, 0, 1, 31)],
      [7, undefined],
    );
  }
  for (let attempt = 0; attempt < 100; attempt += 1) assert.ok(backoff(attempt) >= 0.05 && backoff(attempt) <= 5);
});

it('patterns match what shells match', () => {
  const cases: [string, string[], string[]][] = [
    ['*.ts', ['a.ts', '_.ts'], ['a.tsx', 'd/a.ts', '.a.ts', '']],
    ['**/*.ts', ['a.ts', 'd/a.ts', 'd/e/a.ts'], ['.git/a.ts', 'd/.a.ts', 'a.js']],
    ['src/**', ['src/a', 'src/b/c'], ['a', 'src/.a', 'lib/src/a']],
    ['src/**/x/*', ['src/x/a', 'src/a/x/b', 'src/x/x/b'], ['src/x', 'src/x/a/b']],
    ['./a', ['a'], ['b', './a']],
    ['a?c', ['abc', 'aéc', 'a🎈c'], ['ac', 'a/c']],
    ['[a-c]x[!0-9]', ['axy', 'cx_'], ['dxy', 'ax1']],
    ['[]-]', [']', '-'], ['x']],
    ['*.{js,ts{,x}}', ['a.js', 'a.ts', 'a.tsx'], ['a.jsx', 'a.{js']],
    ['{a}', ['{a}'], ['a']],
    ['.*', ['.a'], ['a']],
    ['\\*', ['*'], ['a', '\\*']],
    ['a*b*c', ['abc', 'aXbXbc'], ['ab', 'acb']],
    ['[', ['['], ['x']],
    ['(a|b)+', ['(a|b)+'], ['a', 'ab']],
  ];
  for (const [pattern, yes, no] of cases) {
    for (const path of yes) assert.ok(glob(pattern).matches(path), `${pattern} matches ${path}`);
    for (const path of no) assert.ok(!glob(pattern).matches(path), `${pattern} does not match ${path}`);
  }
  assert.ok(glob('**/*', { dot: true }).matches('.git/.x'));
  assert.deepEqual(expandBraces('a{b,c}{d,e}'), ['abd', 'abe', 'acd', 'ace']);
  const bases = ['src/a/*.ts', 'src/{a,b}/c', '*.ts', 'src/a/b.ts', '**/x', 'src/a{1,2}/*'].map(one => glob(one).base);
  assert.deepEqual(bases, ['src/a', 'src', '', 'src/a', '', 'src']);
});

it('a pattern made to take long does not', () => {
  const started = performance.now();
  assert.ok(!glob(`${'*a'.repeat(500)}b`).matches('a'.repeat(5000)));
  assert.ok(!glob(`${'**/a/'.repeat(100)}b`).matches('a/'.repeat(1000)));
  assert.throws(() => glob('{a,b}'.repeat(100)), /alternatives/);
  assert.ok(performance.now() - started < 20_000);
});

it('each error code of the documentation has a class, and each class is told of', () => {
  const pages = readdirSync('../../docs/errors').filter(name => name !== 'README.md');
  assert.deepEqual(Object.keys(ERROR_CLASSES).sort(), pages.map(name => name.replace('.md', '')).sort());
  const exported = new Set<unknown>(Object.values(sdk));
  for (const kind of Object.values(ERROR_CLASSES)) assert.ok(exported.has(kind), kind.name);
});

it('each kind of the API has a type, and the reverse', () => {
  // Held by the compiler, in both directions as far as the API goes.
  const known: sdk.SandboxOptions['kind'] = null as unknown as sdk.Kind;
  assert.equal(known, null);
});

it('each option of a kind in the API has a type, and the reverse', () => {
  const { components } = JSON.parse(readFileSync('../../openapi/openapi.json', 'utf8'));
  const wire = Object.keys(components.schemas.SandboxKindRequest.properties);
  const typed = readFileSync('src/kinds.ts', 'utf8').matchAll(/^ {2}(\w+)\??:/gm);
  assert.deepEqual([...new Set([...typed].map(([, name]) => name))].sort(), wire.sort());
});

it('what is generated is up to date', () => {
  execFileSync(process.execPath, ['tools/models.mjs', '--check'], { stdio: 'pipe' });
  execFileSync(process.execPath, ['tools/reference.mjs', '--check'], { stdio: 'pipe' });
  assert.equal(JSON.parse(readFileSync('package.json', 'utf8')).version, sdk.VERSION);
});
