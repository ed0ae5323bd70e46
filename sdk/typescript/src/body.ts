/** What a request carries, as pieces that `fetch` draws one by one. */

/** Bytes, or a source of pieces that is drawn from once. */
export type Body = Uint8Array | AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

/** Larger ones go out in pieces, so that a slow network is told from a silent one. */
const PIECE = 1 << 20;

/** A request's body over all its tries. */
export class Outgoing {
  readonly #body: Body | undefined;
  readonly #source: AsyncIterator<Uint8Array> | Iterator<Uint8Array> | undefined;
  /** `fetch` draws one piece before it has a connection: it is kept for the next try. */
  #first: Promise<IteratorResult<Uint8Array>> | undefined;
  #pastFirst = false;

  constructor(body: Body | undefined) {
    this.#body = body;
    if (body !== undefined && !(body instanceof Uint8Array)) {
      this.#source = Symbol.asyncIterator in body ? body[Symbol.asyncIterator]() : body[Symbol.iterator]();
    }
  }

  /** Whether its bytes can be had only once. */
  get once(): boolean {
    return this.#source !== undefined;
  }

  /** Whether another try, after one that never had a connection, would send the same. */
  get replayable(): boolean {
    return !this.#pastFirst;
  }

  /** For `fetch`; `before` and `after` are called around each wait for the source. */
  open(before: () => void, after: () => void): Uint8Array | ReadableStream<Uint8Array> | undefined {
    const body = this.#body;
    if (body instanceof Uint8Array) return body.length <= PIECE ? body : stream(cut(body));
    const source = this.#source;
    if (!source) return undefined;
    let drawn = 0;
    const next = async (): Promise<IteratorResult<Uint8Array>> => {
      drawn += 1;
      if (drawn === 1) this.#first ??= Promise.resolve(source.next());
      else this.#pastFirst = true;
      before();
      const piece = await (drawn === 1 && this.#first ? this.#first : source.next());
      after();
      return piece;
    };
    return stream({ next });
  }

  /** After the last try. */
  async close(): Promise<void> {
    await this.#source?.return?.();
  }
}

function stream(pieces: {
  next(): Promise<IteratorResult<Uint8Array>> | IteratorResult<Uint8Array>;
}): ReadableStream<Uint8Array> {
  return new ReadableStream<Uint8Array>(
    {
      async pull(stream) {
        const { done, value } = await pieces.next();
        if (done) stream.close();
        else stream.enqueue(value);
      },
    },
    // As few as possible are drawn before they are sent.
    { highWaterMark: 0 },
  );
}

function* cut(bytes: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += PIECE) yield bytes.subarray(at, at + PIECE);
}
