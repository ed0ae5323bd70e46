//! Kind `docker`.

use super::{
    Setting,
    text::{name, put, words},
};

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "docker.host",
        env: "DOCKER_HOST",
        default: "",
        absent: "`unix:///var/run/docker.sock`",
        about: "The Docker Engine of sandbox kind `docker`: `unix:///path`; one on another host cannot be used",
        set: |c, text| {
            c.docker.host = Some(text.to_owned()).filter(|text| !text.is_empty());
            Ok(())
        },
    },
    Setting {
        key: "docker.image",
        env: "DOCKER_IMAGE",
        default: "",
        absent: "this host's programs, as in kind `process`",
        about: "Image of `docker` sandboxes that name none",
        set: |c, text| put(&mut c.docker.image, name(text).map(Some)),
    },
    Setting {
        key: "docker.pull",
        env: "CSB_DOCKER_PULL",
        default: "",
        absent: "none",
        about: "Beginnings of names of images that the engine may pull for whoever asks, separated by commas, such as `python:,registry.example/team/`; `*`: of all. The name of an image chooses which host the engine connects to",
        set: |c, text| put(&mut c.docker.pull, Ok(words(text))),
    },
    Setting {
        key: "docker.networks",
        env: "CSB_DOCKER_NETWORKS",
        default: "",
        absent: "`none` alone",
        about: "Docker networks that `networkMode` may name, separated by commas. A sandbox in one of them reaches whatever that network reaches",
        set: |c, text| {
            c.docker.networks = words(text);
            let bad = |word: &&String| **word == "host" || word.starts_with("container:");
            match c.docker.networks.iter().find(bad) {
                Some(word) => Err(format!("`{word}` is no network of the sandbox's own")),
                None => Ok(()),
            }
        },
    },
];
