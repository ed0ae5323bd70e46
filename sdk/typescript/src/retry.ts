/** When a request is sent again, as a pure function. The rule behind it: no command ever runs twice. */

/** Seconds; a server that asks for more is reported instead of waited for. */
export const LONGEST_WAIT = 30;

/**
 * What a second sending of the same request would do. `repeatable`: nothing more than the first, as reads, whole-file
 * writes, deletes, and what carries an idempotency key. `once`: perhaps a second time the same, as stdin, signals,
 * appends, moves.
 */
export type Safety = 'repeatable' | 'once';

/**
 * How a try ended, when it did not end well. `not_sent`: no connection came about. `unknown`: the connection broke or
 * a deadline passed after the request, or a part of it, was sent. `refused`: 429, or 503 with Retry-After: the server
 * looked at the request and did not begin. `gateway`: 502, 503 or 504 of a proxy; the server may have seen the request.
 */
export type Outcome = 'not_sent' | 'unknown' | 'refused' | 'gateway';

/** Seconds to wait before try number `attempt + 1` (the first try is 0), or undefined to give up. */
export function delayBeforeRetry(
  outcome: Outcome,
  safety: Safety,
  attempt: number,
  maxRetries: number,
  retryAfter?: number,
): number | undefined {
  if (attempt >= maxRetries) return undefined;
  if ((outcome === 'unknown' || outcome === 'gateway') && safety === 'once') return undefined;
  if (retryAfter !== undefined) return retryAfter <= LONGEST_WAIT ? retryAfter : undefined;
  return backoff(attempt);
}

/** 0.1 s doubling to at most 5 s, with up to a half taken off at random so that clients spread out. */
export function backoff(attempt: number): number {
  const full = Math.min(5, 0.1 * 2 ** Math.min(attempt, 16));
  return full * (1 - Math.random() / 2);
}

/** What an error answer says about the try; undefined where no other try could end better. */
export function outcomeOf(status: number, retryAfter: number | undefined): Outcome | undefined {
  if (status === 429 || (status === 503 && retryAfter !== undefined)) return 'refused';
  return status === 502 || status === 503 || status === 504 ? 'gateway' : undefined;
}
