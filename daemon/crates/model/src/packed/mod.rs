//! Weights in the order that the kernels read, made when a model is loaded: mapped from a file of the cache folder where
//! one can be had, else in private memory. Invariant: the bytes are the same either way, and those of a file are used only
//! if the file was made from this very content and its checksums are right.

mod cache;
mod check;
mod folder;
mod plan;
mod table;
#[cfg(test)]
mod tests;

pub use folder::{Tidied, sweep, tidy};
pub use table::{PackedError, PackedSource, PackedTable, PackedTensor, parse};

use crate::file::ModelFile;
use crate::map::Map;
use crate::open_error::OpenError;
use cache::Cache;
use hyprstream_kernels::Pool;
use plan::Plan;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// How a model is packed.
pub struct PackOptions<'a> {
    /// Who computes.
    pub pool: &'a Pool,
    /// The folder that keeps packed weights, if there is one.
    pub cache: Option<&'a Path>,
    /// The content's BLAKE3, where it is known, and the identity of the file that it is known of.
    pub digest: Option<KnownDigest>,
}

/// A digest that was computed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownDigest {
    /// Of which file: as [`crate::file_identity`] says.
    pub identity: [u8; 32],
    /// BLAKE3 of its content.
    pub digest: [u8; 32],
}

/// What packing is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackStage {
    /// Packed weights of an earlier load are checked.
    Checking,
    /// The weights are packed.
    Packing,
}

/// Where the packed weights came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackedFrom {
    /// No matrix has a packed form.
    Nothing,
    /// They were in the cache folder.
    Cache,
    /// They were packed, and are in the cache folder now.
    File,
    /// They were packed, and take private memory.
    Memory,
}

/// Packed weights, to be handed to their model by [`ModelFile::adopt`].
pub struct Packed {
    storage: Option<(Arc<Map>, usize)>,
    plan: Plan,
    report: PackReport,
}

/// What became of packing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackReport {
    /// Where the packed weights lie.
    pub from: PackedFrom,
    /// Bytes of them.
    pub bytes: u64,
    /// What the administrator should know: damaged files, a folder that cannot be used.
    pub warnings: Vec<String>,
}

impl Packed {
    /// What became of packing.
    pub fn report(&self) -> &PackReport {
        &self.report
    }

    /// The map, and where tensor `index` of the plan lies in it.
    fn tensor(&self, index: usize) -> Option<(Arc<Map>, Range<usize>)> {
        let (map, start) = self.storage.as_ref()?;
        let tensor = self.plan.tensors.get(index)?;
        let at = start.checked_add(tensor.offset)?;
        Some((Arc::clone(map), at..at.checked_add(tensor.len)?))
    }
}

/// The file that is packed, and what is known of its content.
struct Origin<'a> {
    map: &'a Map,
    identity: [u8; 32],
    bytes: u64,
    digest: OnceLock<[u8; 32]>,
}

impl<'a> Origin<'a> {
    /// `None` for what is no single file.
    fn of(maps: &'a [Arc<Map>], known: Option<KnownDigest>) -> Option<Origin<'a>> {
        let [map] = maps else { return None };
        let metadata = map.file()?.metadata().ok()?;
        let identity = crate::file_identity(&metadata);
        let known = known.filter(|known| known.identity == identity);
        Some(Origin {
            map,
            identity,
            bytes: metadata.len(),
            digest: known.map_or_else(OnceLock::new, |known| known.digest.into()),
        })
    }

    /// The digest, computed where it is not known.
    fn digest(&self) -> io::Result<[u8; 32]> {
        if let Some(digest) = self.digest.get() {
            return Ok(*digest);
        }
        let digest = check::digest(self.map)?;
        Ok(*self.digest.get_or_init(|| digest))
    }
}

impl ModelFile {
    /// Packs the weights, or finds them packed. Blocks.
    ///
    /// # Errors
    /// The model's file changed meanwhile.
    pub fn pack(
        &self,
        options: &PackOptions<'_>,
        progress: &mut dyn FnMut(PackStage, f32),
    ) -> Result<Packed, OpenError> {
        let plan = Plan::of(self.weights());
        let mut report = PackReport {
            from: PackedFrom::Nothing,
            bytes: plan.len as u64,
            warnings: Vec::new(),
        };
        let mut storage = None;
        if !plan.tensors.is_empty() {
            let origin = Origin::of(self.maps(), options.digest);
            if let (Some(folder), Some(origin)) = (options.cache, &origin) {
                let cache = Cache {
                    folder,
                    pool: options.pool,
                    plan: &plan,
                    origin,
                };
                storage = cache.obtain(self, &mut report, progress);
            }
            if storage.is_none() && !self.damaged() {
                storage = self.pack_in_memory(options.pool, &plan, &mut report, progress);
            }
        }
        if self.damaged() {
            return Err(self.damage());
        }
        Ok(Packed {
            storage,
            plan,
            report,
        })
    }

    /// Lets products use the packed weights.
    pub fn adopt(&mut self, packed: Packed) {
        for (tensor, at) in packed.plan.factors.iter().enumerate() {
            let matrix = self.weights_mut().factors_mut().nth(*at);
            if let (Some(matrix), Some((map, range))) = (matrix, packed.tensor(tensor)) {
                matrix.set_packed(map, range);
                matrix.forget();
            }
        }
        if let Some((map, _)) = packed.storage {
            self.add_map(map);
        }
    }

    fn pack_in_memory(
        &self,
        pool: &Pool,
        plan: &Plan,
        report: &mut PackReport,
        progress: &mut dyn FnMut(PackStage, f32),
    ) -> Option<(Arc<Map>, usize)> {
        let mut memory = match memmap2::MmapMut::map_anon(plan.len) {
            Ok(memory) => memory,
            Err(error) => {
                let warning =
                    format!("there is no memory for packed weights ({error}): products will be slow");
                report.warnings.push(warning);
                return None;
            }
        };
        // Huge pages where the system has them to give.
        let _ = memory.advise(memmap2::Advice::HugePage);
        let mut done = 0;
        plan.pack(self.weights(), pool, &mut |at, bytes| {
            if let Some(to) = memory.get_mut(at..at + bytes.len()) {
                to.copy_from_slice(bytes);
            }
            done += bytes.len();
            progress(PackStage::Packing, done as f32 / plan.len as f32);
            Ok(())
        })
        .ok()?;
        report.from = PackedFrom::Memory;
        Some((Arc::new(Map::from_memory(memory)), 0))
    }
}
