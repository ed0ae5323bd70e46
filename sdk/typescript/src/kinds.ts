/**
 * How a sandbox is isolated, and the options of each kind: the `sandbox` of a request, sent as it stands.
 * A kind or option that the server does not have is an `UnsupportedError`, never something weaker.
 */

/** A directory of the server's host: files and commands confined to it, for code that is trusted. */
export interface LocalOptions {
  kind: 'local';
  /** The directory. */
  workDir?: string | undefined;
  /** Whether an access outside `workDir` and `allowPaths` is refused; the server's default is yes. */
  enforceBoundary?: boolean | undefined;
  /** Further directories that may be used. */
  allowPaths?: readonly string[] | undefined;
  /** Whether changes of files can be watched. */
  watchFiles?: boolean | undefined;
}

/** Namespaces, cgroups, a copy-on-write root, a filter of system calls: the default. */
export interface ProcessOptions {
  kind: 'process';
}

/** `process` with a private copy of the image and a tighter filter. */
export interface HardenedOptions {
  kind: 'hardened';
}

/** A container of a Docker Engine. */
export interface DockerOptions {
  kind: 'docker';
  /** Such as `node:18-alpine`. */
  image?: string | undefined;
  /** Directory inside the container. */
  workDir?: string | undefined;
  /** Such as `128m`, or bytes. */
  memory?: string | number | undefined;
  /** CPUs, such as `0.5`. */
  cpu?: string | number | undefined;
  /** Such as `none` or `bridge`. */
  networkMode?: string | undefined;
}

/** Amounts of a Kubernetes container. */
export interface K8sAmounts {
  /** Such as `256Mi`. */
  memory?: string | undefined;
  /** Such as `500m`. */
  cpu?: string | undefined;
}

/** A pod of a Kubernetes cluster. */
export interface K8sOptions {
  kind: 'k8s';
  namespace?: string | undefined;
  /** A pod template as Kubernetes knows it. */
  podTemplate?: Readonly<Record<string, unknown>> | undefined;
  resources?: { limits?: K8sAmounts; requests?: K8sAmounts } | undefined;
}

/** Files in memory: nothing reaches a disk. */
export interface VfsOptions {
  kind: 'vfs';
  memoryOnly?: boolean | undefined;
}

/**
 * A sandbox of another server, to which the server that is asked forwards everything. It knows that server's
 * credentials; ours are never sent to `endpoint`.
 */
export interface RemoteOptions {
  kind: 'remote';
  endpoint: string;
}

/** A virtual machine of its own. */
export interface MicrovmOptions {
  kind: 'microvm';
}

/** A container of an OCI runtime. */
export interface OciOptions {
  kind: 'oci';
  /** Such as `docker.io/library/python:3.12`. */
  image?: string | undefined;
}

/** What `sandbox` of a request may be. */
export type SandboxOptions =
  | LocalOptions
  | ProcessOptions
  | HardenedOptions
  | DockerOptions
  | K8sOptions
  | VfsOptions
  | RemoteOptions
  | MicrovmOptions
  | OciOptions;
