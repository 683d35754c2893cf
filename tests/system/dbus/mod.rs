//! The D-Bus door, on a bus of the tests' own with the shipped policy. Invariant: nothing here touches the machine's buses.
mod authority;
mod faults;
mod foreign;
mod models;
mod privacy;
mod talk;

use hyprstream_tests::fixtures;
use rustix::process::getuid;

/// Two users who are nobody's: they exist on every Debian.
const USERS: [u32; 2] = [1, 65534];

/// Whether this test may be other users.
fn can_be_others() -> bool {
    let root = getuid().is_root();
    if !root {
        fixtures::skipped("D-Bus with two users: only the superuser can be others");
    }
    root
}
