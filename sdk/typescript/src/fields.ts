/**
 * Between JSON of the API and the objects of this package: `models.ts` is generated on top of it.
 * Fields that a newer server adds are passed over; one that is missing or of another type is a `ProtocolError`.
 */

import { ProtocolError } from './errors';

/** How a request's fields are called on the wire; what is absent has the same name there. */
export interface Names {
  readonly [field: string]: string | readonly [name: string, inner: Names];
}

/**
 * A request's body. What is undefined is left out. A field that the API does not have is sent as it is, so that the
 * server names it: left out here, a misspelt limit would be none.
 */
export function wire(request: object, names: Names): Record<string, unknown> {
  const body: Record<string, unknown> = {};
  for (const [field, value] of Object.entries(request)) {
    if (value === undefined) continue;
    const name = Object.hasOwn(names, field) ? names[field] : undefined;
    if (typeof name === 'string' || name === undefined) body[name ?? field] = value;
    else body[name[0]] = typeof value === 'object' && value !== null ? wire(value, name[1]) : value;
  }
  return body;
}

/** One object of an answer. */
export class Fields {
  readonly #what: string;
  readonly #data: Readonly<Record<string, unknown>>;

  constructor(what: string, data: unknown) {
    if (typeof data !== 'object' || data === null || Array.isArray(data)) {
      throw new ProtocolError(`expected ${what}, got ${data === null ? 'null' : typeof data}`);
    }
    this.#what = what;
    this.#data = data as Record<string, unknown>;
  }

  any(key: string): unknown {
    const value = this.#data[key];
    return value === undefined ? this.#wrong(key, 'is missing') : value;
  }

  maybeAny(key: string): unknown {
    return this.#data[key] ?? null;
  }

  text(key: string): string {
    const value = this.any(key);
    return typeof value === 'string' ? value : this.#wrong(key, 'is not a text');
  }

  maybeText(key: string): string | null {
    return this.#has(key) ? this.text(key) : null;
  }

  number(key: string): number {
    const value = this.any(key);
    return typeof value === 'number' ? value : this.#wrong(key, 'is not a number');
  }

  maybeNumber(key: string): number | null {
    return this.#has(key) ? this.number(key) : null;
  }

  boolean(key: string): boolean {
    const value = this.any(key);
    return typeof value === 'boolean' ? value : this.#wrong(key, 'is not true or false');
  }

  maybeBoolean(key: string): boolean | null {
    return this.#has(key) ? this.boolean(key) : null;
  }

  /** RFC 3339; a `Date` keeps its milliseconds. */
  time(key: string): Date {
    const time = new Date(this.text(key));
    return Number.isNaN(time.getTime()) ? this.#wrong(key, 'is not a time') : time;
  }

  maybeTime(key: string): Date | null {
    return this.#has(key) ? this.time(key) : null;
  }

  list<T>(key: string, read: (data: unknown) => T): T[] {
    const value = this.any(key);
    return Array.isArray(value) ? value.map(read) : this.#wrong(key, 'is not a list');
  }

  texts(key: string): string[] {
    return this.list(key, item => (typeof item === 'string' ? item : this.#wrong(key, 'is not a list of texts')));
  }

  /** Names and texts that belong to the user: neither is changed. */
  labels(key: string): Record<string, string> {
    const value = this.any(key);
    const isMap = typeof value === 'object' && value !== null && !Array.isArray(value);
    if (!isMap || Object.values(value).some(label => typeof label !== 'string')) {
      return this.#wrong(key, 'is not a map of texts');
    }
    return { ...(value as Record<string, string>) };
  }

  object<T>(key: string, read: (data: unknown) => T): T {
    return read(this.any(key));
  }

  maybeObject<T>(key: string, read: (data: unknown) => T): T | null {
    return this.#has(key) ? this.object(key, read) : null;
  }

  #has(key: string): boolean {
    return this.#data[key] !== undefined && this.#data[key] !== null;
  }

  #wrong(key: string, how: string): never {
    throw new ProtocolError(`${this.#what}: \`${key}\` ${how}`);
  }
}
