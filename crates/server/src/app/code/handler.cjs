'use strict';
// Runs a file as the main module, then calls the `handler` it defines and leaves what that returned in a file.
const fs = require('fs');
const Module = require('module');

const [file, eventFile, resultFile] = process.argv.slice(2);
const call = JSON.parse(fs.readFileSync(eventFile, 'utf8'));
process.argv = [process.argv[0], file];

const context = {
  ...call.context,
  functionName: call.context.function_name,
  awsRequestId: call.context.aws_request_id,
  memoryLimitInMB: String(call.context.memory_limit_in_mb),
  getRemainingTimeInMillis: () =>
    call.context.deadline_ms === null ? null : Math.max(0, Math.trunc(call.context.deadline_ms - Date.now())),
};

const main = new Module(file, null);
main.id = '.';
main.filename = file;
main.paths = Module._nodeModulePaths(process.cwd());
process.mainModule = main;
require.cache[file] = main;
// On the last line, so that the line numbers of errors are the code's own.
const source = fs.readFileSync(file, 'utf8').replace(/^#!.*/, '') +
  "\n;if (typeof handler === 'function' && module.exports && module.exports.handler === undefined) module.exports.handler = handler;";
main._compile(source, file);
main.loaded = true;

const handler = main.exports && main.exports.handler;
if (typeof handler === 'function') {
  const answer = handler.length >= 3
    ? new Promise((resolve, reject) =>
        handler(call.event, context, (error, value) => (error ? reject(error) : resolve(value))))
    : handler(call.event, context);
  Promise.resolve(answer).then((value) => {
    fs.writeFileSync(resultFile, JSON.stringify(value === undefined ? null : value));
  }).catch((error) => {
    process.exitCode = 1;
    console.error(error);
  });
} else if (call.given) {
  throw new ReferenceError('an event was given, and the code defines no `handler`');
}
