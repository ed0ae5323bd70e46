/**
 * What can go wrong: a class for each error code of the API, and a few for what happens on the way.
 * A code that has no class here, of a newer server for instance, arrives as the class of its status.
 */

/** What the server said beside the message. */
export interface ErrorDetails {
  code?: string | undefined;
  hint?: string | undefined;
  requestId?: string | undefined;
  status?: number | undefined;
  /** Seconds to wait, where the server said so. */
  retryAfter?: number | undefined;
  cause?: unknown;
}

/** Something failed. `code` is stable and documented; `message` is for people. */
export class CloudSandboxError extends Error {
  /** Stable: each code of the server has a page in docs/errors. */
  readonly code: string;
  /** What to do about it. */
  readonly hint: string | undefined;
  /** Of the request, as in the server's log. */
  readonly requestId: string | undefined;
  /** HTTP status, where the server answered. */
  readonly status: number | undefined;
  /** Seconds to wait before another try, where the server said so. */
  readonly retryAfter: number | undefined;

  constructor(message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = details.code ?? 'client_error';
    this.hint = details.hint;
    this.requestId = details.requestId;
    this.status = details.status;
    this.retryAfter = details.retryAfter;
  }

  override get name(): string {
    return this.constructor.name;
  }

  override toString(): string {
    const lines = [this.code === 'client_error' ? this.message : `${this.message} [${this.code}]`];
    if (this.hint) lines.push(`hint: ${this.hint}`);
    if (this.requestId) lines.push(`request id: ${this.requestId}`);
    return `${this.name}: ${lines.join('\n')}`;
  }
}

/** The request cannot be meant: malformed JSON, unknown fields, impossible limits (400, 405, 408, 415, 422). */
export class BadRequestError extends CloudSandboxError {}
/** A path is relative, too long, or holds a NUL or `..`. */
export class InvalidPathError extends BadRequestError {}
/** An archive is malformed, or holds what may not be unpacked. */
export class InvalidArchiveError extends BadRequestError {}
/** `runCode` has no runner for this language. */
export class UnknownLanguageError extends BadRequestError {}
/** The command cannot be started: not executable, no such working directory, no such user. */
export class CommandNotRunnableError extends BadRequestError {}
/** There is no such program in the sandbox. */
export class CommandNotFoundError extends CommandNotRunnableError {}
/** The body is larger than this call accepts. */
export class PayloadTooLargeError extends BadRequestError {}
/** The credential is missing, forged or unknown. */
export class UnauthorizedError extends CloudSandboxError {}
/** The token's time is over and no new one could be had. */
export class TokenExpiredError extends UnauthorizedError {}
/** The credential's role does not allow this. */
export class RoleDeniedError extends CloudSandboxError {}
/** The user has as many objects as the operator allows. */
export class QuotaExceededError extends CloudSandboxError {}
/** The sandbox's user may not touch this file. */
export class PermissionDeniedError extends CloudSandboxError {}
/** There is no such object, or it belongs to someone else. */
export class NotFoundError extends CloudSandboxError {}
/** There is no such sandbox (any more). */
export class SandboxNotFoundError extends NotFoundError {}
/** There is no such session. */
export class SessionNotFoundError extends NotFoundError {}
/** There is no such exec in this sandbox. */
export class ExecNotFoundError extends NotFoundError {}
/** There is no such file or directory in the sandbox. */
export class FileNotFoundError extends NotFoundError {}
/** There is no such template on the server. */
export class TemplateNotFoundError extends NotFoundError {}
/** What the options of a kind name is not there: an image, a runtime, a directory. */
export class ResourceNotFoundError extends NotFoundError {}
/** The object is in a state that does not allow this. */
export class ConflictError extends CloudSandboxError {}
/** The path exists already. */
export class FileExistsError extends ConflictError {}
/** The directory is not empty and removal was not recursive. */
export class NotEmptyError extends ConflictError {}
/** A directory where a file was expected. */
export class IsADirectoryError extends ConflictError {}
/** A file where a directory was expected. */
export class NotADirectoryError extends ConflictError {}
/** Neither a regular file nor a directory: a FIFO, a socket, a device. */
export class NotARegularFileError extends ConflictError {}
/** The sandbox's file helper was killed from inside, or its memory ran out. Trying again may help. */
export class FileInterruptedError extends ConflictError {}
/** The sandbox is paused; resume it first. */
export class SandboxPausedError extends ConflictError {}
/** The sandbox is being released. */
export class SandboxReleasingError extends ConflictError {}
/** The exec is still running. */
export class ExecRunningError extends ConflictError {}
/** The exec has ended; it takes no input or signals any more. */
export class ExecEndedError extends ConflictError {}
/** The exec was started without stdin, or without a terminal. */
export class ExecNotInteractiveError extends ConflictError {}
/** The exec's stdin was closed by an earlier write, or by the command itself. */
export class StdinClosedError extends ConflictError {}
/** The idempotency key was used before with another request. */
export class IdempotencyConflictError extends ConflictError {}
/** The sandbox's process or memory limit leaves no room for another exec. */
export class SandboxLimitError extends ConflictError {}
/** The sandbox ended while the request was under way. */
export class SandboxGoneError extends CloudSandboxError {}
/** Too many requests; `retryAfter` says how long to wait. */
export class RateLimitedError extends CloudSandboxError {}
/** What builds sandboxes of this kind does not answer: an engine, another server. `retryAfter` says when to try again. */
export class BackendUnavailableError extends CloudSandboxError {}
/** The host has no room for another sandbox now; `retryAfter` says how long to wait. */
export class CapacityExceededError extends CloudSandboxError {}
/** The sandbox's file system refused for a reason of its own; `message` has the kernel's words. */
export class FileFailedError extends CloudSandboxError {}
/** The sandbox's disk or inode limit is reached. */
export class DiskFullError extends CloudSandboxError {}
/** This server, or this kind of sandbox, cannot do that. */
export class UnsupportedError extends CloudSandboxError {}
/** The server failed; its log has the reason under `requestId`. */
export class ServerError extends CloudSandboxError {}

/** The server could not be reached, and nothing was sent: the request has certainly not been carried out. */
export class ConnectionFailedError extends CloudSandboxError {
  constructor(message: string, cause?: unknown) {
    super(message, { code: 'connection_failed', cause });
  }
}

/**
 * The connection broke after a request was sent. It may have been carried out or not; it is not sent again.
 * For the output of an exec, `execId` and `seq` say what to attach to: `sandbox.process(execId)`, then `output(seq)`.
 */
export class ConnectionLostError extends CloudSandboxError {
  readonly execId: string | undefined;
  readonly seq: number;

  constructor(message: string, details: { execId?: string | undefined; seq?: number; cause?: unknown } = {}) {
    super(message, { code: 'connection_lost', cause: details.cause });
    this.execId = details.execId;
    this.seq = details.seq ?? 0;
  }
}

/** The client's patience ended before the server's answer. What was asked for goes on in the sandbox. */
export class TimedOutError extends CloudSandboxError {
  constructor(message: string, cause?: unknown) {
    super(message, { code: 'client_timeout', cause });
  }
}

/** The answer is not what the API promises: another program answers at this address, or a proxy in between. */
export class ProtocolError extends CloudSandboxError {
  constructor(message: string, cause?: unknown) {
    super(message, { code: 'protocol_error', cause });
  }
}

/** A directory from a sandbox holds an entry that would have been written outside the destination. */
export class UnsafeArchiveError extends CloudSandboxError {
  constructor(message: string) {
    super(message, { code: 'unsafe_archive' });
  }
}

/** All agents of a pool are busy. */
export class PoolFullError extends CloudSandboxError {
  constructor(message: string) {
    super(message, { code: 'pool_full', hint: 'release an agent, or give the pool a higher `maxAgents`' });
  }
}

/** A path that a Kode sandbox's boundary does not let through. */
export class OutsideBoundaryError extends CloudSandboxError {
  constructor(message: string) {
    super(message, { code: 'outside_boundary', hint: 'name it in `allowPaths`, or set `enforceBoundary: false`' });
  }
}
