//! Which devices a container may use.

use super::write;
use std::io;
use std::path::Path;

/// Making any node is allowed (it gives no access); using is for null, zero, full, tty, random, urandom, console, ptmx
/// and pts: the list of runc and containerd.
const ALLOWED: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

pub(super) fn version1(dir: &Path) -> io::Result<()> {
    write(&dir.join("devices.deny"), "a")?;
    ALLOWED.iter().try_for_each(|rule| write(&dir.join("devices.allow"), rule))
}
