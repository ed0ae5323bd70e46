/** Output survives lost connections: nothing twice, nothing left out, and no command is started a second time. */

import assert from 'node:assert/strict';
import { it } from 'node:test';
import {
  ConnectionLostError,
  ExecNotFoundError,
  ProtocolError,
  Sandbox,
  SandboxGoneError,
  Session,
} from '../src/index';
import { BASE, type Connection, ENDED, EXEC, execView, type Handler, Peer, SANDBOX } from './peer';

const EXECS = `${BASE}/execs`;
const TEXT = Buffer.from('línea 日本 🎈\n'.repeat(50));

const pause = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms));

for (const [how, at] of [
  ...[0, 1, 2, 7, 500].map(at => ['cut', at] as const),
  ...[1, 2, 500].map(at => ['reset', at] as const),
] as const) {
  it(`a stream that is broken by a ${how} at byte ${at} goes on where it was`, async t => {
    const peer = await Peer.start(t);
    const heard: string[] = [];
    peer.on(`POST ${EXECS}`, async c => {
      c.beginEvents();
      c.event('start', execView());
      if (at) c.output('stdout', 0, TEXT.subarray(0, at));
      c.send('40\r\nevent: stdout\nid: 9999\ndata: {'); // a piece of an event that must not count
      // A reset throws away what the client's kernel has not handed over: wait until the client has read.
      while (how === 'reset' && heard.length === 0) await pause(5);
      c[how]();
    });
    peer.on(`GET ${EXECS}/${EXEC}/output`, (c, r) => {
      const begin = Number(r.query.from);
      const end = Math.min(TEXT.length, begin + 100);
      c.beginEvents();
      c.chunk(': keep-alive\n\n');
      if (begin < end) {
        // Overlaps what was delivered, as a server that sends its last chunk again would.
        const low = Math.max(0, begin - 3);
        c.output('stdout', low, TEXT.subarray(low, end));
        c.cut();
        return;
      }
      c.event('end', execView('ended', ENDED));
      c.endEvents();
    });
    const sandbox = await Sandbox.create({ baseUrl: peer.url });
    const result = await sandbox.runCommand('x', { onStdout: text => void heard.push(text) });
    assert.ok(TEXT.equals(result.stdoutBytes));
    assert.equal(heard.join(''), TEXT.toString());
    assert.equal(peer.to(`POST ${EXECS}`).length, 1);
  });
}

const whole = (c: Connection): void => {
  c.beginEvents();
  c.event('start', execView());
  c.output('stdout', 0, Buffer.from('whole'));
  c.event('end', execView('ended', ENDED));
  c.endEvents();
};

for (const how of ['cut', 'reset', 'endEvents'] as const) {
  it(`an answer that ends with ${how} before the exec is known is asked for again`, async t => {
    const peer = await Peer.start(t);
    const nothing: Handler = c => {
      c.beginEvents();
      c[how]();
    };
    const sandbox = await Sandbox.create({ baseUrl: peer.url });
    peer.on(`POST ${EXECS}`, nothing, whole);
    assert.equal((await sandbox.runCommand('x')).stdout, 'whole');
    peer.on(`POST ${EXECS}`, nothing);
    await assert.rejects(sandbox.runCommand('x'), ConnectionLostError);
    const keys = peer.to(`POST ${EXECS}`).map(r => r.headers['idempotency-key']);
    // Two tries of the first command, four of the second at least: one key each.
    assert.deepEqual([keys[0] === keys[1], new Set(keys).size, keys.length >= 6], [true, 2, true]);
  });
}

it('a connection that breaks behind the last event costs nothing', async t => {
  const peer = await Peer.start(t);
  peer.on(`POST ${EXECS}`, c => {
    c.beginEvents();
    c.event('start', execView());
    c.event('end', execView('ended', ENDED));
    c.cut();
  });
  assert.equal((await (await Sandbox.create({ baseUrl: peer.url })).runCommand('x')).exitCode, 0);
});

it('a server that stays away is given up with the position to go on from', async t => {
  const peer = await Peer.start(t);
  peer.on(`POST ${EXECS}`, async c => {
    c.beginEvents();
    c.event('start', execView());
    c.output('stdout', 0, Buffer.from('before'));
    await pause(50);
    await peer.silence();
  });
  const sandbox = await Sandbox.create({ baseUrl: peer.url, reconnectTimeout: 0.3, maxRetries: 1 });
  const error = await sandbox.runCommand('x').catch(error => error);
  assert.ok(error instanceof ConnectionLostError);
  assert.deepEqual([error.execId, error.seq], [EXEC, 6]);
  // The server is back: the caller goes on by hand from there.
  peer.on(`GET ${EXECS}/${EXEC}`, c => c.json(200, execView()));
  peer.on(`GET ${EXECS}/${EXEC}/output`, (c, r) => {
    assert.equal(r.query.from, '6');
    c.beginEvents();
    c.output('stdout', 6, Buffer.from(' after'));
    c.event('end', execView('ended', ENDED));
    c.endEvents();
  });
  await peer.listen();
  const process = await sandbox.process(EXEC);
  const rest = [];
  for await (const chunk of process.output(error.seq)) rest.push(chunk.text);
  assert.deepEqual([rest, process.info.exitCode], [[' after'], 0]);
});

it('a server that is back in time is found again', async t => {
  const peer = await Peer.start(t);
  peer.on(`POST ${EXECS}`, c => {
    c.beginEvents();
    c.event('start', execView());
    c.output('stderr', 0, Buffer.from('one '));
    c.cut();
  });
  const unavailable: Handler = c => c.error(503, 'http_503');
  peer.on(`GET ${EXECS}/${EXEC}/output`, unavailable, unavailable, unavailable, c => {
    c.beginEvents();
    c.output('stderr', 4, Buffer.from('two'));
    c.event('end', execView('ended', ENDED));
    c.endEvents();
  });
  const sandbox = await Sandbox.create({ baseUrl: peer.url });
  assert.equal((await sandbox.runCommand('x')).stderr, 'one two');
});

it('output that jumps is an error and never a silent gap', async t => {
  const peer = await Peer.start(t);
  peer.on(`POST ${EXECS}`, c => {
    c.beginEvents();
    c.event('start', execView());
    c.output('stdout', 5, Buffer.from('late'));
    c.endEvents();
  });
  const sandbox = await Sandbox.create({ baseUrl: peer.url });
  await assert.rejects(sandbox.runCommand('x'), error => {
    return error instanceof ProtocolError && /jumped from byte 0 to 5/.test(error.message);
  });
});

it('an error inside a stream is thrown as its class', async t => {
  const peer = await Peer.start(t);
  peer.on(`POST ${EXECS}`, c => {
    c.beginEvents();
    c.event('start', execView());
    c.event('error', { error: { code: 'sandbox_gone', message: 'the sandbox went away' } });
    c.endEvents();
  });
  const sandbox = await Sandbox.create({ baseUrl: peer.url });
  await assert.rejects(sandbox.runCommand('x'), SandboxGoneError);
});

it('binary output and characters cut between chunks arrive whole', async t => {
  const peer = await Peer.start(t);
  const balloon = Buffer.from('🎈');
  peer.on(`POST ${EXECS}`, c => {
    c.beginEvents();
    c.event('start', execView());
    let seq = 0;
    for (const byte of balloon) seq = c.output('stdout', seq, Buffer.from([byte]));
    c.output('stderr', seq, Buffer.from([0xff, 0]));
    c.event('end', execView('ended', ENDED));
    c.endEvents();
  });
  const heard: string[] = [];
  const sandbox = await Sandbox.create({ baseUrl: peer.url });
  const result = await sandbox.runCommand('x', { onStdout: text => void heard.push(text) });
  assert.deepEqual([heard, [...result.stderrBytes], result.stderr], [['🎈'], [0xff, 0], '\ufffd\0']);
});

it('lines are whole whatever the chunks', async t => {
  const peer = await Peer.start(t);
  peer.on(`POST ${EXECS}`, c => c.json(202, execView()));
  peer.on(`GET ${EXECS}/${EXEC}/output`, c => {
    c.beginEvents();
    let seq = 0;
    for (const raw of ['one\ntw', 'o\r\n', 'err', Buffer.from('thr\xc3', 'latin1'), Buffer.from('\xa9e', 'latin1')]) {
      seq = c.output(raw === 'err' ? 'stderr' : 'stdout', seq, Buffer.from(raw as string));
    }
    c.event('end', execView('ended', ENDED));
    c.endEvents();
  });
  const lines = [];
  for await (const line of (await (await Sandbox.create({ baseUrl: peer.url })).start('x')).lines()) lines.push(line);
  assert.deepEqual(lines, ['one', 'two', 'thrée']);
});

it('who stops listening closes the connection, and the exec goes on', async t => {
  const peer = await Peer.start(t);
  let closed = false;
  peer.on(`POST ${EXECS}`, c => c.json(202, execView()));
  peer.on(`GET ${EXECS}/${EXEC}/output`, c => {
    c.socket.on('close', () => {
      closed = true;
    });
    c.beginEvents();
    c.output('stdout', 0, Buffer.from('one'));
  });
  const process = await (await Sandbox.create({ baseUrl: peer.url })).start('x');
  for await (const chunk of process) {
    assert.equal(chunk.text, 'one');
    break;
  }
  while (!closed) await pause(5);
  assert.ok(process.running);
});

it('a handler’s result is asked for where its stream had to be attached to again', async t => {
  const peer = await Peer.start(t);
  const session = {
    ...{ session_id: 'se-1', user_id: 'u', template_id: 'host', state: 'running', sandbox_id: SANDBOX, metadata: {} },
    resources: { cpu: 1, memory: 1, disk: 1, pids: 1, inodes: 1, nofile: 1 },
    ...{ created_at: '2026-01-02T03:04:05Z', updated_at: '2026-01-02T03:04:05Z' },
  };
  peer.on('POST /api/v1/sessions', c => c.json(201, session));
  peer.on('GET /api/v1/sessions/se-1', c => c.json(200, session));
  peer.on('POST /api/v1/sessions/se-1/execute', c => {
    c.beginEvents();
    c.event('start', execView());
    c.cut();
  });
  peer.on(`GET ${EXECS}/${EXEC}/output`, c => {
    c.beginEvents();
    c.event('end', execView('ended', ENDED));
    c.endEvents();
  });
  peer.on(`GET /api/v1/sessions/se-1/executions/${EXEC}`, c => {
    c.json(200, { ...execView('ended', ENDED), stdout: '', stderr: '', encoding: 'utf-8', result: 42 });
  });
  const made = await Session.create({ baseUrl: peer.url });
  assert.equal((await made.execute('def handler(event): return 42')).result, 42);
});

// -- terminals --------------------------------------------------------------------------------------------------

it('a terminal survives a lost connection, and what is typed meanwhile goes together in order', async t => {
  const peer = await Peer.start(t);
  const typed: string[] = [];
  peer.on(`POST ${EXECS}`, c => c.json(202, execView('running', { pty: true })));
  peer.on(`GET ${EXECS}/${EXEC}`, c => c.json(200, execView('running', { pty: true })));
  peer.on(`POST ${EXECS}/${EXEC}/stdin`, async (c, r) => {
    typed.push(r.body.toString());
    await pause(20);
    c.empty();
  });
  peer.on(
    `GET ${EXECS}/${EXEC}/output`,
    c => {
      c.beginEvents();
      c.output('pty', 0, Buffer.from('one '));
      c.cut();
    },
    (c, r) => {
      assert.equal(r.query.from, '4');
      c.beginEvents();
      c.output('pty', 4, Buffer.from('two'));
      c.event('end', execView('ended', ENDED));
      c.endEvents();
    },
  );
  const process = await (await Sandbox.create({ baseUrl: peer.url })).start('bash', { pty: true });
  await using terminal = await process.attach();
  const first = terminal.send('a');
  await pause(5);
  await Promise.all([first, ...[...'bcdef'].map(letter => terminal.send(letter))]);
  assert.deepEqual(typed, ['a', 'bcdef']);
  let said = '';
  for await (const chunk of terminal) said += chunk.text;
  assert.deepEqual([said, terminal.seq, terminal.exitCode, await terminal.recv()], ['one two', 7, 0, undefined]);
});

it('a terminal of an exec that is not there is refused as such', async t => {
  const peer = await Peer.start(t);
  peer.on(`POST ${EXECS}`, c => c.json(202, execView()));
  peer.on(`GET ${EXECS}/${EXEC}`, c => c.error(404, 'exec_not_found'));
  const process = await (await Sandbox.create({ baseUrl: peer.url })).start('x');
  await assert.rejects(process.attach(), ExecNotFoundError);
});
