//! Products: a whole model's, each of its shapes, and each format.
//!
//! Invariant: weights are packed bytes of random blocks, more than the last-level cache holds. GB/s are of weights alone.

use hyprstream_kernels::{
    Format, Forms, Input, Isa, MatrixRef, PackedRef, Pool, Product, Rows, Weight, multiply, packed_bytes,
};

use super::limits::{Kind, Limits, Speed, best};

/// What the model's formats want.
const FORMS: Forms = Forms {
    plain: false,
    halves: false,
    by_32: false,
    by_256: true,
};

/// Generated rows that tiles multiply (`src/input/blocks.rs`).
const TILE_DECODE_ROWS: std::ops::RangeInclusive<usize> = 6..=128;

/// What multiplies packed weights with these rows, which have one role.
fn instructions(pool: &Pool, rows: Rows) -> Kind {
    match pool.isa() {
        Isa::Amx if rows.prefill > 0 => Kind::Bf16Tiles,
        Isa::Amx if TILE_DECODE_ROWS.contains(&rows.decode) => Kind::Int8Tiles,
        _ => Kind::Int8,
    }
}

/// What multiplies weights that stay as they are in the file.
fn instructions_of_plain(pool: &Pool, format: Format, rows: Rows) -> Kind {
    match pool.isa() {
        Isa::Amx if rows.prefill > 0 && format != Format::F32 => Kind::Bf16Tiles,
        _ => Kind::F32,
    }
}

/// Bytes of weights to walk through, about.
const MEMORY: usize = 300 << 20;

#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line(#[allow(dead_code, reason = "read as bytes")] [u8; 64]);

/// Lines of bytes that are sane as scales and as codes: small, and different. Where a scale is an exponent, 127 stands for
/// 1, and small bytes would make numbers so tiny that the processor takes a slow path.
fn lines(format: Format, bytes: usize) -> Vec<Line> {
    let least = if format == Format::MXFP4 { 104 } else { 1 };
    (0..bytes.div_ceil(64))
        .map(|i| Line([(i % 23) as u8 + least; 64]))
        .collect()
}

fn bytes_of(lines: &[Line]) -> &[u8] {
    // SAFETY: a line is 64 bytes.
    unsafe { std::slice::from_raw_parts(lines.as_ptr().cast(), lines.len() * 64) }
}

/// Matrices of one shape that follow one another in memory.
struct Matrices {
    format: Format,
    rows: usize,
    cols: usize,
    len: usize,
    lines: Vec<Line>,
}

impl Matrices {
    fn new(format: Format, rows: usize, cols: usize, count: usize) -> Matrices {
        let len = packed_bytes(format, rows, cols).unwrap_or(64);
        Matrices {
            format,
            rows,
            cols,
            len,
            lines: lines(format, len * count),
        }
    }

    fn get(&self, i: usize) -> Option<Weight<'_>> {
        let bytes = bytes_of(&self.lines).get(i * self.len..(i + 1) * self.len)?;
        PackedRef::new(self.format, self.rows, self.cols, bytes).map(Weight::Packed)
    }

    fn count(&self) -> usize {
        self.lines.len() * 64 / self.len
    }
}

/// The weights of a layer: of the second matrices in the first layers, then of the first.
fn weight((most, first, count): &(Matrices, Matrices, usize), layer: usize) -> Option<Weight<'_>> {
    match layer.checked_sub(*count) {
        Some(i) => most.get(i),
        None => first.get(layer),
    }
}

/// All products of Qwen3-0.6B's shape in Q4_K_M: what a step costs at least.
pub fn model(pool: &Pool, limits: &Limits) {
    const LAYERS: usize = 28;
    let of = |rows, cols, q6: usize| {
        (
            Matrices::new(Format::Q4_K, rows, cols, LAYERS - q6),
            Matrices::new(Format::Q6_K, rows, cols, q6.max(1)),
            q6,
        )
    };
    // Half of the layers have v and down in Q6_K.
    let (q, k, v, o) = (
        of(2048, 1024, 0),
        of(1024, 1024, 0),
        of(1024, 1024, 14),
        of(1024, 2048, 0),
    );
    let (gate, up, down) = (of(3072, 1024, 0), of(3072, 1024, 0), of(1024, 3072, 14));
    let head = Matrices::new(Format::Q6_K, 151_936, 1024, 1);
    println!("model Q4_K_M             ms   tok/s {}", Speed::HEADING);
    for (decode, prefill) in [(1, 0), (2, 0), (4, 0), (8, 0), (16, 0), (0, 512)] {
        let rows = Rows { decode, prefill };
        let total = decode + prefill;
        let (Some(mut narrow), Some(mut wide)) = (Input::new(total, 1024), Input::new(total, 3072)) else {
            return;
        };
        let x = vec![0.5; total * 3072];
        let mut y: Vec<Vec<f32>> = [2048, 1024, 1024, 1024, 3072, 3072]
            .iter()
            .map(|rows| vec![0.0; total * rows])
            .collect();
        let mut logits = vec![0.0; decode.max(1) * 151_936];
        let norm = vec![1.0; 1024];
        let seconds = best(if prefill > 0 { 3 } else { 5 }, || {
            for layer in 0..LAYERS {
                let [yq, yk, yv, yo, yg, yu] = &mut y[..] else {
                    return;
                };
                narrow.set_norm(pool, &x[..total * 1024], &norm, 1e-6, rows, FORMS);
                run(
                    pool,
                    &narrow,
                    [
                        (weight(&q, layer), yq),
                        (weight(&k, layer), yk),
                        (weight(&v, layer), yv),
                    ],
                    false,
                );
                wide.set(pool, &x[..total * 2048], 2048, rows, FORMS);
                run(pool, &wide, [(weight(&o, layer), yo)], true);
                narrow.set_norm(pool, &x[..total * 1024], &norm, 1e-6, rows, FORMS);
                run(
                    pool,
                    &narrow,
                    [(weight(&gate, layer), yg), (weight(&up, layer), yu)],
                    false,
                );
                let Some((yg, yu)) = y.get(4).zip(y.get(5)) else {
                    return;
                };
                wide.set_silu_mul(pool, yg, yu, 3072, rows, FORMS);
                run(pool, &wide, [(weight(&down, layer), &mut y[3])], true);
            }
            if decode > 0 {
                narrow.set_norm(pool, &x[..decode * 1024], &norm, 1e-6, rows, FORMS);
                run(pool, &narrow, [(head.get(0), &mut logits)], false);
            }
        });
        let layers = [&q, &k, &v, &o, &gate, &up, &down];
        let ends = usize::from(decode > 0);
        let bytes = layers.map(|m| m.0.len * (LAYERS - m.2) + m.1.len * m.2);
        let weights = layers.map(|m| m.0.rows * m.0.cols * LAYERS);
        let kind = instructions(pool, rows);
        let speed = limits.speed(
            kind,
            bytes.iter().sum::<usize>() + ends * head.len,
            2 * total * (weights.iter().sum::<usize>() + ends * head.rows * head.cols),
            seconds,
        );
        println!(
            "{:<16} {:10.2} {:7.1} {speed} of {}",
            title(rows),
            seconds * 1e3,
            total as f64 / seconds,
            kind.name()
        );
    }
}

fn title(rows: Rows) -> String {
    match rows.prefill {
        0 => format!("decode {}", rows.decode),
        tokens => format!("prompt {tokens}"),
    }
}

fn run<const N: usize>(pool: &Pool, input: &Input, of: [(Option<Weight<'_>>, &mut Vec<f32>); N], add: bool) {
    let mut products = of.map(|(w, y)| {
        w.map(|w| Product {
            w,
            bias: None,
            y,
            add,
        })
    });
    let mut all: Vec<Product<'_>> = products.iter_mut().filter_map(Option::take).collect();
    multiply(pool, input, &mut all);
}

/// Seconds of one product, the best of those of all matrices.
fn one(pool: &Pool, matrices: &Matrices, rows: Rows, rounds: usize) -> f64 {
    let total = rows.total();
    let x = vec![0.5; total * matrices.cols];
    let mut y = vec![0.0; total * matrices.rows];
    let Some(mut input) = Input::new(total, matrices.cols) else {
        return f64::NAN;
    };
    let forms = matrices.get(0).map_or(Forms::default(), |w| w.forms());
    input.set(pool, &x, matrices.cols, rows, forms);
    let mut next = 0;
    best(rounds, || {
        if let Some(w) = matrices.get(next % matrices.count()) {
            let y = &mut y[..];
            multiply(
                pool,
                &input,
                &mut [Product {
                    w,
                    bias: None,
                    y,
                    add: false,
                }],
            );
        }
        next += 1;
    })
}

const PROMPT_ROUNDS: usize = 10;

/// The numbers of rows of a table's columns.
const COLUMNS: [Rows; 4] = {
    const fn decode(decode: usize) -> Rows {
        Rows { decode, prefill: 0 }
    }
    let prompt = Rows {
        decode: 0,
        prefill: 512,
    };
    [decode(1), decode(4), decode(16), prompt]
};

/// Two lines above a table: rows and what multiplies them, then what the numbers are.
fn heading(kind: impl Fn(Rows) -> Kind) {
    let above = |rows| format!("  {:<22}", format!("{}, {}", title(rows), kind(rows).name()));
    println!("\n{:21}{}", "", COLUMNS.map(above).concat().trim_end());
    println!(
        "{:21}{}",
        "",
        format!("  {}", Speed::HEADING).repeat(COLUMNS.len())
    );
}

fn report(pool: &Pool, matrices: &Matrices, limits: &Limits) {
    let (rows, cols) = (matrices.rows, matrices.cols);
    print!("{:6} {rows:6} x {cols:4}:", matrices.format.name());
    for column in COLUMNS {
        // Logits are made of generated tokens alone.
        if column.prefill > 0 && rows > 10_000 {
            continue;
        }
        let rounds = if column.prefill > 0 {
            2
        } else {
            matrices.count().max(4)
        };
        let seconds = one(pool, matrices, column, rounds);
        let kind = instructions(pool, column);
        let operations = 2 * column.total() * rows * cols;
        print!("  {}", limits.speed(kind, matrices.len, operations, seconds));
    }
    println!();
}

/// The shapes of Qwen3-0.6B in the formats of its usual files.
pub fn shapes(pool: &Pool, limits: &Limits) {
    heading(|rows| instructions(pool, rows));
    for format in [Format::Q4_K, Format::Q6_K, Format::Q8_0] {
        for (rows, cols) in [
            (1024, 1024),
            (2048, 1024),
            (1024, 2048),
            (3072, 1024),
            (1024, 3072),
            (151_936, 1024),
        ] {
            let len = packed_bytes(format, rows, cols).unwrap_or(MEMORY);
            let matrices = Matrices::new(format, rows, cols, (MEMORY / len).max(1));
            report(pool, &matrices, limits);
        }
    }
}

/// Every format in one shape: packed, or as in the file.
pub fn formats(pool: &Pool, limits: &Limits) {
    let (rows, cols) = (3072, 1024);
    heading(|rows| instructions(pool, rows));
    for format in Format::ALL {
        if let Some(len) = packed_bytes(format, rows, cols) {
            report(pool, &Matrices::new(format, rows, cols, MEMORY / len), limits);
        }
    }
    for format in Format::ALL {
        if packed_bytes(format, rows, cols).is_none() {
            heading(|rows| instructions_of_plain(pool, format, rows));
            plain(pool, format, rows, cols, limits);
        }
    }
}

/// A format whose weights stay as they are in the file.
fn plain(pool: &Pool, format: Format, rows: usize, cols: usize, limits: &Limits) {
    // Small numbers in every format; not zeros, which the system would not back with memory of their own.
    let len = rows * format.row_bytes(cols).unwrap_or(0);
    let bytes = vec![1; MEMORY / len * len];
    print!("{:6} {rows:6} x {cols:4}:", format.name());
    for column in COLUMNS {
        let tokens = column.total();
        let (x, mut y) = (vec![1.0; tokens * cols], vec![0.0; tokens * rows]);
        let mut slices = bytes.chunks_exact(len).cycle();
        let mut next = || {
            let w = MatrixRef::new(format, rows, cols, slices.next()?);
            w.map(Weight::Plain)
        };
        let (Some(mut input), Some(w)) = (Input::new(tokens, cols), next()) else {
            return;
        };
        input.set(pool, &x, cols, column, w.forms());
        let seconds = best(if tokens > 16 { PROMPT_ROUNDS } else { MEMORY / len }, || {
            run(pool, &input, [(next(), &mut y)], false);
        });
        let operations = 2 * tokens * rows * cols;
        let kind = instructions_of_plain(pool, format, column);
        print!("  {}", limits.speed(kind, len, operations, seconds));
    }
    println!();
}
