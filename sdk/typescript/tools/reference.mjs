// Writes docs/reference/typescript.md from the names, signatures and comments of this package:
// `node tools/reference.mjs`; with `--check` it compares instead.

import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const CODE = new URL('../src/', import.meta.url);
const PAGE = fileURLToPath(new URL('../../../docs/reference/typescript.md', import.meta.url));

const HEAD = `# The TypeScript SDK

This page is made from the code (\`node tools/reference.mjs\` in \`sdk/typescript\`; a test compares them). How the pieces work
together is told in [sdk/typescript](../../sdk/typescript/README.md).

\`Sandbox\` has the methods of \`Files\`. All times that are given are in seconds. Every method that asks the server takes a
\`signal\` among its options, and ends with its reason when it is aborted.
`;

const CLASSES = ['sandbox', 'files', 'process', 'terminal', 'session', 'client', 'agent', 'pool', 'result', 'kode'];
const SHAPES = ['config', 'kinds', 'models', 'archive'];

const load = name =>
  ts.createSourceFile(name, readFileSync(new URL(`${name}.ts`, CODE), 'utf8'), ts.ScriptTarget.ES2022, true);

/** A comment as a cell of a table. */
function doc(node) {
  const [comment] = node.jsDoc ?? [];
  const text = ts.getTextOfJSDocComment(comment?.comment) ?? '';
  return text.replaceAll('\n\n', '<br>').replaceAll('\n', ' ').replaceAll('|', '\\|');
}

const flat = text =>
  text.replaceAll(/\s+/g, ' ').replaceAll('( ', '(').replaceAll(/,? \)/g, ')').replaceAll('{ }', '{}');
const code = text => `\`${flat(text).replaceAll('|', '\\|')}\``;
const has = (node, kind) => node.modifiers?.some(one => one.kind === kind) ?? false;
const isExported = node => has(node, ts.SyntaxKind.ExportKeyword);

function isShown(member) {
  const hidden = ts.isPrivateIdentifier(member.name ?? member) || has(member, ts.SyntaxKind.PrivateKeyword);
  return !hidden && !has(member, ts.SyntaxKind.ProtectedKeyword) && !member.name?.getText().startsWith('[Symbol');
}

/** A method without its body, a property with its type. */
function signature(member, name) {
  const source = member.getSourceFile().text;
  const end = member.body ? member.body.getStart() : member.getEnd();
  const text = source.slice((member.name ?? member).getStart(), end).replace(/;\s*$/, '');
  const prefix = has(member, ts.SyntaxKind.StaticKeyword) ? `${name}.` : '';
  if (ts.isGetAccessor(member)) return `${member.name.getText()}: ${member.type?.getText() ?? 'unknown'}`;
  return prefix + text.trim();
}

function classes(name) {
  return load(name)
    .statements.filter(node => ts.isClassDeclaration(node) && isExported(node) && !node.name.text.endsWith('Error'))
    .map(node => {
      const overloaded = new Set(
        node.members.filter(m => ts.isMethodDeclaration(m) && !m.body).map(m => m.name.getText()),
      );
      const first = new Set();
      const rows = node.members
        .filter(member => !ts.isConstructorDeclaration(member) && isShown(member))
        .filter(member => !(overloaded.has(member.name.getText()) && member.body))
        .map(member => {
          const shown = first.has(member.name.getText()) ? '' : doc(member);
          first.add(member.name.getText());
          return `| ${code(signature(member, node.name.text))} | ${shown} |`;
        });
      return `## \`${node.name.text}\`\n\n${doc(node).replaceAll('<br>', '\n\n')}\n\n| | |\n| --- | --- |\n${rows.join('\n')}\n`;
    });
}

function shapes(name) {
  return load(name)
    .statements.filter(node => (ts.isInterfaceDeclaration(node) || ts.isTypeAliasDeclaration(node)) && isExported(node))
    .map(node => {
      const what = ts.isInterfaceDeclaration(node)
        ? node.members.map(member => `\`${member.name.getText()}\``).join(', ')
        : code(node.type.getText());
      return `| \`${node.name.text}\` | ${doc(node)} | ${what} |`;
    });
}

function errors() {
  const codes = new Map();
  const visit = node => {
    if (ts.isPropertyAssignment(node) && ts.isIdentifier(node.initializer) && !/^\d/.test(node.name.getText())) {
      const kind = node.initializer.text;
      codes.set(kind, [...(codes.get(kind) ?? []), node.name.getText()]);
    }
    ts.forEachChild(node, visit);
  };
  visit(load('error-codes'));
  return load('errors')
    .statements.filter(node => ts.isClassDeclaration(node))
    .map(node => {
      const base = node.heritageClauses?.[0]?.types[0]?.getText();
      const links = (codes.get(node.name.text) ?? []).map(one => `[\`${one}\`](../errors/${one}.md)`);
      return `| \`${node.name.text}\` | \`${base}\` | ${doc(node)} | ${links.join(', ')} |`;
    });
}

const page = [
  HEAD,
  ...CLASSES.flatMap(classes),
  `## What calls take and return\n\n| | | fields |\n| --- | --- | --- |\n${SHAPES.flatMap(shapes).join('\n')}\n`,
  `## Errors\n\nAll have \`code\`, \`message\`, \`hint\`, \`requestId\`, \`status\` and \`retryAfter\`.\n`,
  `| class | is a | | codes |\n| --- | --- | --- | --- |\n${errors().join('\n')}\n`,
].join('\n');

if (process.argv.includes('--check')) {
  if (readFileSync(PAGE, 'utf8') !== page) {
    console.error(`${PAGE} is stale: run node tools/reference.mjs`);
    process.exit(1);
  }
} else {
  writeFileSync(PAGE, page);
}
