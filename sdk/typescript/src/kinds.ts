/**
 * How a sandbox is isolated, and the options of each kind: the `sandbox` of a request, sent as it stands.
 * A kind that the server does not have is an `UnsupportedError`, an option that the kind does not have a `BadRequestError`:
 * never something weaker. `client.kinds()` lists what a server has; docs/concepts/kinds.md tells what they are for.
 */

/** What every kind takes. `resources` of the request is stronger. */
export interface KindLimits {
  /** Such as `128m`, or bytes. */
  memory?: string | number | undefined;
  /** CPUs, such as `0.5`. */
  cpu?: string | number | undefined;
}

/** A directory of the server's host: files and commands confined to it, for code that is trusted. */
export interface LocalOptions extends KindLimits {
  kind: 'local';
  /** The directory, below the server's directory of workspaces. */
  workDir?: string | undefined;
  /** Always so; false is refused. */
  enforceBoundary?: boolean | undefined;
  /** Further directories that are shown, read-only. */
  allowPaths?: readonly string[] | undefined;
}

/** Namespaces, cgroups, a copy-on-write root, a filter of system calls: the default. */
export interface ProcessOptions extends KindLimits {
  kind: 'process';
}

/** `process` with a private copy of the image and a tighter filter. */
export interface HardenedOptions extends KindLimits {
  kind: 'hardened';
  /** `runsc`: in a container of gVisor, a kernel of its own in user space. */
  runtime?: 'runsc' | undefined;
}

/** A container of a Docker Engine. */
export interface DockerOptions extends KindLimits {
  kind: 'docker';
  /** Such as `node:18-alpine`. */
  image?: string | undefined;
  /** A place inside, such as `/app`, at which the workspace is shown as well. */
  workDir?: string | undefined;
  /** `none`, the default, or what the server allows. */
  networkMode?: string | undefined;
}

/** A container of an OCI runtime. */
export interface OciOptions extends KindLimits {
  kind: 'oci';
  /** `runc`, `crun` or `runsc`; default: the first that is there. */
  runtime?: string | undefined;
  /** A place inside, such as `/app`, at which the workspace is shown as well. */
  workDir?: string | undefined;
}

/** Files and output in memory: nothing reaches a disk. */
export interface VfsOptions extends KindLimits {
  kind: 'vfs';
  /** Always so; false is refused. */
  memoryOnly?: boolean | undefined;
}

/**
 * A sandbox of another server, to which the server that is asked forwards everything. It knows that server's
 * credentials; ours are never sent to `endpoint`.
 */
export interface RemoteOptions extends KindLimits {
  kind: 'remote';
  /** Name or address of a server that ours knows, or several, tried in this order. */
  endpoint?: string | readonly string[] | undefined;
}

/** Amounts of a Kubernetes container. */
export interface K8sAmounts {
  /** Such as `256Mi`. */
  memory?: string | undefined;
  /** Such as `500m`. */
  cpu?: string | undefined;
}

/** A pod of a Kubernetes cluster. */
export interface K8sOptions extends KindLimits {
  kind: 'k8s';
  /** One of those that the server allows. */
  namespace?: string | undefined;
  /** An image that the server allows. */
  image?: string | undefined;
  /** A place inside, such as `/app`, at which the workspace is shown as well. */
  workDir?: string | undefined;
  /** A runtime class that the server allows. */
  runtimeClassName?: string | undefined;
  /** `metadata` and `spec` of the pod, with fields that the server allows. */
  podTemplate?: Readonly<Record<string, unknown>> | undefined;
  resources?: { limits?: K8sAmounts; requests?: K8sAmounts } | undefined;
}

/** A virtual machine of its own. */
export interface MicrovmOptions extends KindLimits {
  kind: 'microvm';
}

/** What `sandbox` of a request may be. */
export type SandboxOptions =
  | LocalOptions
  | ProcessOptions
  | HardenedOptions
  | DockerOptions
  | OciOptions
  | VfsOptions
  | RemoteOptions
  | K8sOptions
  | MicrovmOptions;
