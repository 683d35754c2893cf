//! Packed weights on disk: found again, never believed, never needed. Invariant under test: whatever the folder holds, a
//! model is packed to the same bytes.

use super::table::{self, HEAD, PIECE};
use super::*;
use hyprstream_kernels::{Format, PACKED_LAYOUT};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// A q8_0 model.
fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/golden/tiny/tiny.gguf")
}

struct Place {
    root: TempDir,
    pool: Pool,
}

impl Place {
    fn new() -> Place {
        let place = Place {
            root: tempfile::tempdir().unwrap(),
            pool: Pool::new(2).unwrap(),
        };
        fs::create_dir(place.cache()).unwrap();
        fs::copy(tiny(), place.model()).unwrap();
        place
    }

    fn cache(&self) -> PathBuf {
        self.root.path().join("cache")
    }

    fn model(&self) -> PathBuf {
        self.root.path().join("model.gguf")
    }

    /// Loads the model and says where its packed weights came from.
    fn load(&self) -> (ModelFile, PackReport) {
        self.load_with(&self.model(), Some(&self.cache()), None)
    }

    fn load_with(
        &self,
        model: &Path,
        cache: Option<&Path>,
        digest: Option<KnownDigest>,
    ) -> (ModelFile, PackReport) {
        let mut file = ModelFile::open(model).unwrap();
        let options = PackOptions {
            pool: &self.pool,
            cache,
            digest,
        };
        let packed = file.pack(&options, &mut |_, _| {}).unwrap();
        let report = packed.report().clone();
        file.adopt(packed);
        (file, report)
    }

    /// The one file in the cache folder.
    fn packed(&self) -> PathBuf {
        let all: Vec<PathBuf> = paths(&self.cache());
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].clone()
    }
}

fn paths(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

/// All packed bytes of a model.
fn bytes(file: &ModelFile) -> Vec<Vec<u8>> {
    let factors = file.weights().factors();
    factors
        .map(|(_, matrix)| matrix.packed_bytes().unwrap().to_vec())
        .collect()
}

/// What packing in memory gives.
fn expected(place: &Place) -> Vec<Vec<u8>> {
    let (file, report) = place.load_with(&tiny(), None, None);
    assert_eq!((report.from, &report.warnings[..]), (PackedFrom::Memory, &[][..]));
    bytes(&file)
}

#[test]
fn a_second_load_maps_what_the_first_one_made() {
    let place = Place::new();
    let expected = expected(&place);
    let (first, report) = place.load();
    assert_eq!((report.from, report.warnings.len()), (PackedFrom::File, 0));
    assert_eq!(bytes(&first), expected);
    let before = fs::metadata(place.packed()).unwrap().modified().unwrap();
    let (second, report) = place.load();
    assert_eq!((report.from, report.warnings.len()), (PackedFrom::Cache, 0));
    assert_eq!(bytes(&second), expected);
    assert_eq!(fs::metadata(place.packed()).unwrap().modified().unwrap(), before);
    assert!(!first.damaged() && !second.damaged());
    let summary = second.summary();
    assert!(summary.resident_bytes >= report.bytes && summary.resident_bytes < 3 * summary.bytes);
}

#[test]
fn every_kind_of_damage_is_noticed_and_mended() {
    type Harm = fn(&fs::File, u64);
    let flip = |file: &fs::File, at: u64| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 16], at).unwrap();
    };
    let place = Place::new();
    let expected = expected(&place);
    place.load();
    let harms: [(&str, Harm); 5] = [
        ("cut short", |file, len| file.set_len(len - 1).unwrap()),
        ("cut in the head", |file, _| file.set_len(100).unwrap()),
        ("empty", |file, _| file.set_len(0).unwrap()),
        ("longer", |file, len| file.set_len(len + 1).unwrap()),
        ("zeros", |file, len| {
            file.set_len(0).unwrap();
            file.set_len(len).unwrap();
        }),
    ];
    let mend = |what: &str, warned: bool| {
        let (file, report) = place.load();
        assert_eq!(report.from, PackedFrom::File, "{what}");
        assert_eq!(report.warnings.len(), usize::from(warned), "{what}: {report:?}");
        assert_eq!(bytes(&file), expected, "{what}");
        assert_eq!(place.load().1.from, PackedFrom::Cache, "{what}");
    };
    let open = || {
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(place.packed())
            .unwrap()
    };
    for (what, harm) in harms {
        let file = open();
        harm(&file, file.metadata().unwrap().len());
        mend(what, true);
    }
    let start = table::parse(&fs::read(place.packed()).unwrap())
        .unwrap()
        .data_start as u64;
    let len = open().metadata().unwrap().len();
    // Of the head: magic bytes, layout, identity, digest, sizes, checksum, tensors; then the first and the last byte of the data.
    for at in [
        0,
        9,
        30,
        60,
        96,
        104,
        112,
        125,
        HEAD as u64 + 5,
        HEAD as u64 + 40,
        start,
        len - 1,
    ] {
        flip(&open(), at);
        mend(&format!("byte {at}"), true);
    }
    // A file made from a model of another size is no business of this one; it is replaced by name.
    flip(&open(), 90);
    mend("the source's size", false);
}

#[test]
fn other_content_never_gets_old_weights() {
    let place = Place::new();
    let old = bytes(&place.load().0);
    // Another value in the last tensor, at the same size and place.
    let len = fs::metadata(place.model()).unwrap().len();
    let file = fs::OpenOptions::new().write(true).open(place.model()).unwrap();
    file.write_all_at(&[1, 2, 3, 4], len - 8).unwrap();
    let model = fs::read(place.model()).unwrap();
    assert!(model != fs::read(tiny()).unwrap());
    let (now, report) = place.load();
    assert_eq!((report.from, report.warnings.len()), (PackedFrom::File, 0));
    let (fresh, _) = place.load_with(&place.model(), None, None);
    assert_eq!(bytes(&now), bytes(&fresh));
    assert!(bytes(&now) != old, "the change is in a matrix");
    // A digest that is known and another one wins over an identity that is the same.
    let metadata = fs::metadata(place.model()).unwrap();
    let known = |digest| KnownDigest {
        identity: crate::file_identity(&metadata),
        digest,
    };
    let right = *blake3::hash(&model).as_bytes();
    let with = |digest| {
        place
            .load_with(&place.model(), Some(&place.cache()), Some(known(digest)))
            .1
            .from
    };
    assert_eq!(with(right), PackedFrom::Cache);
    assert_eq!(with([7; 32]), PackedFrom::File);
}

#[test]
fn files_of_other_versions_are_not_used() {
    let place = Place::new();
    let expected = expected(&place);
    place.load();
    let kept = place.packed();
    // Of another layout, as another version of the program makes it: passed over, and left to that one.
    let other = place.cache().join("a.p0.packed");
    fs::rename(&kept, &other).unwrap();
    let (file, report) = place.load();
    assert_eq!((report.from, report.warnings.len()), (PackedFrom::File, 0));
    assert!(bytes(&file) == expected && other.exists());
    fs::remove_file(&other).unwrap();
    // Whole and of this very file, but a version that plans differently made it.
    let whole = fs::read(&kept).unwrap();
    let table = table::parse(&whole).unwrap();
    let mut tensors = table.tensors.clone();
    let last = tensors.len() - 1;
    tensors[last].name.push('x');
    let mut replaced = table::encode(&table.source, &tensors, table.data_len, &table.hashes);
    replaced.extend(&whole[table.data_start..]);
    assert!(table::parse(&replaced).is_ok());
    fs::write(&kept, replaced).unwrap();
    let (file, report) = place.load();
    assert_eq!((report.from, report.warnings.len()), (PackedFrom::File, 1));
    assert!(
        report.warnings[0].contains("not those of the model"),
        "{report:?}"
    );
    assert_eq!(bytes(&file), expected);
}

#[test]
fn moves_copies_and_touches_find_their_weights() {
    let place = Place::new();
    place.load();
    let moved = place.root.path().join("moved.gguf");
    fs::rename(place.model(), &moved).unwrap();
    let cache = place.cache();
    let from = |path: &Path| place.load_with(path, Some(&cache), None).1.from;
    assert_eq!(from(&moved), PackedFrom::Cache);
    let copy = place.root.path().join("copy.gguf");
    fs::copy(&moved, &copy).unwrap();
    assert_eq!(from(&copy), PackedFrom::Cache);
    let file = fs::File::options().write(true).open(&moved).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(1000))
        .unwrap();
    assert_eq!(from(&moved), PackedFrom::Cache);
    place.packed();
}

#[test]
fn a_folder_that_cannot_be_used_costs_one_warning() {
    let place = Place::new();
    let expected = expected(&place);
    for folder in [place.root.path().join("absent"), place.model()] {
        let (file, report) = place.load_with(&place.model(), Some(&folder), None);
        assert_eq!(
            (report.from, report.warnings.len()),
            (PackedFrom::Memory, 1),
            "{report:?}"
        );
        assert!(report.warnings[0].contains("private memory"), "{report:?}");
        assert_eq!(bytes(&file), expected);
    }
}

#[test]
fn several_may_pack_at_once() {
    let place = Place::new();
    let expected = expected(&place);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    let (file, report) = place.load();
                    assert_eq!(report.warnings, [""; 0]);
                    assert_eq!(bytes(&file), expected);
                    assert!(!file.damaged());
                    // As a clean-up would, while the others read and write.
                    tidy(&place.cache(), &|_| false, 0);
                }
            });
        }
    });
    place.load();
    place.packed();
}

#[test]
fn a_file_cut_short_in_use_is_noticed_and_made_anew() {
    let place = Place::new();
    place.load();
    let (file, _) = place.load();
    assert!(!file.damaged());
    fs::File::options()
        .write(true)
        .open(place.packed())
        .unwrap()
        .set_len(4096)
        .unwrap();
    assert!(file.damaged());
    // Reading it all the same ends nothing.
    assert!(bytes(&file).iter().flatten().any(|&byte| byte == 0));
    assert_eq!(place.load().1.from, PackedFrom::File);
}

#[test]
fn what_is_gone_is_removed_beyond_a_limit() {
    let place = Place::new();
    place.load();
    let kept = place.packed();
    let bytes = fs::metadata(&kept).unwrap().len();
    let other = |name: &str, age_s: u64| {
        let path = place.cache().join(name);
        fs::copy(&kept, &path).unwrap();
        let then = SystemTime::now() - Duration::from_secs(age_s);
        let times = fs::FileTimes::new().set_accessed(then).set_modified(then);
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_times(times)
            .unwrap();
        path
    };
    let oldest = other("a.p0.packed", 500);
    let newer = other(&format!("b.{PACKED_LAYOUT}.packed"), 400);
    let left_over = other(".1-1.packing", 300);
    let killed_just_now = other(".1-2.packing", 1);
    let held = other(".1-3.packing", 300);
    let lock = fs::File::open(&held).unwrap();
    lock.lock().unwrap();
    let foreign = other("notes.txt", 1000);
    let similar = other(".my-own.packing", 1000);
    let tidied = tidy(&place.cache(), &|_| false, 2 * bytes);
    assert_eq!(
        tidied,
        Tidied {
            files: 3,
            bytes: 3 * bytes
        }
    );
    for (path, there) in [
        (&kept, true),
        (&oldest, false),
        (&newer, true),
        (&left_over, false),
        (&killed_just_now, false),
        (&held, true),
        (&foreign, true),
        (&similar, true),
    ] {
        assert_eq!(path.exists(), there, "{path:?}");
    }
    assert_eq!(tidy(&place.cache(), &|_| true, 0), Tidied::default());
    assert_eq!(
        tidy(&place.root.path().join("absent"), &|_| false, 0),
        Tidied::default()
    );
    drop(lock);
    assert_eq!(sweep(&place.cache()), Tidied { files: 1, bytes });
    assert_eq!(tidy(&place.cache(), &|_| false, 0).files, 2);
}

#[test]
fn a_sweep_never_takes_a_file_from_who_writes_it() {
    let place = Place::new();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sweeping = scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                sweep(&place.cache());
            }
        });
        for _ in 0..2000 {
            let temporary = super::folder::Temporary::create(&place.cache()).unwrap();
            temporary.publish("x").unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        sweeping.join().unwrap();
    });
}

fn tensor() -> PackedTensor {
    PackedTensor {
        name: "0.q".to_owned(),
        format: Format::Q8_0,
        rows: 16,
        cols: 32,
        offset: 0,
        len: hyprstream_kernels::packed_bytes(Format::Q8_0, 16, 32).unwrap(),
    }
}

/// A whole file with right checksums.
fn file_of(tensors: &[PackedTensor], data_len: usize) -> Vec<u8> {
    let source = PackedSource {
        identity: [1; 32],
        digest: [2; 32],
        bytes: 3,
    };
    let hashes = vec![[0; 32]; data_len.div_ceil(PIECE)];
    let mut file = table::encode(&source, tensors, data_len, &hashes);
    assert_eq!(file.len(), table::head_bytes(tensors, data_len));
    file.resize(file.len() + data_len, 0);
    file
}

#[test]
fn heads_that_cannot_be_are_refused() {
    let good = tensor();
    let len = good.len;
    let second = |change: &dyn Fn(&mut PackedTensor)| {
        let mut other = PackedTensor {
            offset: len,
            ..tensor()
        };
        change(&mut other);
        parse(&file_of(&[good.clone(), other], 2 * len))
    };
    let table = second(&|_| {}).unwrap();
    assert_eq!((table.tensors.len(), table.data_len), (2, 2 * len));
    let wrong = |what| Err(PackedError::Tensor { index: 1, what });
    assert_eq!(second(&|t| t.name = "x".repeat(257)), wrong("name"));
    assert_eq!(second(&|t| t.format = Format::F32), wrong("shape"));
    assert_eq!(second(&|t| t.cols = 33), wrong("shape"));
    assert_eq!(second(&|t| t.rows = usize::MAX), wrong("shape"));
    assert_eq!(second(&|t| t.rows = 17), wrong("length"));
    assert_eq!(second(&|t| t.len += 64), wrong("length"));
    assert_eq!(second(&|t| t.offset = 0), wrong("place"));
    assert_eq!(second(&|t| t.offset += 1), wrong("place"));
    assert_eq!(second(&|t| t.offset += 64), wrong("place"));
    assert_eq!(second(&|t| t.offset = usize::MAX - 63), wrong("place"));
    let mut file = file_of(&[good], len);
    assert!(parse(&file).is_ok());
    file[8] ^= 1;
    assert!(matches!(parse(&file), Err(PackedError::Layout { .. })));
    file[8] ^= 1;
    file[100] = 255;
    assert!(matches!(parse(&file), Err(PackedError::Length { .. })));
    for end in 0..HEAD {
        assert_eq!(parse(&file[..end]), Err(PackedError::Magic));
    }
}

#[test]
fn the_seed_for_fuzzing_is_current() {
    let len = tensor().len;
    let other = PackedTensor {
        name: "output".to_owned(),
        offset: len,
        ..tensor()
    };
    let file = file_of(&[tensor(), other], 2 * len);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../fuzz/seeds/packed/two.packed");
    if std::env::var_os("HYPRSTREAM_BLESS").is_some() {
        fs::write(&path, &file).unwrap();
    }
    assert!(
        fs::read(path).unwrap() == file,
        "run this test once with HYPRSTREAM_BLESS=1"
    );
}
