// Writes src/models.ts from openapi/openapi.json: `node tools/models.mjs`; with `--check` it compares instead.
//
// A request becomes an interface and a table of its fields' names on the wire; an answer becomes an interface and a
// function that reads it. Names are camelCase here and snake_case there; times are `Date`; what may be absent is null.

import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const SOURCE = fileURLToPath(new URL('../../../openapi/openapi.json', import.meta.url));
const TARGET = fileURLToPath(new URL('../src/models.ts', import.meta.url));

/** What a schema is called here, where that differs. */
const NAMES = {
  CapabilitiesView: 'Capabilities',
  CommandRequest: 'Command',
  ExecResultView: 'ExecResult',
  ExecView: 'ExecInfo',
  FileEntryView: 'FileEntry',
  FileListView: 'FileListing',
  HealthView: 'Health',
  IoView: 'IoLimits',
  KeySecretView: 'NewApiKey',
  KeyView: 'ApiKey',
  KindName: 'Kind',
  KindView: 'KindInfo',
  LanguageView: 'Language',
  NetworkName: 'Network',
  OutputEvent: 'OutputPiece',
  PoolStatsView: 'PoolCounts',
  PoolView: 'PoolStats',
  PtySizeRequest: 'TerminalSize',
  ResourcesView: 'Resources',
  SandboxKindRequest: 'SandboxOptions',
  SandboxView: 'SandboxInfo',
  SessionView: 'SessionInfo',
  SignalValue: 'Signal',
  StartedByName: 'StartedBy',
  StatsView: 'SandboxStats',
  StdinRequest: 'Stdin',
  StorageName: 'Storage',
  TemplateView: 'Template',
  TokenView: 'Token',
  UnpackView: 'UnpackInfo',
  WardenView: 'WardenInfo',
};

/** What is left out, and why. */
const LEFT_OUT = new Map([
  ['SandboxKindRequest', 'kinds.ts has a type for the options of each kind'],
  ['Endpoints', 'kinds.ts has it as the `endpoint` of `remote`'],
  ['ErrorBody', 'errors.ts reads it'],
  ['ErrorDetail', 'errors.ts reads it'],
  ['ErrorCode', 'errors.ts has a class for each'],
  ['ExecuteRequest', 'the short form of the API is not used'],
  ['ReleaseRequest', 'the short form of the API is not used'],
  ['ReleaseView', 'the short form of the API is not used'],
  ['WsClient', 'terminals are made of event streams and requests'],
  ['WsServer', 'terminals are made of event streams and requests'],
]);

const document = JSON.parse(readFileSync(SOURCE, 'utf8'));
const schemas = Object.entries(document.components.schemas).filter(
  ([name]) => !LEFT_OUT.has(name) && !/^(Items|Page)_/.test(name),
);

const camel = name => name.replace(/_(.)/g, (_, letter) => letter.toUpperCase());
const lower = name => name[0].toLowerCase() + name.slice(1);
const named = ref => {
  const name = ref.slice(ref.lastIndexOf('/') + 1);
  return NAMES[name] ?? name;
};
const find = ref => document.components.schemas[ref.slice(ref.lastIndexOf('/') + 1)];
const doc = (text, indent = '') => (text ? `${indent}/** ${text.replaceAll('\n', `\n${indent} * `)} */\n` : '');
const isObject = schema => schema.type === 'object' && schema.properties !== undefined;
const isRequest = name => name.endsWith('Request');

/** A schema without "or null", and whether it said so. */
function split(schema) {
  if (Array.isArray(schema.type)) {
    const [type] = schema.type.filter(one => one !== 'null');
    return [{ ...schema, type }, schema.type.includes('null')];
  }
  const others = schema.oneOf?.filter(one => one.type !== 'null');
  if (others && others.length < schema.oneOf.length)
    return [{ ...others[0], description: others[0].description }, true];
  return [schema, false];
}

/** The type of a value. `readonly` marks arrays of answers, and of what a caller gives. */
function type(schema) {
  if (schema.$ref) return named(schema.$ref);
  if (schema.enum) return schema.enum.map(one => `'${one}'`).join(' | ');
  if (schema.oneOf) return [...new Set(schema.oneOf.map(type))].join(' | ');
  switch (schema.type) {
    case 'string':
      return schema.format === 'date-time' ? 'Date' : 'string';
    case 'integer':
    case 'number':
      return 'number';
    case 'boolean':
      return 'boolean';
    case 'array':
      return `readonly ${type(schema.items)}[]`;
    case 'object':
      // Without properties: any JSON, such as what a handler returned.
      return schema.additionalProperties ? `Readonly<Record<string, ${type(schema.additionalProperties)}>>` : 'unknown';
    default:
      throw new Error(`no type for ${JSON.stringify(schema)}`);
  }
}

/** All properties, also of schemas that this one is put together from. */
function properties(schema) {
  const parts = schema.allOf ? schema.allOf.map(part => (part.$ref ? find(part.$ref) : part)) : [schema];
  const required = new Set(parts.flatMap(part => part.required ?? []));
  return parts
    .flatMap(part => Object.entries(part.properties))
    .map(([name, whole]) => {
      const [value, nullable] = split(whole);
      return { name, value, text: whole.description ?? value.description, absent: nullable || !required.has(name) };
    });
}

function requestCode(name, schema) {
  const fields = properties(schema);
  const lines = fields.map(({ name, value, text, absent }) => {
    const mark = absent ? '?' : '';
    return `${doc(text, '  ')}  ${camel(name)}${mark}: ${type(value)}${absent ? ' | undefined' : ''};`;
  });
  const table = fields.flatMap(({ name, value }) => {
    const inner = value.$ref && isObject(find(value.$ref)) && !LEFT_OUT.has(value.$ref.split('/').pop());
    if (inner) return [`  ${camel(name)}: ['${name}', ${lower(named(value.$ref))}],`];
    return camel(name) === name ? [] : [`  ${camel(name)}: '${name}',`];
  });
  return (
    `${doc(schema.description)}export interface ${name} {\n${lines.join('\n')}\n}\n\n` +
    `export const ${lower(name)}: Names = {${table.length ? `\n${table.join('\n')}\n` : ''}};\n`
  );
}

function readCode({ name, value, absent }) {
  const from = (one, many = '') =>
    `from.${absent ? `maybe${one[0].toUpperCase()}${one.slice(1)}` : one}('${name}'${many})`;
  const as = code => `${code} as ${type(value)}${absent ? ' | null' : ''}`;
  if (value.$ref) {
    const target = find(value.$ref);
    if (isObject(target) || target.allOf) return from('object', `, read${named(value.$ref)}`);
    if (target.enum) return as(from('text'));
    if (target.type === 'number') return from('number');
    return as(from('any'));
  }
  if (value.enum) return as(from('text'));
  switch (value.type) {
    case 'string':
      return from(value.format === 'date-time' ? 'time' : 'text');
    case 'integer':
    case 'number':
      return from('number');
    case 'boolean':
      return from('boolean');
    case 'array':
      if (value.items.$ref) return from('list', `, read${named(value.items.$ref)}`);
      return from('texts');
    case 'object':
      return value.additionalProperties ? from('labels') : from('any');
    default:
      throw new Error(`no reader for ${JSON.stringify(value)}`);
  }
}

function answerCode(name, schema) {
  const fields = properties(schema);
  const lines = fields.map(({ name, value, text, absent }) => {
    const or = absent && type(value) !== 'unknown' ? ' | null' : '';
    return `${doc(text, '  ')}  readonly ${camel(name)}: ${type(value)}${or};`;
  });
  const reads = fields.map(field => `    ${camel(field.name)}: ${readCode(field)},`);
  return (
    `${doc(schema.description)}export interface ${name} {\n${lines.join('\n')}\n}\n\n` +
    `export function read${name}(data: unknown): ${name} {\n  const from = new Fields('${name}', data);\n` +
    `  return {\n${reads.join('\n')}\n  };\n}\n`
  );
}

function code(schemaName, schema) {
  const name = NAMES[schemaName] ?? schemaName;
  if (isObject(schema) && isRequest(schemaName)) return requestCode(name, schema);
  if (isObject(schema) || schema.allOf) return answerCode(name, schema);
  return `${doc(schema.description)}export type ${name} = ${type(schema)};\n`;
}

/** Tables refer to tables: what is referred to comes first. */
function sorted(entries) {
  const done = new Map();
  const visit = ([name, schema]) => {
    if (done.has(name)) return;
    for (const { value } of isObject(schema) && isRequest(name) ? properties(schema) : []) {
      const inner = value.$ref?.split('/').pop();
      if (inner && isRequest(inner) && !LEFT_OUT.has(inner)) visit([inner, document.components.schemas[inner]]);
    }
    done.set(name, schema);
  };
  entries.forEach(visit);
  return [...done];
}

const page = `${[
  '// Made from openapi/openapi.json by tools/models.mjs: change that, not this.\n\n' +
    "import { Fields, type Names } from './fields';\nimport type { SandboxOptions } from './kinds';\n",
  ...sorted(schemas).map(([name, schema]) => code(name, schema)),
].join('\n')}`;

if (process.argv.includes('--check')) {
  if (readFileSync(TARGET, 'utf8') !== page) {
    console.error(`${TARGET} is stale: run node tools/models.mjs`);
    process.exit(1);
  }
} else {
  writeFileSync(TARGET, page);
}
