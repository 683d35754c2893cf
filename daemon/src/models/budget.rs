//! How much memory there is: the machine's, or what the control group grants. Invariant: never more than either.
use std::fs;
use std::path::Path;

/// Bytes that this process may use: the smaller of the machine's memory and the limits of its control groups.
pub fn available_memory() -> u64 {
    // Not from /proc/meminfo: the unit's fences (ProcSubset=pid) hide it.
    let info = rustix::system::sysinfo();
    let physical = info.totalram.checked_mul(u64::from(info.mem_unit));
    let group = fs::read_to_string("/proc/self/cgroup")
        .ok()
        .and_then(|text| unified_group(&text).map(str::to_owned));
    let limit = group.and_then(|group| smallest_limit(Path::new("/sys/fs/cgroup"), &group));
    physical.unwrap_or(u64::MAX).min(limit.unwrap_or(u64::MAX))
}

/// Resident set of this process in bytes, mapped files included.
pub fn resident_memory() -> u64 {
    own("VmRSS:").unwrap_or(0)
}

/// Memory of this process that no file stands behind, in bytes.
pub fn private_memory() -> Option<u64> {
    own("RssAnon:")
}

/// What the kernel says of this process under that name.
fn own(name: &str) -> Option<u64> {
    line_kib(&fs::read_to_string("/proc/self/status").ok()?, name)
}

fn line_kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace()
        .next()?
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// The path in the unified hierarchy, from `0::/system.slice/x.service`.
fn unified_group(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::/"))
}

/// A parent's limit binds its children too.
fn smallest_limit(mount: &Path, group: &str) -> Option<u64> {
    let own = mount.join(group);
    let folders = own.ancestors().take_while(|folder| folder.starts_with(mount));
    let limits = folders.filter_map(|folder| {
        fs::read_to_string(folder.join("memory.max"))
            .ok()?
            .trim()
            .parse()
            .ok()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_limits_count() {
        let mount = tempfile::tempdir().unwrap();
        let service = mount.path().join("system.slice/x.service");
        fs::create_dir_all(&service).unwrap();
        fs::write(service.join("memory.max"), "max\n").unwrap();
        assert_eq!(smallest_limit(mount.path(), "system.slice/x.service"), None);
        fs::write(mount.path().join("system.slice/memory.max"), "4096\n").unwrap();
        assert_eq!(smallest_limit(mount.path(), "system.slice/x.service"), Some(4096));
        assert_eq!(unified_group("1:cpu:/a\n0::/b/c\n"), Some("b/c"));
        assert_eq!(line_kib("Name: x\nVmRSS:\t 2048 kB\n", "VmRSS:"), Some(2 << 20));
        let total = line_kib(&fs::read_to_string("/proc/meminfo").unwrap(), "MemTotal:").unwrap();
        assert!(available_memory() <= total && available_memory() > 1 << 20);
        assert!(resident_memory() > 0);
    }
}
