//! Stands in for what a test's host lacks.
//!
//! [`cluster`] is a Kubernetes cluster of one node: an API server with the semantics that a client depends on, and a kubelet that runs
//! a pod's containers with runc. So everything that happens in a pod is real; what is not there is named in its module.
//! [`firecracker`] is a VMM that takes Firecracker's requests and runs what they describe with QEMU.

pub mod cluster;
pub mod firecracker;
