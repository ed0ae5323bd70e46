/** From an error answer of the API to its class. */

import {
  BackendUnavailableError,
  BadRequestError,
  CapacityExceededError,
  type CloudSandboxError,
  CommandNotFoundError,
  CommandNotRunnableError,
  ConflictError,
  DiskFullError,
  type ErrorDetails,
  ExecEndedError,
  ExecNotFoundError,
  ExecNotInteractiveError,
  ExecRunningError,
  FileExistsError,
  FileFailedError,
  FileInterruptedError,
  FileNotFoundError,
  IdempotencyConflictError,
  InvalidArchiveError,
  InvalidPathError,
  IsADirectoryError,
  NotADirectoryError,
  NotARegularFileError,
  NotEmptyError,
  NotFoundError,
  PayloadTooLargeError,
  PermissionDeniedError,
  QuotaExceededError,
  RateLimitedError,
  ResourceNotFoundError,
  RoleDeniedError,
  SandboxGoneError,
  SandboxLimitError,
  SandboxNotFoundError,
  SandboxPausedError,
  SandboxReleasingError,
  ServerError,
  SessionNotFoundError,
  StdinClosedError,
  TemplateNotFoundError,
  TokenExpiredError,
  UnauthorizedError,
  UnknownLanguageError,
  UnsupportedError,
} from './errors';

type ErrorClass = new (message: string, details: ErrorDetails) => CloudSandboxError;

/** The class of each code of the server. */
export const ERROR_CLASSES: Readonly<Record<string, ErrorClass>> = {
  unauthorized: UnauthorizedError,
  token_expired: TokenExpiredError,
  role_denied: RoleDeniedError,
  permission_denied: PermissionDeniedError,
  quota_exceeded: QuotaExceededError,
  malformed_json: BadRequestError,
  invalid_request: BadRequestError,
  invalid_path: InvalidPathError,
  invalid_archive: InvalidArchiveError,
  method_not_allowed: BadRequestError,
  unsupported_media_type: BadRequestError,
  request_timeout: BadRequestError,
  payload_too_large: PayloadTooLargeError,
  unknown_language: UnknownLanguageError,
  command_not_found: CommandNotFoundError,
  command_not_executable: CommandNotRunnableError,
  bad_cwd: CommandNotRunnableError,
  bad_user: CommandNotRunnableError,
  not_found: NotFoundError,
  key_not_found: NotFoundError,
  sandbox_not_found: SandboxNotFoundError,
  session_not_found: SessionNotFoundError,
  exec_not_found: ExecNotFoundError,
  file_not_found: FileNotFoundError,
  template_not_found: TemplateNotFoundError,
  resource_not_found: ResourceNotFoundError,
  file_exists: FileExistsError,
  not_empty: NotEmptyError,
  is_directory: IsADirectoryError,
  not_directory: NotADirectoryError,
  not_regular: NotARegularFileError,
  file_interrupted: FileInterruptedError,
  file_failed: FileFailedError,
  sandbox_paused: SandboxPausedError,
  sandbox_releasing: SandboxReleasingError,
  sandbox_limit: SandboxLimitError,
  sandbox_gone: SandboxGoneError,
  exec_running: ExecRunningError,
  exec_ended: ExecEndedError,
  exec_not_interactive: ExecNotInteractiveError,
  stdin_closed: StdinClosedError,
  idempotency_conflict: IdempotencyConflictError,
  rate_limited: RateLimitedError,
  backend_unavailable: BackendUnavailableError,
  capacity: CapacityExceededError,
  disk_full: DiskFullError,
  unsupported: UnsupportedError,
  internal: ServerError,
};

const BY_STATUS: Readonly<Record<number, ErrorClass>> = {
  401: UnauthorizedError,
  403: PermissionDeniedError,
  404: NotFoundError,
  409: ConflictError,
  410: SandboxGoneError,
  413: PayloadTooLargeError,
  429: RateLimitedError,
  501: UnsupportedError,
  507: DiskFullError,
};

/** The error of an answer; `body` is its JSON, or undefined where it was none. */
export function errorFrom(status: number, body: unknown, headers?: Headers): CloudSandboxError {
  const said = field(body, 'error');
  const text = (key: string): string | undefined => {
    const value = field(said, key);
    return typeof value === 'string' ? value : undefined;
  };
  const code = text('code') ?? `http_${status}`;
  const known = Object.hasOwn(ERROR_CLASSES, code) ? ERROR_CLASSES[code] : BY_STATUS[status];
  const kind = known ?? (status >= 500 ? ServerError : BadRequestError);
  return new kind(text('message') ?? `the server answered with status ${status}`, {
    code,
    hint: text('hint'),
    requestId: text('request_id') ?? headers?.get('x-request-id') ?? undefined,
    status,
    retryAfter: parseRetryAfter(headers?.get('retry-after')),
  });
}

/** Seconds of a Retry-After header. Its date form (RFC 9110, 10.2.3) is not used by this API and is ignored. */
export function parseRetryAfter(text: string | null | undefined): number | undefined {
  const seconds = text ? Number(text) : Number.NaN;
  return seconds >= 0 && seconds < 1e9 ? seconds : undefined;
}

function field(data: unknown, key: string): unknown {
  return typeof data === 'object' && data !== null ? (data as Record<string, unknown>)[key] : undefined;
}
