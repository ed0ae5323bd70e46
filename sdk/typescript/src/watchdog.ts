/** One request's patience and its caller's: either ends it. Knows nothing of HTTP. */
export class Watchdog {
  readonly #controller = new AbortController();
  readonly #milliseconds: number;
  readonly #caller: AbortSignal | undefined;
  readonly #onAbort = (): void => this.#controller.abort();
  #timer: NodeJS.Timeout | undefined;

  /** Whether patience ended it. */
  fired = false;

  constructor(seconds: number, caller: AbortSignal | undefined) {
    this.#milliseconds = Math.min(seconds * 1000, 2 ** 31 - 1);
    this.#caller = caller;
    caller?.addEventListener('abort', this.#onAbort, { once: true });
    if (caller?.aborted) this.#controller.abort();
  }

  /** For `fetch`. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** From now on the other side has its seconds. */
  arm(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.fired = true;
      this.#controller.abort();
    }, this.#milliseconds);
  }

  /** What takes time now is ours. */
  disarm(): void {
    clearTimeout(this.#timer);
  }

  /** Lets go of the caller's signal; with `abort`, of the request as well. */
  end(abort: boolean): void {
    this.disarm();
    this.#caller?.removeEventListener('abort', this.#onAbort);
    if (abort) this.#controller.abort();
  }
}

/** Waits; a caller who gives up ends it with the signal's reason. */
export function sleep(seconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const giveUp = (): void => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', giveUp);
      resolve();
    }, seconds * 1000);
    signal?.addEventListener('abort', giveUp, { once: true });
  });
}
