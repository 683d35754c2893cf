//! How much of its speed the pool keeps beside programs that keep cores busy: `cargo bench -p hyprstream-kernels
//! --bench fairness -- [seconds]`. Invariant: the work is the same in every row, and rows alternate.
//!
//! The work has the rhythm of decoding: runs of some hundred small pieces, with a little serial work between them.
use hyprstream_kernels::Pool;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const PIECES: usize = 96;
const PIECE_STEPS: u32 = 2500;

fn main() {
    let seconds = std::env::args()
        .filter_map(|a| a.parse().ok())
        .next()
        .unwrap_or(1.0);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let mut rows: Vec<Vec<f64>> = vec![Vec::new(); 4];
    for _ in 0..3 {
        for (busy, row) in rows.iter_mut().enumerate() {
            let hogs: Vec<Child> = (0..busy)
                .filter_map(|_| {
                    Command::new("sh")
                        .args(["-c", "while :; do :; done"])
                        .spawn()
                        .ok()
                })
                .collect();
            std::thread::sleep(Duration::from_millis(200));
            // A new pool, since one remembers for some seconds that others wanted its cores.
            let Ok(pool) = Pool::new(threads) else {
                eprintln!("the system refused {threads} threads");
                std::process::exit(1);
            };
            row.push(runs_per_second(&pool, Duration::from_secs_f64(seconds)));
            for mut hog in hogs {
                let _ = hog.kill();
                let _ = hog.wait();
            }
        }
    }
    let median = |row: &mut Vec<f64>| {
        row.sort_by(f64::total_cmp);
        row[row.len() / 2]
    };
    let quiet = median(&mut rows[0]);
    println!("{threads} threads");
    for (busy, row) in rows.iter_mut().enumerate() {
        let speed = median(row);
        println!(
            "{busy} busy programs: {speed:8.0} runs/s, {:5.1}% of quiet",
            100.0 * speed / quiet
        );
    }
}

fn runs_per_second(pool: &Pool, time: Duration) -> f64 {
    let start = Instant::now();
    let mut runs = 0u32;
    while start.elapsed() < time {
        pool.run(PIECES, &|piece| {
            work(PIECE_STEPS, piece);
        });
        work(PIECE_STEPS / 2, 0);
        runs += 1;
    }
    f64::from(runs) / start.elapsed().as_secs_f64()
}

fn work(steps: u32, piece: usize) {
    let mut x = piece as u64 | 1;
    for _ in 0..steps {
        x = std::hint::black_box(x.wrapping_mul(6364136223846793005).rotate_left(17));
    }
}
