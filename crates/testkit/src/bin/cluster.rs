//! A cluster for tests in other languages: starts it, writes its kubeconfig, and ends it with its standard input.

use clap::Parser;
use csb_testkit::cluster::{Cluster, Config, Image};
use std::{collections::BTreeMap, io, path::PathBuf};
use tokio::io::AsyncReadExt;

/// Starts a Kubernetes cluster of one node, for tests; prints the path of its kubeconfig; ends when its standard input does.
#[derive(Debug, Parser)]
struct Args {
    /// Where it keeps everything
    #[arg(long)]
    dir: PathBuf,
    /// Image `NAME=DIRECTORY`
    #[arg(long)]
    image: Vec<String>,
    /// Image `csb-program:test` with this program in its PATH
    #[arg(long)]
    program: Option<PathBuf>,
    /// Namespaces besides `default`
    #[arg(long)]
    namespace: Vec<String>,
    /// Runtime classes
    #[arg(long)]
    runtime_class: Vec<String>,
    /// Memory of its node
    #[arg(long, default_value = "8Gi", value_parser = csb_types::parse_bytes)]
    memory: u64,
    /// The kubelet's `podPidsLimit`
    #[arg(long, default_value_t = 400)]
    pids: u32,
    /// Port of the API server; 0: any
    #[arg(long, default_value_t = 0)]
    port: u16,
}

/// The host's programs, and this one, as an image.
fn program(dir: &std::path::Path, program: PathBuf) -> io::Result<Image> {
    let root = dir.join("program-image");
    for name in ["usr", "etc", "dev", "proc", "sys", "csb", "opt/csb"] {
        std::fs::create_dir_all(root.join(name))?;
    }
    std::fs::write(root.join("opt/csb/csb"), "")?;
    let mut binds = vec![(program, PathBuf::from("/opt/csb/csb")), ("/usr".into(), "/usr".into())];
    for name in ["lib", "lib64", "bin"] {
        let host = PathBuf::from("/").join(name);
        match std::fs::read_link(&host) {
            Ok(target) => drop(std::os::unix::fs::symlink(target, root.join(name))),
            Err(_) if host.exists() => {
                std::fs::create_dir_all(root.join(name))?;
                binds.push((host.clone(), host));
            }
            Err(_) => {}
        }
    }
    Ok(Image { root, binds, env: vec!["PATH=/opt/csb:/usr/bin:/bin".into()] })
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let args = Args::parse();
    let mut images = BTreeMap::new();
    for image in &args.image {
        let (name, root) = image.split_once('=').ok_or_else(|| io::Error::other("--image is NAME=DIRECTORY"))?;
        images.insert(name.to_owned(), Image { root: root.into(), ..Image::default() });
    }
    std::fs::create_dir_all(&args.dir)?;
    if let Some(path) = args.program {
        images.insert("csb-program:test".into(), program(&args.dir, path)?);
    }
    let config = Config {
        dir: args.dir.clone(),
        images,
        namespaces: args.namespace,
        runtime_classes: args.runtime_class,
        memory: args.memory,
        pids: args.pids,
    };
    let cluster = Cluster::start(config, args.port).await?;
    let path = args.dir.join("kubeconfig");
    std::fs::write(&path, cluster.kubeconfig())?;
    println!("{}", path.display());
    let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
    cluster.stop().await
}
