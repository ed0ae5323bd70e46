//! Kind `k8s`.

use super::{
    Setting,
    text::{SECOND, duration, name, path, put, some, words},
};
use csb_backends::K8sSettings;
use std::path::Path;

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "k8s.kubeconfig",
        env: "KUBECONFIG",
        default: "",
        absent: "the service account of the pod that the server runs in, else `~/.kube/config`",
        about: "File that says where the cluster of sandbox kind `k8s` is",
        set: |c, text| put(&mut c.k8s.kubeconfig, Ok(path(text))),
    },
    Setting {
        key: "k8s.context",
        env: "CSB_K8S_CONTEXT",
        default: "",
        absent: "the current one",
        about: "Context of that file",
        set: |c, text| put(&mut c.k8s.context, Ok(some(text))),
    },
    Setting {
        key: "k8s.namespace",
        env: "CSB_K8S_NAMESPACE",
        default: "",
        absent: "the context's or service account's",
        about: "Namespace of `k8s` sandboxes that name none",
        set: |c, text| put(&mut c.k8s.namespace, Ok(some(text))),
    },
    Setting {
        key: "k8s.namespaces",
        env: "CSB_K8S_NAMESPACES",
        default: "",
        absent: "none",
        about: "Further namespaces that the option `namespace` may name, separated by commas. Pods of the server in all of them are found again when it starts",
        set: |c, text| put(&mut c.k8s.namespaces, Ok(words(text))),
    },
    Setting {
        key: "k8s.program_image",
        env: "CSB_K8S_PROGRAM_IMAGE",
        default: "",
        absent: "none; kind `k8s` is off",
        about: "Image with the same version of `csb` in its PATH, which an init container copies into each pod",
        set: |c, text| put(&mut c.k8s.program_image, name(text).map(Some)),
    },
    Setting {
        key: "k8s.image",
        env: "CSB_K8S_IMAGE",
        default: "",
        absent: "none: a request has to name one",
        about: "Image of `k8s` sandboxes that name none",
        set: |c, text| put(&mut c.k8s.image, name(text).map(Some)),
    },
    Setting {
        key: "k8s.images",
        env: "CSB_K8S_IMAGES",
        default: "",
        absent: "`k8s.image` alone",
        about: "Beginnings of names of images that the option `image` may name, separated by commas; `*`: all. The name of an image chooses which host the cluster's nodes connect to",
        set: |c, text| put(&mut c.k8s.images, Ok(words(text))),
    },
    Setting {
        key: "k8s.runtime_class",
        env: "CSB_K8S_RUNTIME_CLASS",
        default: "",
        absent: "the cluster's own",
        about: "`runtimeClassName` of `k8s` sandboxes that name none",
        set: |c, text| put(&mut c.k8s.runtime_class, Ok(some(text))),
    },
    Setting {
        key: "k8s.runtime_classes",
        env: "CSB_K8S_RUNTIME_CLASSES",
        default: "",
        absent: "none",
        about: "Further ones that the option `runtimeClassName` may name, separated by commas",
        set: |c, text| put(&mut c.k8s.runtime_classes, Ok(words(text))),
    },
    Setting {
        key: "k8s.pod_template",
        env: "CSB_K8S_POD_TEMPLATE",
        default: "",
        absent: "none",
        about: "YAML file of a pod, or of its `metadata` and `spec` alone, that each sandbox's is laid over: node selectors, pull secrets, sidecars, labels",
        set: |c, text| {
            c.k8s.template = match some(text) {
                None => None,
                Some(file) => {
                    let read = K8sSettings::read_template(Path::new(&file));
                    Some(read.map_err(|error| format!("`{file}`: {error}"))?)
                }
            };
            Ok(())
        },
    },
    Setting {
        key: "k8s.pod_template_fields",
        env: "CSB_K8S_POD_TEMPLATE_FIELDS",
        default: "",
        absent: "none",
        about: "Fields that the option `podTemplate` may have, separated by commas, such as `metadata.annotations,spec.nodeSelector`. Labels may open network policies and services of others to a pod, `spec.serviceAccountName` their rights",
        set: |c, text| {
            c.k8s.template_fields = words(text);
            let good = |word: &&String| matches!(word.split_once('.'), Some(("metadata" | "spec", field)) if !field.is_empty());
            match c.k8s.template_fields.iter().find(|word| !good(word)) {
                Some(word) => Err(format!("`{word}` is not `metadata.FIELD` or `spec.FIELD`")),
                None => Ok(()),
            }
        },
    },
    Setting {
        key: "k8s.start_timeout",
        env: "CSB_K8S_START_TIMEOUT",
        default: "2m",
        absent: "",
        about: "How long a pod may take to be placed on a node, to have its images and to run",
        set: |c, text| put(&mut c.k8s.patience, duration(text, SECOND)),
    },
];
