//! A cluster on a disk that can be filled up.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use pgwraith::demo::cluster::{Cluster, ServerBinaries};

/// A cluster whose data folder is a small filesystem.
pub struct SmallDisk {
    pub cluster: Cluster,
}

impl SmallDisk {
    /// A cluster with `bytes` of disk, of which a new one takes some 40 MB. `None`, having said that
    /// the test is skipped, where we may not mount a filesystem.
    pub async fn start(bytes: u64, settings: &[(&str, &str)]) -> Option<SmallDisk> {
        let binaries = ServerBinaries::find().unwrap_or_else(|e| panic!("{e}"));
        let cluster = Cluster::start_on_small_disk(&binaries, settings, bytes).await;
        let Some(cluster) = cluster.unwrap_or_else(|e| panic!("{e}")) else {
            super::skipped("needs to mount a filesystem, which only root may");
            return None;
        };
        Some(SmallDisk { cluster })
    }

    /// Takes all the space that is left. The server can still write to the WAL segments it has, but
    /// a new one it cannot make, and then it crashes: that is PostgreSQL's answer to a full disk.
    pub fn fill(&self) {
        let data = self.cluster.folder().join("data");
        let device = |path: &PathBuf| fs::metadata(path).unwrap().dev();
        let own = device(&data) != device(&self.cluster.folder());
        assert!(own, "{} is no filesystem of its own: nothing is filled up", data.display());
        let mut ballast = File::options().create(true).append(true).open(self.ballast()).unwrap();
        // Page by page in the end, so that nothing is left.
        for size in [1 << 20, 1 << 12] {
            let bytes = vec![0; size];
            loop {
                match ballast.write(&bytes) {
                    Ok(_) => {}
                    Err(e) if e.kind() == ErrorKind::StorageFull => break,
                    Err(e) => panic!("the disk cannot be filled up: {e}"),
                }
            }
        }
    }

    /// Gives back what [`SmallDisk::fill`] took.
    pub fn free(&self) {
        fs::remove_file(self.ballast()).expect("the ballast is there");
    }

    fn ballast(&self) -> PathBuf {
        self.cluster.folder().join("data").join("ballast")
    }
}
