//! The weights of a decoder. Invariant: every matrix has the shape that the forward pass relies on and a format that the
//! kernels compute; every vector is finite. `loader` is what makes them.

use crate::map::Map;
use crate::tensors::Tensor;
use hyprstream_kernels::{Format, MatrixRef, PackedRef, Weight};
use std::ops::Range;
use std::sync::Arc;

/// A matrix `[rows, cols]` where it lies in the file; `rows` are outputs.
#[derive(Clone)]
pub struct Matrix {
    map: Arc<Map>,
    range: Range<usize>,
    format: Format,
    rows: usize,
    cols: usize,
    packed: Option<(Arc<Map>, Range<usize>)>,
}

impl Matrix {
    /// A matrix over a tensor whose bytes are known to fit format and shape.
    pub(crate) fn new(tensor: &Tensor, format: Format, rows: usize, cols: usize) -> Matrix {
        Matrix {
            map: Arc::clone(&tensor.map),
            range: tensor.range.clone(),
            format,
            rows,
            cols,
            packed: None,
        }
    }

    /// The form that products take: packed, where the model was packed and the format has such a form.
    pub fn weight(&self) -> Weight<'_> {
        let packed = self.packed.as_ref().and_then(|(map, range)| {
            PackedRef::new(self.format, self.rows, self.cols, map.bytes().get(range.clone())?)
        });
        packed.map_or_else(|| Weight::Plain(self.as_ref()), Weight::Packed)
    }

    /// Whether there is a packed form.
    pub fn is_packed(&self) -> bool {
        self.packed.is_some()
    }

    #[cfg(test)]
    pub(crate) fn packed_bytes(&self) -> Option<&[u8]> {
        let (map, range) = self.packed.as_ref()?;
        matches!(self.weight(), Weight::Packed(_)).then(|| &map.bytes()[range.clone()])
    }

    /// Where the packed form lies from now on.
    pub(crate) fn set_packed(&mut self, map: Arc<Map>, range: Range<usize>) {
        self.packed = Some((map, range));
    }

    /// Gives the file's pages back, where the packed form stands in for them.
    pub(crate) fn forget(&self) {
        self.map.forget(self.range.clone());
    }

    /// The bytes as they lie in the file: for rows of the embedding, and to pack them.
    pub fn as_ref(&self) -> MatrixRef<'_> {
        let bytes = &self.map.bytes()[self.range.clone()];
        MatrixRef {
            format: self.format,
            rows: self.rows,
            cols: self.cols,
            bytes,
        }
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How the values are stored.
    pub fn format(&self) -> Format {
        self.format
    }
}

/// All weights. Norms and biases are decoded, matrices stay in the file.
pub struct Weights {
    /// `[vocab, hidden]`.
    pub embed: Matrix,
    /// `[vocab, hidden]`; the same bytes as `embed` when tied.
    pub output: Matrix,
    /// `[hidden]`.
    pub output_norm: Vec<f32>,
    /// From the first to the last.
    pub layers: Vec<Layer>,
    /// Divisors of the rotary frequencies, `[rope.dims / 2]`.
    pub rope_factors: Option<Vec<f32>>,
}

impl Weights {
    /// The matrices that products need, by name, in a fixed order.
    pub fn factors(&self) -> impl Iterator<Item = (String, &Matrix)> {
        let layers = self.layers.iter().enumerate().flat_map(|(i, layer)| {
            let Layer {
                q,
                k,
                v,
                o,
                gate,
                up,
                down,
                ..
            } = layer;
            let named = [
                ("q", q),
                ("k", k),
                ("v", v),
                ("o", o),
                ("gate", gate),
                ("up", up),
                ("down", down),
            ];
            named.map(|(name, matrix)| (format!("{i}.{name}"), matrix))
        });
        layers.chain(std::iter::once(("output".to_owned(), &self.output)))
    }

    /// The same, to be changed.
    pub(crate) fn factors_mut(&mut self) -> impl Iterator<Item = &mut Matrix> {
        let layers = self.layers.iter_mut().flat_map(|layer| {
            let Layer {
                q,
                k,
                v,
                o,
                gate,
                up,
                down,
                ..
            } = layer;
            [q, k, v, o, gate, up, down]
        });
        layers.chain(std::iter::once(&mut self.output))
    }

    /// Bytes that stay in memory once the weights are packed: the packed forms, the matrices without one, and the
    /// embedding, of which every row may be asked for.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let factors = self.factors().fold(0u64, |sum, (_, matrix)| {
            let bytes = hyprstream_kernels::packed_bytes(matrix.format, matrix.rows, matrix.cols);
            let shared = bytes.is_none()
                && matrix.range == self.embed.range
                && Arc::ptr_eq(&matrix.map, &self.embed.map);
            sum.saturating_add(if shared {
                0
            } else {
                bytes.unwrap_or(matrix.range.len()) as u64
            })
        });
        factors.saturating_add(self.embed.range.len() as u64)
    }
}

/// The weights of one block.
pub struct Layer {
    /// `[hidden]`.
    pub attn_norm: Vec<f32>,
    /// `[heads * head_dim, hidden]`.
    pub q: Matrix,
    /// `[kv_heads * head_dim, hidden]`.
    pub k: Matrix,
    /// `[kv_heads * head_dim, hidden]`.
    pub v: Matrix,
    /// `[heads * head_dim]`.
    pub q_bias: Option<Vec<f32>>,
    /// `[kv_heads * head_dim]`.
    pub k_bias: Option<Vec<f32>>,
    /// `[kv_heads * head_dim]`.
    pub v_bias: Option<Vec<f32>>,
    /// `[hidden, heads * head_dim]`.
    pub o: Matrix,
    /// `[head_dim]`.
    pub q_norm: Option<Vec<f32>>,
    /// `[head_dim]`.
    pub k_norm: Option<Vec<f32>>,
    /// `[hidden]`.
    pub ffn_norm: Vec<f32>,
    /// `[ffn, hidden]`.
    pub gate: Matrix,
    /// `[ffn, hidden]`.
    pub up: Matrix,
    /// `[hidden, ffn]`.
    pub down: Matrix,
}

/// Why the weights do not fit the description.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A tensor that the architecture needs.
    #[error("tensor {tensor} is missing; {arch} needs it, so the model was not converted completely")]
    Missing {
        /// Its name.
        tensor: String,
        /// The architecture.
        arch: &'static str,
    },
    /// A shape other than the description asks for.
    #[error("tensor {tensor} has shape {found:?}; the model's description asks for {wanted:?}")]
    Shape {
        /// Its name.
        tensor: String,
        /// What the file has, slowest first.
        found: Vec<usize>,
        /// What it should have.
        wanted: Vec<usize>,
    },
    /// A format without kernels.
    #[error("tensor {tensor} is {found}; hyprstream computes {computed}, so get the model in one of them")]
    Format {
        /// Its name.
        tensor: String,
        /// Its type.
        found: String,
        /// The types that are computed.
        computed: String,
    },
    /// NaN or infinity where it would spoil every result.
    #[error("tensor {tensor} holds {value} at index {index}; the file is damaged or was converted wrongly")]
    NotFinite {
        /// Its name.
        tensor: String,
        /// Where.
        index: usize,
        /// What.
        value: f32,
    },
    /// A tensor that the architecture does not use: the file computes something else.
    #[error("tensor {tensor} is not part of {arch} as hyprstream computes it, so the result would be wrong")]
    Unknown {
        /// Its name.
        tensor: String,
        /// The architecture.
        arch: &'static str,
    },
}
