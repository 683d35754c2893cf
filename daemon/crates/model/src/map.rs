//! Read-only maps of model files. Invariant: a file that shrinks or fails under its map never ends the process: the lost
//! pages read as zeros and the map says that it is damaged.
//!
//! The kernel answers a read beyond the end of a mapped file with SIGBUS. The handler here puts zero pages in place of the
//! rest of that map. It uses nothing but atomics in a fixed table, `mmap` and `sigaction`, all of them async-signal-safe.

#![allow(unsafe_code)]

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

/// Maps at once. A model in a hundred shards takes a hundred.
const MAPS_MAX: usize = 4096;

struct Slot {
    /// First byte; 0 while the slot is free.
    start: AtomicUsize,
    len: AtomicUsize,
    damaged: AtomicBool,
}

static SLOTS: [Slot; MAPS_MAX] = [const {
    Slot {
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        damaged: AtomicBool::new(false),
    }
}; MAPS_MAX];
/// Serialises claims; the handler never takes it.
static CLAIMS: Mutex<()> = Mutex::new(());
/// Bytes of a page; set before the handler is installed.
static PAGE: AtomicUsize = AtomicUsize::new(4096);

/// The bytes of a file: mapped, or owned: packed weights that found no place on disk, and files of tests and fuzzing.
pub struct Map {
    bytes: Bytes,
}

enum Bytes {
    Mapped {
        map: memmap2::Mmap,
        file: File,
        /// Last change of the content when it was mapped.
        modified: Option<SystemTime>,
        slot: &'static Slot,
    },
    Anonymous(memmap2::MmapMut),
    Owned(Box<[u8]>),
}

impl Map {
    /// Maps a regular file.
    pub fn open(path: &Path) -> Result<Map, MapError> {
        let file = open_regular(path)?;
        install_handler()?;
        let modified = file.metadata()?.modified().ok();
        // SAFETY: the map is read-only, and its bytes are used as numbers or copied before they are checked, never as a
        // type with invalid values; a shrinking file is answered by the handler.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        let slot = claim(map.as_ptr() as usize, map.len()).ok_or(MapError::TooMany)?;
        Ok(Map {
            bytes: Bytes::Mapped {
                map,
                file,
                modified,
                slot,
            },
        })
    }

    /// A map of bytes in memory.
    pub fn from_bytes(bytes: Vec<u8>) -> Map {
        Map {
            bytes: Bytes::Owned(bytes.into()),
        }
    }

    /// What was written to memory that no file stands behind.
    pub fn from_memory(memory: memmap2::MmapMut) -> Map {
        Map {
            bytes: Bytes::Anonymous(memory),
        }
    }

    /// The file, to be asked for more than its bytes.
    pub fn file(&self) -> Option<&File> {
        match &self.bytes {
            Bytes::Mapped { file, .. } => Some(file),
            Bytes::Anonymous(_) | Bytes::Owned(_) => None,
        }
    }

    /// Maps pages of this range in one go, which is faster than one by one. Where the system cannot, it changes nothing.
    pub fn populate(&self, range: Range<usize>) {
        if let Bytes::Mapped { map, .. } = &self.bytes {
            let _ = map.advise_range(memmap2::Advice::PopulateRead, range.start, range.len());
        }
    }

    /// Gives the pages that lie whole in this range back; who reads them gets them from the file again.
    pub fn forget(&self, range: Range<usize>) {
        let Bytes::Mapped { map, .. } = &self.bytes else {
            return;
        };
        let page = PAGE.load(Ordering::Acquire);
        let (start, end) = (
            range.start.next_multiple_of(page),
            range.end.min(map.len()) / page * page,
        );
        if start < end {
            // SAFETY: the map is read-only and backed by its file (or by the zeros of a repair), so its pages lose
            // nothing.
            let _ =
                unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start) };
        }
    }

    /// The bytes. They may change when another process writes to the file.
    pub fn bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Mapped { map, .. } => map,
            Bytes::Anonymous(memory) => memory,
            Bytes::Owned(bytes) => bytes,
        }
    }

    /// Whether the file was written to since it was mapped, became shorter than its map or could not be read: the bytes
    /// are not those that were checked.
    pub fn damaged(&self) -> bool {
        let Bytes::Mapped {
            map,
            file,
            modified,
            slot,
        } = &self.bytes
        else {
            return false;
        };
        // The rest of a page that the file ends in reads as zeros without any signal.
        let changed = || {
            let now = file.metadata();
            now.is_ok_and(|m| m.len() < map.len() as u64 || m.modified().ok() != *modified)
        };
        if !slot.damaged.load(Ordering::Acquire) && changed() {
            slot.damaged.store(true, Ordering::Release);
        }
        slot.damaged.load(Ordering::Acquire)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if let Bytes::Mapped { slot, .. } = &self.bytes {
            slot.start.store(0, Ordering::Release);
        }
    }
}

/// Why a file cannot be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The system said no.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A folder, pipe or device.
    #[error("is not a regular file")]
    NotAFile,
    /// The table of maps is full.
    #[error("cannot be mapped: {MAPS_MAX} files are mapped already; unload a model")]
    TooMany,
}

/// For those who open other files here, in words that follow "cannot be read:".
impl From<MapError> for io::Error {
    fn from(error: MapError) -> io::Error {
        match error {
            MapError::Io(error) => error,
            MapError::NotAFile => io::Error::new(io::ErrorKind::InvalidInput, format!("it {error}")),
            MapError::TooMany => io::Error::other(format!("it {error}")),
        }
    }
}

/// Device, inode, size and time of change: which content a file holds, as far as one can tell without reading it.
pub fn file_identity(metadata: &Metadata) -> [u8; 32] {
    let mtime_ns = metadata
        .mtime()
        .wrapping_mul(1_000_000_000)
        .wrapping_add(metadata.mtime_nsec());
    let fields = [metadata.dev(), metadata.ino(), metadata.size(), mtime_ns as u64];
    let mut bytes = [0; 32];
    for (slot, field) in bytes.chunks_exact_mut(8).zip(fields) {
        slot.copy_from_slice(&field.to_le_bytes());
    }
    bytes
}

/// Opens a regular file for reading. A named pipe in its place must not hold the reader up, hence O_NONBLOCK.
pub fn open_regular(path: &Path) -> Result<File, MapError> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(MapError::NotAFile)
    }
}

fn claim(start: usize, len: usize) -> Option<&'static Slot> {
    let _guard = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
    let slot = SLOTS
        .iter()
        .find(|slot| slot.start.load(Ordering::Acquire) == 0)?;
    slot.len.store(len, Ordering::Release);
    slot.damaged.store(false, Ordering::Release);
    slot.start.store(start, Ordering::Release);
    Some(slot)
}

fn install_handler() -> io::Result<()> {
    static INSTALLED: OnceLock<Result<(), i32>> = OnceLock::new();
    let installed = INSTALLED.get_or_init(|| {
        // SAFETY: sysconf reads a constant of the system.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        PAGE.store(usize::try_from(page).unwrap_or(4096).max(1), Ordering::Release);
        // SAFETY: a zeroed sigaction is a valid one; the handler has the signature that SA_SIGINFO asks for and does only
        // what is async-signal-safe.
        let failed = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_sigbus as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) != 0
        };
        if failed {
            Err(io::Error::last_os_error().raw_os_error().unwrap_or(0))
        } else {
            Ok(())
        }
    });
    installed.map_err(io::Error::from_raw_os_error)
}

extern "C" fn on_sigbus(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler; errno is this thread's own.
    let (code, address, errno) = unsafe {
        (
            (*info).si_code,
            (*info).si_addr() as usize,
            *libc::__errno_location(),
        )
    };
    // A code of 0 or less means that a process sent the signal; then there is no address.
    let repaired = code > 0 && SLOTS.iter().any(|slot| repair(slot, address));
    // SAFETY: sigaction and raise are async-signal-safe; a zeroed sigaction is SIG_DFL. On return the faulting
    // instruction runs again, and this time ends the process as it would have without us.
    unsafe {
        if !repaired {
            let default: libc::sigaction = std::mem::zeroed();
            libc::sigaction(libc::SIGBUS, &default, std::ptr::null_mut());
            if code <= 0 {
                libc::raise(libc::SIGBUS);
            }
        }
        *libc::__errno_location() = errno;
    }
}

/// Puts zero pages from `address` to the end of this slot's map. False if the address is not in it.
fn repair(slot: &Slot, address: usize) -> bool {
    let start = slot.start.load(Ordering::Acquire);
    let end = start.saturating_add(slot.len.load(Ordering::Acquire));
    if start == 0 || !(start..end).contains(&address) || slot.start.load(Ordering::Acquire) != start {
        return false;
    }
    slot.damaged.store(true, Ordering::Release);
    let page = address - address % PAGE.load(Ordering::Acquire);
    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: [page, end) lies in a map that is alive, since a thread is reading it; it is replaced, never unmapped, and
    // unmapping the whole later takes the zero pages with it.
    let zeros = unsafe { libc::mmap(page as *mut _, end - page, libc::PROT_READ, flags, -1, 0) };
    zeros != libc::MAP_FAILED
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file_of(len: usize) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&vec![7; len]).unwrap();
        file
    }

    #[test]
    fn a_file_that_shrinks_reads_as_zeros() {
        let file = file_of(64 * 4096);
        let map = Map::open(file.path()).unwrap();
        let other = Map::open(file_of(4096).path()).unwrap();
        assert!(!map.damaged());
        file.as_file().set_len(4096 + 5).unwrap();
        let sum: u64 = map.bytes().iter().map(|&b| u64::from(b)).sum();
        assert_eq!(sum, 7 * (4096 + 5), "what is left of the file is still there");
        assert!(map.damaged());
        assert!(!other.damaged(), "other maps are untouched");
        file.as_file().set_len(64 * 4096).unwrap();
        assert!(map.damaged(), "damage is not forgotten");
    }

    #[test]
    fn many_threads_survive_the_same_truncation() {
        let file = file_of(256 * 4096);
        let map = Map::open(file.path()).unwrap();
        file.as_file().set_len(0).unwrap();
        std::thread::scope(|scope| {
            for start in 0..8 {
                let map = &map;
                scope.spawn(move || {
                    assert!(map.bytes().iter().skip(start * 4096).step_by(31).all(|&b| b == 0));
                });
            }
        });
        assert!(map.damaged());
    }

    #[test]
    fn a_cut_inside_the_last_page_is_noticed() {
        let file = file_of(100);
        let map = Map::open(file.path()).unwrap();
        file.as_file().set_len(50).unwrap();
        assert!(map.damaged());
    }

    #[test]
    fn slots_are_used_again() {
        let file = file_of(10);
        for _ in 0..MAPS_MAX + 10 {
            assert_eq!(Map::open(file.path()).unwrap().bytes().len(), 10);
        }
    }

    #[test]
    fn folders_pipes_and_empty_files() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Map::open(folder.path()), Err(MapError::NotAFile)));
        assert!(matches!(
            Map::open(&folder.path().join("absent")),
            Err(MapError::Io(_))
        ));
        assert!(Map::open(file_of(0).path()).unwrap().bytes().is_empty());
        let pipe = folder.path().join("pipe");
        assert!(
            std::process::Command::new("mkfifo")
                .arg(&pipe)
                .status()
                .unwrap()
                .success()
        );
        assert!(matches!(Map::open(&pipe), Err(MapError::NotAFile)));
        let read = |path: &Path| open_regular(path).map_err(io::Error::from);
        for path in [pipe.as_path(), folder.path()] {
            let error = read(path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert_eq!(error.to_string(), "it is not a regular file");
        }
        let absent = read(&folder.path().join("absent")).unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound, "the system's own word");
        read(file_of(1).path()).unwrap();
    }

    /// A SIGBUS that is not ours ends the process as it would have.
    #[test]
    fn foreign_signals_keep_their_meaning() {
        const CHILD: &str = "HYPRSTREAM_TEST_SIGBUS";
        if std::env::var_os(CHILD).is_some() {
            let _map = Map::open(file_of(10).path()).unwrap();
            // SAFETY: raising a signal in a process that exists for this.
            unsafe { libc::raise(libc::SIGBUS) };
            std::process::exit(0);
        }
        use std::os::unix::process::ExitStatusExt;
        let name = "map::tests::foreign_signals_keep_their_meaning";
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert_eq!(child.status.signal(), Some(libc::SIGBUS));
    }
}
