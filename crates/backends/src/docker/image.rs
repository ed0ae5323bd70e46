//! Which image a container is made of: one that was asked for, pulled where the engine lacks it and may; or a template of this host,
//! handed to the engine once.

use super::{Shared, engine::is_absent};
use crate::{
    BackendError,
    guests::{PLACES, aside},
};
use bollard::query_parameters::{
    ContainerArchiveInfoOptions, CreateImageOptions, ListImagesOptions, RemoveImageOptions,
};
use bytes::Bytes;
use csb_image::{Bind, Template};
use csb_types::SandboxSpec;
use futures_util::{StreamExt, TryStreamExt};
use std::{
    fs::File,
    io::{self, Read, Seek},
    path::Path,
};

/// Repository of images that are templates of this host.
const REPOSITORY: &str = "csb-template";
const CHUNK: usize = 256 * 1024;

/// Directories that an image asks an engine to keep on the host's disk, without a limit (`VOLUME`): the most that one may name.
const MOST_VOLUMES: usize = 32;

/// Where no volume of an image may be.
const NOT_BELOW: [&str; 5] = [".csb", ".csb-run", "dev", "proc", "sys"];
/// Links that a volume's path may lead through.
const MOST_LINKS: u32 = 8;

fn refused(path: &str, why: &str) -> BackendError {
    let path: String = path.chars().take(64).collect();
    BackendError::Unsupported(format!("an image that declares the volume `{path}`: {why}"))
}

/// Those that an image declares, to be covered by ones of the sandbox's own. Not where there is one anyway (`taken`).
fn volumes(declared: &[String], taken: &[&str]) -> Result<Vec<String>, BackendError> {
    let mut found = Vec::new();
    for path in declared {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let plain = path.starts_with('/') && path.len() <= 512 && !path.contains(['\0', '\n']);
        if !plain || parts.is_empty() || parts.iter().any(|part| matches!(*part, "." | "..")) {
            return Err(refused(path, "it is no absolute path"));
        }
        if NOT_BELOW.contains(&parts[0]) {
            return Err(refused(path, "what is there is the sandbox's"));
        }
        let path = format!("/{}", parts.join("/"));
        if !taken.contains(&path.as_str()) && !found.contains(&path) {
            found.push(path);
        }
    }
    if found.len() > MOST_VOLUMES {
        return Err(refused(&found[MOST_VOLUMES], "it declares too many"));
    }
    Ok(found)
}

/// The first link of a path's that is there, and what is behind it in the path. `told`: where a link leads, from the root.
fn beyond(path: &str, link: &str, told: &str) -> String {
    format!("/{}{}", told.trim_matches('/'), path.strip_prefix(link).unwrap_or_default())
}

/// Refuses what is no name of an image: it becomes part of the engine's paths.
pub(crate) fn check_name(name: &str) -> Result<(), BackendError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte);
    let good = (1..=255).contains(&name.len())
        && name.bytes().all(plain)
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && !name.contains("..")
        && !name.contains("//");
    if good {
        return Ok(());
    }
    Err(BackendError::NotFound {
        what: format!("image `{}`", name.chars().take(64).collect::<String>()),
        hint: "an image has a name such as `alpine`, `python:3.12-slim` or `registry.example/team/name@sha256:…`"
            .into(),
    })
}

impl Shared {
    /// The image of a sandbox, and what of the host is to be shown in it.
    pub(super) async fn image(
        &self,
        docker: &bollard::Docker,
        spec: &SandboxSpec,
    ) -> Result<(String, Vec<Bind>), BackendError> {
        match spec.options.image.as_ref().or(self.settings.image.as_ref()) {
            Some(image) => {
                self.find(docker, image).await?;
                Ok((image.clone(), Vec::new()))
            }
            None => {
                let template = self.guests.template(&spec.template).await?;
                let name = self.import(docker, &template).await?;
                Ok((name, template.binds))
            }
        }
    }

    /// See [`volumes`].
    pub(super) async fn volumes(
        &self,
        docker: &bollard::Docker,
        image: &str,
        spec: &SandboxSpec,
    ) -> Result<Vec<String>, BackendError> {
        let found =
            docker.inspect_image(image).await.map_err(|error| self.engine.failed("look for the image", error))?;
        let declared = found.config.and_then(|config| config.volumes).unwrap_or_default();
        let places = PLACES.iter().map(|(_, at, ..)| *at);
        let taken: Vec<&str> = places.chain(spec.options.work_dir.as_deref()).collect();
        volumes(&declared, &taken)
    }

    /// Refuses a volume whose path leads, by a link of the image's, to where none may be: what is mounted there would hide what the
    /// sandbox needs. The container is made, and does not run.
    pub(super) async fn check_volumes(
        &self,
        docker: &bollard::Docker,
        container: &str,
        volumes: &[String],
    ) -> Result<(), BackendError> {
        for volume in volumes {
            let (mut path, mut links) = (volume.clone(), 0);
            while let Some(on) = self.through_a_link(docker, container, &path).await? {
                links += 1;
                let first = on.trim_start_matches('/').split('/').next().unwrap_or_default();
                if links > MOST_LINKS || first.is_empty() || NOT_BELOW.contains(&first) {
                    return Err(refused(volume, "it is a link to what is the sandbox's"));
                }
                path = on;
            }
        }
        Ok(())
    }

    /// Where a path leads by the first link in it; none: there is none.
    async fn through_a_link(
        &self,
        docker: &bollard::Docker,
        container: &str,
        path: &str,
    ) -> Result<Option<String>, BackendError> {
        let ends = path.match_indices('/').map(|(at, _)| at).skip(1).chain([path.len()]);
        for part in ends.map(|end| &path[..end]) {
            let options = ContainerArchiveInfoOptions { path: part.to_owned() };
            match docker.get_container_archive_info(container, Some(options)).await {
                Ok(found) if !found.link_target.is_empty() => {
                    return Ok(Some(beyond(path, part, &found.link_target)));
                }
                Ok(_) => {}
                // It will be made.
                Err(error) if is_absent(&error) => break,
                Err(error) => return Err(self.engine.failed("look at the image's volumes", error)),
            }
        }
        Ok(None)
    }

    async fn has(&self, docker: &bollard::Docker, image: &str) -> Result<bool, BackendError> {
        match docker.inspect_image(image).await {
            Ok(_) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(self.engine.failed("look for the image", error)),
        }
    }

    /// Makes sure that the engine has an image.
    async fn find(&self, docker: &bollard::Docker, image: &str) -> Result<(), BackendError> {
        if self.has(docker, image).await? {
            return Ok(());
        }
        if !self.settings.pull.iter().any(|start| start == "*" || image.starts_with(start.as_str())) {
            return Err(BackendError::NotFound {
                what: format!(
                    "image `{image}` (the engine does not have it, and may not pull it: setting `docker.pull`)"
                ),
                hint: format!("`docker pull {image}` on the server's host, or `docker load`, or name another one"),
            });
        }
        let _one = self.images.lock().await;
        if self.has(docker, image).await? {
            return Ok(());
        }
        // A tag that is left out means all of them.
        let last = image.rsplit('/').next().unwrap_or(image);
        let tag = (!last.contains([':', '@'])).then(|| "latest".to_owned());
        let options = CreateImageOptions { from_image: Some(image.to_owned()), tag, ..Default::default() };
        let pulled = docker.create_image(Some(options), None, None).try_for_each(async |_| Ok(())).await;
        pulled.map_err(|error| BackendError::NotFound {
            what: format!("image `{image}` (the engine cannot pull it: {})", said(&error)),
            hint: format!("`docker pull {image}` on the server's host, or `docker load`, or name another one"),
        })
    }

    /// Makes sure that the engine has a template of this host as an image.
    async fn import(&self, docker: &bollard::Docker, template: &Template) -> Result<String, BackendError> {
        let failed = |message: String| BackendError::Failed { step: "hand the template to the engine".into(), message };
        // A version is made once, and its directory named by it alone.
        let version = template.layers.first().and_then(|layer| layer.parent()?.file_name()?.to_str());
        let version = version.ok_or_else(|| failed("it has no layer".into()))?;
        let source = self.guests.source();
        let tag = format!("{source}-{}-{version}", template.name);
        let name = format!("{REPOSITORY}:{tag}");
        if self.has(docker, &name).await? {
            return Ok(name);
        }
        let _one = self.images.lock().await;
        if self.has(docker, &name).await? {
            return Ok(name);
        }
        let layers = template.layers.clone();
        let archive = aside(move || {
            let packed = pack(&layers);
            packed
                .map_err(|error| BackendError::Failed { step: "pack the template".into(), message: error.to_string() })
        })
        .await?;
        let options = CreateImageOptions {
            from_src: Some("-".into()),
            repo: Some(REPOSITORY.into()),
            tag: Some(tag),
            ..Default::default()
        };
        let body = bollard::body_try_stream(chunks(archive));
        let imported = docker.create_image(Some(options), Some(body), None).try_for_each(async |_| Ok(())).await;
        imported.map_err(|error| self.engine.failed("hand the template to the engine", error))?;
        self.forget(docker, &format!("{REPOSITORY}:{source}-{}-", template.name), &name).await;
        Ok(name)
    }

    /// Removes images of a template's earlier versions, but those that a container has.
    async fn forget(&self, docker: &bollard::Docker, prefix: &str, current: &str) {
        let Ok(images) = docker.list_images(None::<ListImagesOptions>).await else { return };
        let names = images.into_iter().flat_map(|image| image.repo_tags);
        for old in names.filter(|name| name.starts_with(prefix) && name != current) {
            if let Err(error) = docker.remove_image(&old, None::<RemoveImageOptions>, None).await {
                tracing::debug!(image = old, %error, "an old image stays");
            }
        }
    }
}

/// The engine's own words.
fn said(error: &bollard::errors::Error) -> String {
    match error {
        bollard::errors::Error::DockerResponseServerError { message, .. } => message.clone(),
        error => error.to_string(),
    }
}

/// An archive of layers, topmost first, as one.
fn pack(layers: &[std::path::PathBuf]) -> io::Result<File> {
    let mut archive = tar::Builder::new(tempfile::tempfile()?);
    archive.follow_symlinks(false);
    // What comes later replaces what came before.
    for layer in layers.iter().rev() {
        archive.append_dir_all(Path::new("."), layer)?;
    }
    let mut file = archive.into_inner()?;
    file.rewind()?;
    Ok(file)
}

fn chunks(file: File) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send {
    futures_util::stream::unfold(file, async |mut file| {
        let read = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; CHUNK];
            let read = file.read(&mut buffer);
            (read.map(|length| Bytes::from(buffer).slice(..length)), file)
        });
        match read.await {
            Ok((Ok(bytes), _)) if bytes.is_empty() => None,
            Ok((bytes, file)) => Some((bytes, file)),
            Err(error) => Some((Err(io::Error::other(error)), tempfile::tempfile().ok()?)),
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::{check_name, volumes};

    #[test]
    fn a_name_that_would_lead_elsewhere_in_the_engine_is_none() {
        for good in ["alpine", "python:3.12-slim", "a.example:5000/b/c@sha256:00ff"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "../containers/x", "a/../../b", "a?x=1", "a b", "a%2f..", "/a", "a#b", "a//b"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
    #[test]
    fn volumes_of_an_image_are_covered_but_where_that_would_hide_what_a_sandbox_needs() {
        let check = |declared: &[&str]| {
            let declared: Vec<String> = declared.iter().map(|path| (*path).to_owned()).collect();
            volumes(&declared, &["/workspace"])
        };
        assert_eq!(check(&["/data", "/workspace/", "//data/", "/var/lib/x"]).unwrap(), ["/data", "/var/lib/x"]);
        for bad in ["/.csb", "/.csb-run/x", "/proc/self", "/dev", "data", "/", "/a/../.csb", ""] {
            assert!(check(&[bad]).is_err(), "{bad}");
        }
        let many: Vec<String> = (0..100).map(|number| format!("/v{number}")).collect();
        assert!(volumes(&many, &[]).is_err());
    }
}
