//! The tensors of an opened model, whatever its format. Invariant: every range lies inside its map and is exactly as long
//! as format and shape say.

use crate::map::Map;
use hyprstream_kernels::Format;
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

/// One tensor.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub map: Arc<Map>,
    pub range: Range<usize>,
    /// Its type's name in the file.
    pub kind: Cow<'static, str>,
    /// Set if it is computed.
    pub format: Option<Format>,
    /// Slowest first: a matrix is `[rows, cols]`.
    pub shape: Vec<usize>,
}

impl Tensor {
    pub fn bytes(&self) -> &[u8] {
        &self.map.bytes()[self.range.clone()]
    }

    fn values(&self) -> u64 {
        self.shape
            .iter()
            .fold(1, |product, &d| product.saturating_mul(d as u64))
    }
}

/// Every tensor, by name.
#[derive(Default)]
pub(crate) struct Tensors {
    pub by_name: HashMap<String, Tensor>,
    pub maps: Vec<Arc<Map>>,
}

impl Tensors {
    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        self.by_name
            .values()
            .fold(0, |sum, t| sum.saturating_add(t.values()))
    }

    /// Bytes of the files.
    pub fn file_bytes(&self) -> u64 {
        self.maps
            .iter()
            .fold(0, |sum, map| sum.saturating_add(map.bytes().len() as u64))
    }

    /// The type that most bytes have.
    pub fn main_kind(&self) -> String {
        let mut bytes: HashMap<&str, usize> = HashMap::new();
        for t in self.by_name.values() {
            let sum = bytes.entry(&t.kind).or_default();
            *sum = sum.saturating_add(t.range.len());
        }
        // The name decides between equals, so that the answer does not change from run to run.
        let most = bytes.into_iter().max_by_key(|&(name, bytes)| (bytes, name));
        most.map(|(name, _)| name.to_owned()).unwrap_or_default()
    }

    /// Whether a file shrank under its map.
    pub fn damaged(&self) -> bool {
        self.maps.iter().any(|map| map.damaged())
    }
}
