//! Packed weights in the cache folder: found, checked, or made and written. Invariant: a file appears under its name whole
//! and durable, and is mapped only; one that is wrong in any way is replaced, never repaired.

use super::folder::{self, Found};
use super::table::{self, PackedError, PackedSource};
use super::{Origin, PackReport, PackStage, PackedFrom, check, plan::Plan};
use crate::file::ModelFile;
use crate::map::Map;
use hyprstream_kernels::Pool;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;

/// A map, and where the data begin in it.
type Storage = (Arc<Map>, usize);

pub(super) struct Cache<'a> {
    pub folder: &'a Path,
    pub pool: &'a Pool,
    pub plan: &'a Plan,
    pub origin: &'a Origin<'a>,
}

impl Cache<'_> {
    /// Packed weights from the folder, put there first where they are not. `None` where the folder cannot be used.
    pub fn obtain(
        &self,
        model: &ModelFile,
        report: &mut PackReport,
        progress: &mut dyn FnMut(PackStage, f32),
    ) -> Option<Storage> {
        for found in self.candidates(report) {
            match self.open(&found, progress) {
                Ok(storage) => {
                    folder::mark_used(&found.path);
                    report.from = PackedFrom::Cache;
                    return Some(storage);
                }
                // Another process may have removed it meanwhile.
                Err(_) if !found.path.exists() => {}
                Err(error) => {
                    report.warnings.push(format!(
                        "the packed weights in {} are damaged ({error}); they are made anew",
                        found.path.display()
                    ));
                    // Where it cannot be removed it is replaced, or passed over.
                    let _ = fs::remove_file(&found.path);
                }
            }
        }
        match self.make(model, progress) {
            Ok(storage) => {
                report.from = PackedFrom::File;
                Some(storage)
            }
            Err(error) => {
                if !model.damaged() {
                    report.warnings.push(format!(
                        "packed weights cannot be kept in {} ({error}); this model's take {} MB of private memory \
                         and are made anew at each load",
                        self.folder.display(),
                        self.plan.len.div_ceil(1_000_000)
                    ));
                }
                None
            }
        }
    }

    /// Files made from this content, the likeliest first.
    fn candidates(&self, report: &mut PackReport) -> Vec<Found> {
        let listing = folder::list(self.folder);
        for path in listing.broken {
            report.warnings.push(format!(
                "{} is no file of packed weights, or a damaged one; it is removed",
                path.display()
            ));
            let _ = fs::remove_file(&path);
        }
        let of_this_size = listing
            .found
            .into_iter()
            .filter(|found| found.source.bytes == self.origin.bytes);
        let (mut same, other): (Vec<_>, Vec<_>) =
            of_this_size.partition(|found| found.source.identity == self.origin.identity);
        if let Some(digest) = self.origin.digest.get() {
            same.retain(|found| found.source.digest == *digest);
        }
        if same.is_empty() && !other.is_empty() {
            // A copy, or a file that was touched: only its content can tell.
            let digest = self.origin.digest().ok();
            same.extend(
                other
                    .into_iter()
                    .filter(|found| Some(found.source.digest) == digest),
            );
        }
        same
    }

    fn open(&self, found: &Found, progress: &mut dyn FnMut(PackStage, f32)) -> Result<Storage, PackedError> {
        let unreadable = |error| PackedError::Unreadable(io::Error::from(error).to_string());
        let map = Map::open(&found.path).map_err(unreadable)?;
        let table = table::parse(map.bytes())?;
        if table.source != found.source
            || table.tensors != self.plan.tensors
            || table.data_len != self.plan.len
        {
            return Err(PackedError::Tensors);
        }
        check::verify(self.pool, &map, &table, &mut |share| {
            progress(PackStage::Checking, share)
        })?;
        Ok((Arc::new(map), table.data_start))
    }

    /// Packs into a new file. The content's digest is computed beside, where nobody knows it.
    fn make(&self, model: &ModelFile, progress: &mut dyn FnMut(PackStage, f32)) -> io::Result<Storage> {
        let temporary = folder::Temporary::create(self.folder)?;
        let file = temporary.file();
        let start = table::head_bytes(&self.plan.tensors, self.plan.len);
        let digest = thread::scope(|scope| {
            let digest = scope.spawn(|| self.origin.digest());
            let mut done = 0;
            let written = self.plan.pack(model.weights(), self.pool, &mut |at, bytes| {
                file.write_all_at(bytes, (start + at) as u64)?;
                done += bytes.len();
                progress(PackStage::Packing, done as f32 / self.plan.len as f32);
                Ok(())
            });
            let digest = digest
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("hashing failed")));
            written.and(digest)
        })?;
        let hashes = {
            let map = temporary.map()?;
            check::hashes(self.pool, &map, start, &mut |_| {})
        };
        let source = PackedSource {
            identity: self.origin.identity,
            digest,
            bytes: self.origin.bytes,
        };
        let head = table::encode(&source, &self.plan.tensors, self.plan.len, &hashes);
        file.write_all_at(&head, 0)?;
        file.sync_all()?;
        // What was packed from a file that changed meanwhile is nobody's.
        if self.origin.map.damaged() {
            return Err(io::Error::other("the model's file changed"));
        }
        let map = temporary.map()?;
        temporary.publish(&folder::name_of(&source))?;
        Ok((Arc::new(map), start))
    }
}
