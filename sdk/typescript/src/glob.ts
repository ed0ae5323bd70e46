/**
 * Patterns of paths: `*`, `?`, `[a-z]`, `{a,b}` and `**` for any number of directories. Pure; no regular expressions,
 * whose worst cases a pattern from a stranger could ask for.
 */

import { CloudSandboxError } from './errors';

type Token = { readonly kind: 'any' } | { readonly kind: 'one'; readonly takes: (letter: string) => boolean };
type Segment = '**' | { readonly tokens: readonly Token[]; readonly dot: boolean };

/** More than anybody writes. */
const MOST_ALTERNATIVES = 1000;

export interface Glob {
  /** The directories that every match lies in; empty for none. */
  readonly base: string;
  /** Whether a path with `/` between its parts matches. */
  matches(path: string): boolean;
}

/** Compiles a pattern. Names that begin with a dot are matched where the pattern names the dot, or with `dot`. */
export function glob(pattern: string, { dot = false }: { dot?: boolean | undefined } = {}): Glob {
  const alternatives = expandBraces(pattern).map(one => one.split('/').filter(part => part !== '' && part !== '.'));
  const compiled = alternatives.map(parts => parts.map(compileSegment));
  return {
    base: sharedBase(alternatives),
    matches: path => compiled.some(segments => matchSegments(segments, path.split('/'), dot)),
  };
}

/** `a{b,c}` is `ab` and `ac`. Braces without a comma, or without an end, stand for themselves. */
export function expandBraces(pattern: string): string[] {
  const done: string[] = [];
  const waiting = [pattern];
  for (let one = waiting.pop(); one !== undefined; one = waiting.pop()) {
    const found = expandFirst(one);
    if (found) waiting.push(...found.reverse());
    else done.push(one);
    if (waiting.length + done.length > MOST_ALTERNATIVES) {
      throw new CloudSandboxError(
        `a pattern with more than ${MOST_ALTERNATIVES} alternatives: ${pattern.slice(0, 100)}`,
      );
    }
  }
  return done;
}

/** The alternatives of the first braces that have any. */
function expandFirst(pattern: string): string[] | undefined {
  let depth = 0;
  let cuts: number[] = [];
  for (let at = 0; at < pattern.length; at += 1) {
    const letter = pattern[at];
    if (letter === '\\') at += 1;
    else if (letter === '{') {
      if (depth === 0) cuts = [at];
      depth += 1;
    } else if (letter === ',' && depth === 1) cuts.push(at);
    else if (letter === '}' && depth > 0) {
      depth -= 1;
      if (depth > 0 || cuts.length === 1) continue;
      const ends = [...cuts.slice(1), at];
      return ends.map(
        (end, i) => pattern.slice(0, cuts[0]) + pattern.slice((cuts[i] ?? 0) + 1, end) + pattern.slice(at + 1),
      );
    }
  }
  return undefined;
}

function compileSegment(part: string): Segment {
  if (part === '**') return part;
  const tokens: Token[] = [];
  const letters = [...part];
  for (let at = 0; at < letters.length; at += 1) {
    const letter = letters[at] ?? '';
    const end = letter === '[' ? letters.indexOf(']', at + (/[!^]/.test(letters[at + 1] ?? '') ? 3 : 2)) : -1;
    if (letter === '*') tokens.push({ kind: 'any' });
    else if (letter === '?') tokens.push({ kind: 'one', takes: () => true });
    else if (end > 0) {
      tokens.push({ kind: 'one', takes: compileClass(letters.slice(at + 1, end)) });
      at = end;
    } else {
      if (letter === '\\' && at + 1 < letters.length) at += 1;
      const wanted = letters[at];
      tokens.push({ kind: 'one', takes: one => one === wanted });
    }
  }
  return { tokens, dot: part.startsWith('.') || part.startsWith('\\.') };
}

function compileClass(letters: readonly string[]): (letter: string) => boolean {
  const negated = letters[0] === '!' || letters[0] === '^';
  const body = negated ? letters.slice(1) : letters;
  const ranges: [string, string][] = [];
  for (let at = 0; at < body.length; at += 1) {
    const from = body[at] ?? '';
    const isRange = body[at + 1] === '-' && at + 2 < body.length;
    ranges.push([from, (isRange ? body[at + 2] : from) ?? '']);
    if (isRange) at += 2;
  }
  return letter => ranges.some(([from, to]) => from <= letter && letter <= to) !== negated;
}

/** Which rest of the pattern matches which rest of the path, from the ends backwards: each pair is looked at once. */
function matchSegments(segments: readonly Segment[], parts: readonly string[], dot: boolean): boolean {
  let below: boolean[] = parts.map(() => false);
  below.push(true);
  for (const segment of [...segments].reverse()) {
    const row: boolean[] = new Array(parts.length + 1).fill(false);
    for (let at = parts.length; at >= 0; at -= 1) {
      const part = parts[at];
      if (segment === '**') {
        row[at] = below[at] === true || (part !== undefined && shown(part, dot) && row[at + 1] === true);
      } else if (part !== undefined) {
        row[at] = below[at + 1] === true && shown(part, dot || segment.dot) && matchTokens(segment.tokens, [...part]);
      }
    }
    below = row;
  }
  return below[0] === true;
}

function shown(part: string, dot: boolean): boolean {
  return dot || !part.startsWith('.');
}

/** The last `*` takes one letter more whenever what comes behind it does not fit. */
function matchTokens(tokens: readonly Token[], letters: readonly string[]): boolean {
  let token = 0;
  let star = -1;
  let mark = 0;
  for (let at = 0; at < letters.length; ) {
    const wanted = tokens[token];
    if (wanted?.kind === 'any') {
      star = token;
      mark = at;
      token += 1;
    } else if (wanted?.takes(letters[at] ?? '')) {
      token += 1;
      at += 1;
    } else if (star >= 0) {
      mark += 1;
      at = mark;
      token = star + 1;
    } else {
      return false;
    }
  }
  return tokens.slice(token).every(rest => rest.kind === 'any');
}

function sharedBase(alternatives: readonly (readonly string[])[]): string {
  const plain = alternatives.map(parts => {
    const end = parts.findIndex(part => /[*?[\\{]/.test(part));
    return parts.slice(0, end < 0 ? Math.max(0, parts.length - 1) : end);
  });
  const [first = [], ...others] = plain;
  const end = first.findIndex((part, index) => others.some(other => other[index] !== part));
  return first.slice(0, end < 0 ? Math.min(...plain.map(parts => parts.length)) : end).join('/');
}
