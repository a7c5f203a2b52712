//! The way into a Debian root that is not booted, for packages and for hosts before and after they run.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// Where programs are, in a root and on a booted host.
pub const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command in this root, in namespaces of its own: no network, no other processes, and of this machine's environment nothing.
/// What it starts ends with it.
pub fn command(root: &Path, program: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c"]);
    command.arg("mount -t proc proc \"$0/proc\" && exec chroot \"$@\"");
    // Twice: the script's name for it, and chroot's first argument.
    command.args([
        root.as_os_str(),
        root.as_os_str(),
        OsStr::new("/usr/bin/env"),
        OsStr::new("-i"),
    ]);
    // Nobody is there to answer a question, and words are the same on every machine.
    command.args([PATH, "HOME=/root", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", program]);
    command
}
