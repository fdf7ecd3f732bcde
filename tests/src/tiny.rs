//! A tiny file system, to be filled to its end.

use std::path::Path;
use std::process::Command;

use crate::peers::skip;

/// A mounted file system of some kilobytes; unmounted when dropped.
pub struct Tiny<'a>(&'a Path);

impl<'a> Tiny<'a> {
    /// Mounts one where that is allowed; else says that the test is left out.
    pub fn mount(at: &'a Path, kib: u32) -> Option<Self> {
        std::fs::create_dir(at).expect("a folder");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"])
            .arg(at);
        let mounted = mount.output().is_ok_and(|mount| mount.status.success());
        match mounted {
            true => Some(Self(at)),
            false => skip("a full disk", "the right to mount a tmpfs"),
        }
    }

    /// Makes it read-only.
    pub fn make_read_only(&self) {
        let mut mount = Command::new("mount");
        mount.args(["-o", "remount,ro"]).arg(self.0);
        assert!(mount.status().is_ok_and(|mounted| mounted.success()));
    }
}

impl Drop for Tiny<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}
