/** What a request carries, as pieces that `fetch` draws one by one. */

/** Bytes, or a source of pieces that is drawn from once. */
export type Body = Uint8Array | AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

/** Larger ones go out in pieces, so that a slow network is told from a silent one. */
const PIECE = 1 << 20;

export class Outgoing {
  readonly #body: Body | undefined;
  #drawn = false;

  constructor(body: Body | undefined) {
    this.#body = body;
  }

  /** Whether it is the same when it is sent again. */
  get replayable(): boolean {
    return this.#body === undefined || this.#body instanceof Uint8Array || !this.#drawn;
  }

  /** Whether its bytes can be had only once. */
  get once(): boolean {
    return this.#body !== undefined && !(this.#body instanceof Uint8Array);
  }

  /** For `fetch`; `before` and `after` are called around each wait for the source. */
  open(before: () => void, after: () => void): Uint8Array | ReadableStream<Uint8Array> | undefined {
    const body = this.#body;
    if (body === undefined || (body instanceof Uint8Array && body.length <= PIECE)) return body;
    const source = body instanceof Uint8Array ? cut(body) : body;
    let pieces: AsyncIterator<Uint8Array> | Iterator<Uint8Array> | undefined;
    return new ReadableStream<Uint8Array>(
      {
        pull: async stream => {
          this.#drawn = true;
          before();
          pieces ??= Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]();
          const { done, value } = await pieces.next();
          after();
          if (done) stream.close();
          else stream.enqueue(value);
        },
        cancel: async () => {
          await pieces?.return?.();
        },
      },
      // Nothing is drawn before there is a connection to send it on.
      { highWaterMark: 0 },
    );
  }
}

function* cut(bytes: Uint8Array): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += PIECE) yield bytes.subarray(at, at + PIECE);
}
